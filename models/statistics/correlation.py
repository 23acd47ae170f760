"""Does one number order things as another does? Rank correlation with intervals by cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.statistics.resample import Array, Estimate

DRAWS = 500
_DEFINED = 0.9  # of the draws that must have a value, or the interval would describe the lucky ones only


def spearman(x: Array, y: Array, clusters: Sequence[str], *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Spearman's rank correlation of x (N,) with y (N,), ties at their mean rank, with a 95% percentile interval.

    ``clusters[i]`` is what i belongs to (its prompt); clusters are drawn again whole. None where a side does not vary, or for
    fewer than three things; no interval for one cluster.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    names = sorted(set(clusters))
    value = _rho(x, y)
    if value is None or len(names) < 2:
        return Estimate(value, None, None, len(names), len(x))
    members = [np.flatnonzero(np.asarray(clusters) == name) for name in names]
    rng = np.random.default_rng(seed)
    found = []
    for pick in rng.integers(0, len(names), (draws, len(names))):
        index = np.concatenate([members[i] for i in pick])
        drawn = _rho(x[index], y[index])
        if drawn is not None:
            found.append(drawn)
    if len(found) < _DEFINED * draws:
        return Estimate(value, None, None, len(names), len(x))
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value, float(low), float(high), len(names), len(x))


def _rho(x: Array, y: Array) -> float | None:
    from scipy.stats import rankdata

    if len(x) < 3:
        return None
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else None
