"""Does one system differ from another on the same prompts? The prompt is the unit: its videos are not independent."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from models.statistics.resample import Array

EXACT = 14  # prompts up to which all sign patterns are gone through
DRAWS = 9999
_CHUNK = 1000


def sign_flip_test(differences: Array, *, seed: int = 0) -> float:
    """Two-sided p of a mean at least as far from 0 if the sign of each difference (N,) were a coin's; 1.0 for none.

    Source: Fisher's randomization test for matched pairs (The Design of Experiments, 1935). Exact for up to 14 differences,
    otherwise by 9,999 draws, the observed pattern counted among them (Phipson and Smyth, 2010). The least p that n prompts can
    show is 2 / 2^n: five prompts cannot reach 0.05.
    """
    found = np.asarray(differences, np.float64)
    if not len(found):
        return 1.0
    observed = abs(found.sum()) * (1 - 1e-12)  # a pattern that ties with the observed one counts, whatever the rounding
    if len(found) <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(found))))
        return float((np.abs(signs @ found) >= observed).mean())
    rng = np.random.default_rng(seed)
    beyond, left = 1, DRAWS
    while left:
        some = min(_CHUNK, left)
        signs = rng.integers(0, 2, (some, len(found))) * 2.0 - 1.0
        beyond += int((np.abs(signs @ found) >= observed).sum())
        left -= some
    return beyond / (DRAWS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted
