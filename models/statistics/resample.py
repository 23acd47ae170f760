"""Intervals by drawing items again, with all their answers: answers to one item are not independent of each other.

Source: the cluster bootstrap (Field and Welsh, JRSS B 2007), percentile interval. A statistic takes weights, how often each
item was drawn, so that all draws are a few matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # weights (D, N) -> values (D,), NaN where undefined

DRAWS = 1000
_CHUNK = 4_000_000  # weights held at once
_DEFINED = 0.9  # of the draws that must have a value, or the interval would describe the lucky ones only


@dataclass(frozen=True)
class Estimate:
    """``value`` with the ends of its 95% interval; None where it is undefined. ``items`` and ``answers`` went in."""

    value: float | None
    low: float | None
    high: float | None
    items: int
    answers: int


def estimate(
    statistic: Statistic, items: int, answers: int, *, seed: int = 0, draws: int = DRAWS, level: float = 0.95
) -> Estimate:
    """The statistic of all ``items`` (each weighing 1) and its percentile interval over ``draws`` draws of as many items.

    One item says nothing about others: its interval is None, as it is when one draw in ten has no value.
    """
    if items == 0:
        return Estimate(None, None, None, 0, 0)
    value = float(statistic(np.ones((1, items)))[0])
    if not np.isfinite(value):
        return Estimate(None, None, None, items, answers)
    if items == 1:
        return Estimate(value, None, None, 1, answers)
    rng = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // items)
    parts = []
    for start in range(0, draws, at_once):
        some = min(at_once, draws - start)
        parts.append(statistic(rng.multinomial(items, np.full(items, 1 / items), size=some).astype(np.float64)))
    found = np.concatenate(parts)
    found = found[np.isfinite(found)]
    if len(found) < _DEFINED * draws:
        return Estimate(value, None, None, items, answers)
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(found, [tail, 100.0 - tail])
    return Estimate(value, float(low), float(high), items, answers)


def ratio(part: Array, whole: Array) -> Array:
    """Elementwise part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole != 0)
