"""What a reviewer may answer, and what it means once the sides of a pair are undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stages.review.errors import ReviewError

Form = Literal["filter", "real_fake", "consis", "compare", "likert"]
Kind = Literal["filter", "pairwise", "likert"]
Side = Literal["AB", "BA"]  # AB shows the first of `sides` on the left, BA on the right

FILTER_CHOICES = ("accept", "reject", "skip")
PAIR_CHOICES = ("left", "same", "right", "both_bad", "broken", "skip")
LIKERT_CHOICES = ("rate", "skip")
LOWEST, HIGHEST = 1, 5  # of a Likert scale
OVERALL = "overall"  # the dimension by which a Likert item's answers are aggregated


@dataclass(frozen=True)
class Answer:
    """One answer as the reviewer saw the page.

    ``choice`` is one of ``FILTER_CHOICES``, ``PAIR_CHOICES`` or ``LIKERT_CHOICES``. ``rest_same`` answers the second
    question of a Consis pair, asked once a side has been preferred; ``scores`` maps each dimension of a Likert rubric to
    1..5. ``key`` makes a repeated submit the same submit.
    """

    item_id: str
    key: str
    choice: str
    reasons: tuple[str, ...] = ()
    rest_same: bool | None = None
    watched_ms: int | None = None
    scores: Mapping[str, int] = field(default_factory=dict)
    replays: int | None = None


@dataclass(frozen=True)
class Question:
    """What a campaign takes for an answer: the form, its reasons, and the dimensions of a Likert rubric."""

    form: Form
    reasons: Sequence[str] = ()
    skip_reasons: Sequence[str] = ()
    dimensions: Sequence[str] = ()


@dataclass(frozen=True)
class Settled:
    """An answer with its sides undone: the verdict, its reasons, and everything that was said."""

    verdict: str
    reasons: tuple[str, ...]
    values: dict[str, Any]


def kind_of(form: Form) -> Kind:
    return form if form in ("filter", "likert") else "pairwise"


def sides(form: Form) -> tuple[str, str]:
    """What a pair's two videos are called in payloads and verdicts: the intended winner and loser, or plainly a and b."""
    return ("a", "b") if form == "compare" else ("winner", "loser")


def choices(form: Form) -> tuple[str, ...]:
    return {"filter": FILTER_CHOICES, "likert": LIKERT_CHOICES}.get(form, PAIR_CHOICES)


def settle(question: Question, side: Side, answer: Answer) -> Settled:
    """Check the answer against its campaign and undo the sides.

    A broken pair (a video that does not play, or is mere noise) is ``both_bad`` with the reason ``broken``, so that no
    statistic takes it for a preference. Raises ``ReviewError`` when the campaign has no such choice, reason or
    dimension, or the answer lacks a part.
    """
    form = question.form
    if answer.choice not in choices(form):
        raise ReviewError(f"This campaign has no answer {answer.choice!r}; it takes {', '.join(choices(form))}.")
    known = question.skip_reasons if answer.choice == "skip" else question.reasons
    strange = [reason for reason in answer.reasons if reason not in known]
    if strange:
        raise ReviewError(f"This campaign has no reason {', '.join(strange)}; it takes {', '.join(known) or 'none'}.")
    if answer.choice == "skip" and known and not answer.reasons:
        raise ReviewError(f"A skip needs a reason: {', '.join(known)}.")
    if answer.scores and answer.choice != "rate":
        raise ReviewError(f"The answer {answer.choice!r} takes no scores.")
    if form == "filter" or answer.choice == "skip":
        return Settled(answer.choice, answer.reasons, {"choice": answer.choice})
    if form == "likert":
        scores = check_scores(question, answer.scores, whole=True)
        return Settled("rate", answer.reasons, {"choice": "rate", "scores": scores})
    if answer.choice == "broken":
        return Settled("both_bad", (*answer.reasons, "broken"), {"choice": "both_bad", "broken": True})
    first, second = sides(form)
    verdict = answer.choice
    if answer.choice in ("left", "right"):
        verdict = first if (answer.choice == "left") == (side == "AB") else second
    values: dict[str, Any] = {"choice": verdict}
    if form == "consis" and answer.choice in ("left", "right"):
        if answer.rest_same is None:
            raise ReviewError(
                "A Consis pair asks a second question once a side is preferred: is everything else the same?"
            )
        values["rest_same"] = answer.rest_same
    return Settled(verdict, answer.reasons, values)


def check_scores(question: Question, scores: Mapping[str, int], *, whole: bool) -> dict[str, int]:
    """The scores in the rubric's order. Raises ``ReviewError`` for strange ones and, when ``whole``, for missing ones."""
    strange = [name for name in scores if name not in question.dimensions]
    outside = [name for name, score in scores.items() if not LOWEST <= score <= HIGHEST]
    missing = [name for name in question.dimensions if name not in scores] if whole else []
    if strange or outside or missing:
        parts = [("unknown", strange), (f"not {LOWEST} to {HIGHEST}", outside), ("missing", missing)]
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
        raise ReviewError(f"This campaign rates {', '.join(question.dimensions) or 'nothing'}. {said}.")
    return {name: scores[name] for name in question.dimensions if name in scores}


def as_seen(form: Form, side: Side, verdict: str, values: Mapping[str, Any]) -> str:
    """The choice as the person saw it, with left and right back in place; the inverse of ``settle``."""
    if values.get("broken"):
        return "broken"
    if kind_of(form) == "pairwise" and verdict in sides(form):
        return "left" if (verdict == sides(form)[0]) == (side == "AB") else "right"
    return verdict


def conclusion(form: Form, verdict: str, values: Mapping[str, Any]) -> str:
    """What one answer concludes: what aggregation compares.

    A Consis pair in which the winner wins but something beside the subject changed is ``rest_differs``: it would teach
    the model that other change. A rating concludes its overall score.
    """
    if form == "consis" and verdict == "winner" and not values.get("rest_same", False):
        return "rest_differs"
    if form == "likert" and verdict == "rate":
        return str(values["scores"][OVERALL])
    return verdict


def trains(form: Form, verdict: str) -> bool:
    """Whether a pair with this aggregated verdict may train. A pair is never flipped.

    Consis pairs train when the winner won and the rest is the same; Real-Fake pairs when the real clip wins or ties
    and neither is broken (a broken pair is ``both_bad``).
    """
    return verdict == "winner" or (form == "real_fake" and verdict == "same")
