"""Totals of many files from a sample of them: strata, a ratio to a known size in each, an interval by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.9
RESAMPLES = 4000
STRATA = 5
UNSEEN = 0.25
_LEAST = 4  # sampled files of a stratum: fewer say next to nothing of its spread


@dataclass(frozen=True)
class Stratum:
    """Files of like size, as rows of the whole set; ``sampled`` are those that are measured."""

    rows: np.ndarray
    sampled: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A total, and what it might have been with other samples of the same kind, float64 (RESAMPLES,)."""

    value: float
    draws: np.ndarray

    @property
    def low(self) -> float:
        return float(np.quantile(self.draws, (1 - LEVEL) / 2))

    @property
    def high(self) -> float:
        return float(np.quantile(self.draws, (1 + LEVEL) / 2))

    def times(self, other: Estimate | float) -> Estimate:
        """The product with a constant, or with an independent estimate."""
        if isinstance(other, Estimate):
            return Estimate(self.value * other.value, self.draws * other.draws)
        return Estimate(self.value * other, self.draws * other)

    def plus(self, other: Estimate) -> Estimate:
        return Estimate(self.value + other.value, self.draws + other.draws)


def constant(value: float) -> Estimate:
    return Estimate(value, np.full(RESAMPLES, value))


def stratify(sizes: np.ndarray, sample: int, seed: int) -> list[Stratum]:
    """Choose ``sample`` of the files (all where there are no more), spread over strata that hold equal sums of ``sizes``.

    A stratum with no more files than it is allotted is measured whole, and what it leaves over goes to the others; so the
    few largest files, which weigh most, are hardly left to chance. The draw depends on seed and sizes only.
    """
    order = np.argsort(sizes, kind="stable")
    if len(sizes) <= sample:
        return [Stratum(order, order)] if len(order) else []
    rng = np.random.default_rng(seed)
    strata = max(1, min(STRATA, sample // _LEAST))
    upto = np.cumsum(sizes[order].astype(float))
    cuts = np.searchsorted(upto, upto[-1] * np.arange(1, strata) / strata, side="left") + 1
    parts = [part for part in np.split(order, np.unique(cuts)) if len(part)]
    found = []
    left = sample
    for number, part in enumerate(reversed(parts)):  # the largest files first: their stratum has the fewest
        allotted = min(len(part), left if number == len(parts) - 1 else max(1, round(left / (len(parts) - number))))
        left -= allotted
        found.append(Stratum(part, np.sort(rng.choice(part, allotted, replace=False))))
    return [stratum for stratum in found if len(stratum.sampled)]


def total(strata: Sequence[Stratum], sizes: np.ndarray, values: np.ndarray, seed: int) -> Estimate:
    """The sum of ``values`` over all files, of which only the sampled ones are known (others may be anything).

    In each stratum values are taken as proportional to ``sizes``, which must be positive (Cochran, Sampling Techniques,
    chapter 6: the separate ratio estimator). The spread is a Bayesian bootstrap within strata (Rubin, 1981), to which each
    stratum adds ``UNSEEN`` of a file that has nothing and as much of one that has twice its share: a sample in which all
    went well does not prove that all will. Each spread is widened by n / (n - 1), since a few files underrate it, and narrowed
    by 1 - n / N, since what was measured is known. Where files differ from their sizes by a factor of e either way, the 90%
    interval of 20 files holds the truth about four times in five: the rare huge file is the one a sample does not see.
    """
    rng = np.random.default_rng(seed)
    value = 0.0
    draws = np.zeros(RESAMPLES)
    for stratum in strata:
        n, whole = len(stratum.sampled), len(stratum.rows)
        weight = float(sizes[stratum.rows].sum())
        x, w = values[stratum.sampled].astype(float), sizes[stratum.sampled].astype(float)
        here = weight * x.sum() / w.sum()
        value += here
        draws += here
        if n < whole:
            odd_x, odd_w = np.array([0.0, 2.0 * x.mean()]), np.full(2, w.mean())
            shares = rng.standard_gamma(np.r_[np.ones(n), np.full(2, UNSEEN)], size=(RESAMPLES, n + 2))
            again = weight * (shares @ np.r_[x, odd_x]) / (shares @ np.r_[w, odd_w])
            draws += (again - here) * np.sqrt(n / max(1, n - 1) * (1 - n / whole))
    return Estimate(value, np.maximum(draws, 0.0))
