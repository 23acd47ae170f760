"""Which merge to take: the Pareto front of measured points, and the best on it by stated weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Values = Mapping[str, float | None]  # by metric; None where nothing could be measured


@dataclass(frozen=True)
class Choice:
    """``front``: indexes of the points that no other beats in every objective; ``scores``: 0..1 by point, None for points
    that cannot be compared or break a limit; ``winner``: the index of the best score.
    """

    front: tuple[int, ...]
    scores: tuple[float | None, ...]
    winner: int


def choose(
    points: Sequence[Values],
    objective: Mapping[str, float],
    better: Mapping[str, str],
    limits: Mapping[str, float] | None = None,
) -> Choice:
    """The point with the best weighted mean of its objectives, each scaled from the worst point (0) to the best (1).

    ``better`` says ``higher`` or ``lower`` for each metric; ``limits`` are the worst values that may be taken. Points that
    lack a value of an objective or a limit are left out, and so are those beyond a limit. A weighted mean with positive
    weights is highest on the front, so the winner lies there; of equal ones the first wins. ValueError when a weight is not
    positive, a metric has no better side, or no point is left.
    """
    limits = limits or {}
    if not objective or min(objective.values()) <= 0:
        raise ValueError(f"the objective needs metrics with weights above 0, not {dict(objective)}")
    for metric in {*objective, *limits}:
        if better.get(metric) not in ("higher", "lower"):
            raise ValueError(f"{metric} has no better side, so it cannot choose; metrics that do: {_sided(better)}")
    oriented = [
        {m: (v if better[m] == "higher" else -v) for m, v in point.items() if v is not None and m in better}
        for point in points
    ]
    whole = [i for i, point in enumerate(oriented) if all(m in point for m in (*objective, *limits))]
    if not whole:
        raise ValueError("no point has a value of every objective and limit; look at the metrics' coverage")
    kept = [i for i in whole if all(oriented[i][m] >= _side(better[m]) * bound for m, bound in limits.items())]
    if not kept:
        raise ValueError(f"no point keeps the limits {dict(limits)}; loosen them, or sweep other weights")
    front = tuple(
        i for i in kept if not any(_dominates(oriented[j], oriented[i], tuple(objective)) for j in kept if j != i)
    )
    span = {m: (min(oriented[i][m] for i in kept), max(oriented[i][m] for i in kept)) for m in objective}
    total = sum(objective.values())

    def score(index: int) -> float:
        parts = 0.0
        for metric, weight in objective.items():
            low, high = span[metric]
            parts += weight * ((oriented[index][metric] - low) / (high - low) if high > low else 1.0)
        return parts / total

    scores = tuple(score(i) if i in set(kept) else None for i in range(len(points)))
    winner = max(front, key=lambda i: (scores[i] or 0.0, -i))
    return Choice(front, scores, winner)


def _dominates(one: Mapping[str, float], other: Mapping[str, float], metrics: Sequence[str]) -> bool:
    return all(one[m] >= other[m] for m in metrics) and any(one[m] > other[m] for m in metrics)


def _side(better: str) -> float:
    return 1.0 if better == "higher" else -1.0


def _sided(better: Mapping[str, str]) -> str:
    return ", ".join(sorted(m for m, side in better.items() if side in ("higher", "lower")))
