"""What a reviewer may answer, and what it means once the sides of a pair are undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stages.review.errors import ReviewError

Form = Literal["filter", "real_fake", "consis"]
Side = Literal["AB", "BA"]  # AB shows the intended winner on the left, BA on the right

FILTER_CHOICES = ("accept", "reject", "skip")
PAIR_CHOICES = ("left", "same", "right", "both_bad", "broken", "skip")


@dataclass(frozen=True)
class Answer:
    """One answer as the reviewer saw the page.

    ``choice`` is one of ``FILTER_CHOICES`` or ``PAIR_CHOICES``. ``rest_same`` answers the second question of a Consis
    pair, asked once a side has been preferred. ``key`` makes a repeated submit the same submit.
    """

    item_id: str
    key: str
    choice: str
    reasons: tuple[str, ...] = ()
    rest_same: bool | None = None
    watched_ms: int | None = None


@dataclass(frozen=True)
class Settled:
    """An answer in terms of winner and loser: the verdict, its reasons, and everything that was said."""

    verdict: str
    reasons: tuple[str, ...]
    values: dict[str, Any]


def settle(form: Form, side: Side, answer: Answer, allowed: Sequence[str], skip_allowed: Sequence[str]) -> Settled:
    """Check the answer against its campaign and undo the sides.

    A broken pair (a video that does not play, or is mere noise) is ``both_bad`` with the reason ``broken``, so that no
    statistic takes it for a preference. Raises ``ReviewError`` when the campaign has no such choice or reason.
    """
    choices = FILTER_CHOICES if form == "filter" else PAIR_CHOICES
    if answer.choice not in choices:
        raise ReviewError(f"This campaign has no answer {answer.choice!r}; it takes {', '.join(choices)}.")
    known = skip_allowed if answer.choice == "skip" else allowed
    strange = [reason for reason in answer.reasons if reason not in known]
    if strange:
        raise ReviewError(f"This campaign has no reason {', '.join(strange)}; it takes {', '.join(known) or 'none'}.")
    if form == "filter" or answer.choice == "skip":
        return Settled(answer.choice, answer.reasons, {"choice": answer.choice})
    if answer.choice == "broken":
        return Settled("both_bad", (*answer.reasons, "broken"), {"choice": "both_bad", "broken": True})
    verdict = answer.choice
    if answer.choice in ("left", "right"):
        verdict = "winner" if (answer.choice == "left") == (side == "AB") else "loser"
    values: dict[str, Any] = {"choice": verdict}
    if form == "consis" and answer.choice in ("left", "right"):
        if answer.rest_same is None:
            raise ReviewError(
                "A Consis pair asks a second question once a side is preferred: is everything else the same?"
            )
        values["rest_same"] = answer.rest_same
    return Settled(verdict, answer.reasons, values)


def conclusion(form: Form, verdict: str, values: dict[str, Any]) -> str:
    """What one answer concludes for training.

    A Consis pair in which the winner wins but something beside the subject changed is ``rest_differs``: it would teach
    the model that other change.
    """
    if form == "consis" and verdict == "winner" and not values.get("rest_same", False):
        return "rest_differs"
    return verdict


def trains(form: Form, verdict: str) -> bool:
    """Whether a pair with this aggregated verdict may train. A pair is never flipped.

    Consis pairs train when the winner won and the rest is the same; Real-Fake pairs when the real clip wins or ties
    and neither is broken (a broken pair is ``both_bad``).
    """
    return verdict == "winner" or (form == "real_fake" and verdict == "same")
