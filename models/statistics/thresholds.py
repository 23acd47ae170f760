"""What a threshold on a score would have kept, judged by people's answers.

Clips that a rule rejected are reviewed as a sample: each counts 1 / (probability of being drawn), as in Horvitz and
Thompson (JASA 47, 1952), so that the few that were seen stand for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.statistics.resample import Array, Estimate, estimate, ratio

ENOUGH = 20  # judged clips that must pass a threshold before it is suggested


@dataclass(frozen=True)
class Judged:
    """Clips that people judged: score (N,), whether accepted (N,) bool, 1 / inclusion probability (N,).

    ``direction`` 1 means that a score at or above the threshold passes, -1 at or below. Scores are finite.
    """

    scores: Array
    accepted: Array
    weight: Array
    direction: int = 1

    def passes(self, threshold: float) -> Array:
        return (self.scores * self.direction >= threshold * self.direction).astype(np.float64)


@dataclass(frozen=True)
class Point:
    """Precision (share of the passing clips that people accept) and recall (share of the acceptable clips that pass).

    Recall is None, unknown, when no clip that the rule rejected was judged; so is precision beyond the present
    threshold, where only rejected clips could tell.
    """

    threshold: float
    precision: float | None
    recall: float | None
    kept: float
    """Clips that would pass, those that were not drawn counted by their weight."""
    judged: int
    """Judged clips among them."""


def curve(judged: Judged, present: float, rejected_drawn: bool, points: int = 50) -> list[Point]:
    """Precision and recall at up to ``points`` thresholds, from the strictest to the loosest, with ``present`` among them."""
    levels = np.unique(judged.scores)
    if len(levels) > points:
        levels = np.unique(np.quantile(judged.scores, np.linspace(0, 1, points), method="nearest"))
    levels = np.unique(np.append(levels, present))[:: -judged.direction]
    return [point(judged, float(level), present, rejected_drawn) for level in levels]


def point(judged: Judged, threshold: float, present: float, rejected_drawn: bool) -> Point:
    """Precision and recall at one threshold."""
    passes = judged.passes(threshold) * judged.weight
    kept, right = float(passes.sum()), float((passes * judged.accepted).sum())
    good = float((judged.weight * judged.accepted).sum())
    looser = threshold * judged.direction < present * judged.direction
    precision = right / kept if kept and (rejected_drawn or not looser) else None
    recall = right / good if good and rejected_drawn else None
    return Point(threshold, precision, recall, kept, int((passes > 0).sum()))


def with_interval(judged: Judged, threshold: float, what: str, *, seed: int = 0, draws: int = 1000) -> Estimate:
    """``precision`` or ``recall`` at a threshold with its interval, clips drawn again."""
    passes, good = judged.passes(threshold) * judged.weight, judged.weight * judged.accepted
    right = passes * judged.accepted
    whole = passes if what == "precision" else good
    n = len(judged.scores)
    return estimate(lambda w: ratio(w @ right, w @ whole), n, n, seed=seed, draws=draws)


def suggest(points: list[Point], precision: float) -> Point | None:
    """The point that keeps the most acceptable clips while ``precision`` holds on at least ``ENOUGH`` judged clips; None
    when none is known to.

    Where recall is unknown the most clips kept decide: among points of known precision more passing means more good.
    """
    known = [one for one in points if one.precision is not None and one.judged >= ENOUGH]
    holding = [one for one in known if one.precision is not None and one.precision >= precision]
    return max(holding, key=lambda one: (one.recall or 0.0, one.kept), default=None)
