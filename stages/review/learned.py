"""What people's answers say of the rules that selected the clips: where a rule is wrong, and which threshold would be right.

A rule is judged on the survivors and on the clips that it rejected first; what other rules rejected would stay out wherever
this one's threshold lay. Rejected clips are a drawn sample, weighted by 1 / (probability of being drawn).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from models.statistics.resample import Estimate
from models.statistics.thresholds import Judged, Point, curve, point, suggest, with_interval
from stages.curation.rules import Bound, CompiledRule, Rule, compile_rules, told
from stages.review.disagreements import vote
from stages.review.labels import Labels
from stages.review.quality import Share, share_of
from stages.review.sampling import KEPT
from stages.review.verdicts import aggregate

WANTED_PRECISION = 0.9


@dataclass(frozen=True)
class Line:
    """One threshold of a rule: how it does, and where it had better lie. None is unknown."""

    column: str
    side: str
    present: float
    clips: int
    precision: Estimate | None
    recall: Estimate | None
    suggested: float | None
    suggested_precision: Estimate | None
    suggested_recall: Estimate | None
    curve: tuple[Point, ...]
    note: str


@dataclass(frozen=True)
class RuleFinding:
    """What people say of the clips that one rule rejected: ``accepted`` is their share that people would keep."""

    rule: str
    told: str
    judged: int
    stands_for: float
    accepted: Share | None
    lines: tuple[Line, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Clip:
    clip_id: str
    stratum: str
    accepted: bool
    weight: float


def learn(
    labels: Labels, clips: pads.Dataset, rules: Sequence[Rule], precision: float = WANTED_PRECISION
) -> list[RuleFinding]:
    """One finding per rule, the rule that people contradict most first, rules whose rejects nobody saw last.

    ``labels`` are of a filter campaign; ``clips`` the table that the rules were applied to.
    """
    judged = _judged(labels)
    wanted = pc.field("clip_id").isin(pa.array([one.clip_id for one in judged], pa.string()))
    found = []
    for rule in compile_rules(rules, clips):
        mine = [one for one in judged if one.stratum == rule.rule.name]
        seen = share_of([one.accepted for one in mine])
        lines = tuple(_line(bound, rule, judged, clips, wanted, precision) for bound in rule.bounds)
        weight = sum(one.weight for one in mine)
        found.append(RuleFinding(rule.rule.name, told(rule.rule), len(mine), weight, seen, lines))
    return sorted(found, key=lambda one: (one.accepted is None, -(one.accepted.low if one.accepted else 0.0), one.rule))


def _judged(labels: Labels) -> list[_Clip]:
    """Clips that people decided on. Those without a verdict are taken to be like the others of their stratum."""
    said = {}
    for name, answers in labels.by_item.items():
        verdict = aggregate(map(vote, answers), labels.campaign.spec).verdict
        if verdict in ("accept", "reject"):
            said[name] = verdict == "accept"
    drawn = Counter(one.stratum for one in labels.things.values())
    answered = Counter(labels.things[name].stratum for name in said)
    return [
        _Clip(
            thing.external_id,
            thing.stratum,
            said[name],
            drawn[thing.stratum] / answered[thing.stratum] / thing.inclusion_probability,
        )
        for name, thing in labels.things.items()
        if name in said
    ]


def _line(
    bound: Bound, rule: CompiledRule, judged: Sequence[_Clip], clips: pads.Dataset, wanted: pc.Expression, precision: float
) -> Line:  # fmt: skip
    table = clips.to_table(columns=["clip_id", bound.column], filter=wanted)
    scores = dict(zip(table.column("clip_id").to_pylist(), table.column(bound.column).to_pylist(), strict=True))
    used, missing = [], 0
    for one in judged:
        if one.stratum in (KEPT, rule.rule.name):
            score = scores.get(one.clip_id)
            if score is None or not np.isfinite(score):
                missing += 1
            else:
                used.append((float(score), one))
    data = Judged(
        np.array([score for score, _ in used]),
        np.array([one.accepted for _, one in used], dtype=np.float64),
        np.array([one.weight for _, one in used]),
        1 if bound.side == "lower" else -1,
    )
    drawn = any(one.stratum == rule.rule.name for _, one in used)
    points = curve(data, bound.value, drawn) if used else []
    best = suggest(points, precision)
    now = point(data, bound.value, bound.value, drawn) if used else None
    notes = [] if drawn else ["no clip that this rule rejected was judged: recall is unknown"]
    notes += [f"{missing} clips without this score left out"] if missing else []
    if best is None:
        notes.append(f"no threshold is known to hold a precision of {precision:g}")

    def interval(at: Point | None, what: str) -> Estimate | None:
        known = at is not None and getattr(at, what) is not None
        return with_interval(data, at.threshold, what) if at is not None and known else None

    return Line(
        bound.column,
        bound.side,
        bound.value,
        len(used),
        interval(now, "precision"),
        interval(now, "recall"),
        best.threshold if best else None,
        interval(best, "precision"),
        interval(best, "recall"),
        tuple(points),
        "; ".join(notes),
    )
