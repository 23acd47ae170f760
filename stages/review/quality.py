"""How carefully each person answers: numbers and flags for a lead to judge, never a verdict on anybody.

A flag is raised only where chance is an unlikely reason, and says what was seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from models.statistics.preference import wilson
from stages.review.labels import Label, Labels
from stages.review.people import Person

ENOUGH = 20  # answers below which nobody's sides, skips and runs are judged: chance alone makes some of a few look odd
ENOUGH_GOLD = 5
GOLD_WANTED = 0.8
# Nobody judges a clip of which less than half was on show; clips longer than 4 s may be clear sooner.
LONGEST_NEEDED_S, USUAL_S = 4.0, 2.0
MANY_FAST = 0.5
SKIPS_TOLERATED = 0.1
UNLIKELY = 0.001  # of a run as long as the longest, were answers independent


@dataclass(frozen=True)
class Share:
    """``n`` trials, the share of them, and Wilson's interval of it."""

    n: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Flag:
    """One thing for a lead to look at."""

    kind: str
    text: str


@dataclass(frozen=True)
class Report:
    """One person's work in a campaign."""

    person: Person
    answers: int
    extra: int
    skips: int
    median_s: float | None
    last_at: float
    gold: Share | None
    left: Share | None
    fast: Share | None
    top_answer: tuple[str, float] | None
    flags: tuple[Flag, ...]


def reports(labels: Labels) -> list[Report]:
    """Everybody who answered on this campaign's page, by name."""
    return [_report(who, mine, labels) for who, mine in labels.by_person.items()]


def _report(who: Person, mine: Sequence[Label], labels: Labels) -> Report:
    others = [one for one in labels.answers if one.person != who and not one.carried]
    said = [one for one in mine if one.verdict != "skip"]
    gold = share_of([one.right for one in mine if one.right is not None])
    left = share_of([one.seen == "left" for one in said if one.seen in ("left", "right")])
    fast = share_of([one.watched_ms / 1000 < _needed(one) for one in mine if one.watched_ms is not None])
    top = Counter(_signature(one) for one in said).most_common(1)
    watched = [one.watched_ms / 1000 for one in mine if one.watched_ms is not None]
    return Report(
        who,
        len(mine),
        sum(one.standing == "extra" for one in mine),
        len(mine) - len(said),
        median(watched) if watched else None,
        max(one.submitted_at for one in mine),
        gold,
        left,
        fast,
        (top[0][0], top[0][1] / len(said)) if top else None,
        tuple(_flags(gold, left, fast, mine, said, others)),
    )


def _flags(
    gold: Share | None,
    left: Share | None,
    fast: Share | None,
    mine: Sequence[Label],
    said: Sequence[Label],
    others: Sequence[Label],
) -> list[Flag]:
    found = []
    if gold and gold.n >= ENOUGH_GOLD and gold.high < GOLD_WANTED:
        found.append(Flag("gold", f"{round(gold.share * gold.n)} of {gold.n} known answers met"))
    if left and left.n >= ENOUGH and not left.low <= 0.5 <= left.high:
        found.append(
            Flag("side", f"prefers the left in {left.share:.0%} of {left.n} choices; sides are shown at random")
        )
    # Careful people are hardly ever so fast: a few answers tell, so the interval alone decides.
    if fast and fast.low > MANY_FAST:
        found.append(Flag("fast", f"{fast.share:.0%} of {fast.n} answers came before half of the clip had played"))
    skips = share_of([one.verdict == "skip" for one in mine])
    usual = sum(one.verdict == "skip" for one in others) / len(others) if others else 0.0
    if skips and skips.n >= ENOUGH and skips.low > max(SKIPS_TOLERATED, 2 * usual):
        found.append(Flag("skips", f"skips {skips.share:.0%} of {skips.n}; the others {usual:.0%}"))
    straight = longest_run(said)
    if straight and len(said) >= ENOUGH:
        answer, length = straight
        # What everybody else says shows how common the answer is; alone, a person is their own measure.
        pool = [_signature(one) for one in others if one.verdict != "skip"] or [_signature(one) for one in said]
        share = (pool.count(answer) + 1) / (len(pool) + 2)
        # At most n places where a run of this length can begin (union bound).
        if len(said) * share**length < UNLIKELY:
            found.append(Flag("straight", f"{length} times {answer} in a row; the usual share is {share:.0%}"))
    return found


def longest_run(said: Sequence[Label]) -> tuple[str, int] | None:
    """The answer most often given in a row, and how often."""
    runs = ((answer, len(list(run))) for answer, run in groupby(_signature(one) for one in said))
    return max(runs, key=lambda run: run[1], default=None)


def _signature(one: Label) -> str:
    """An answer as the hand gave it: the same key, or the same row of scores."""
    return " ".join(map(str, one.values["scores"].values())) if one.verdict == "rate" else one.seen


def _needed(one: Label) -> float:
    return min(one.thing.duration_s or USUAL_S, LONGEST_NEEDED_S) / 2


def share_of(trials: Sequence[bool | None]) -> Share | None:
    """The share of true ones; None without any."""
    found = wilson(sum(map(bool, trials)), len(trials))
    return None if found is None else Share(len(trials), *found)
