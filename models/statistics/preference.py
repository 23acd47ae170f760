"""Which of two videos people prefer: GSB, win rates, side bias, and strengths of several systems.

Ratios carry intervals by ``resample.estimate``, with the answers grouped by item or prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.statistics.resample import Array, Estimate, estimate, ratio

_STEPS, _CLOSE = 10_000, 1e-12


def gsb(good: Array, same: Array, bad: Array, *, seed: int = 0, draws: int = 1000) -> Estimate:
    """(good - bad) / (good + same + bad) in [-1, 1]; each argument (N,) counts one item's answers.

    "Both bad" is no tie and belongs to none of the three.
    """

    def statistic(weights: Array) -> Array:
        return ratio(weights @ (good - bad), weights @ (good + same + bad))

    answers = good + same + bad
    return estimate(statistic, len(answers), int(answers.sum()), seed=seed, draws=draws)


def sign_test(good: int, bad: int) -> float:
    """Two-sided exact binomial p of as uneven a split of the answers that prefer a side, if neither were better."""
    from scipy.stats import binomtest

    return float(binomtest(good, good + bad).pvalue) if good + bad else 1.0


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float, float] | None:
    """Share with Wilson's interval (JASA 22, 1927): (share, low, high); None without any trial."""
    if n == 0:
        return None
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return p, max(0.0, float(centre - half)), min(1.0, float(centre + half))


@dataclass(frozen=True)
class Strength:
    """One system's log strength (mean over systems 0) with its interval, and its raw record."""

    system: str
    value: float
    low: float | None
    high: float | None
    wins: int
    losses: int
    ties: int


def bradley_terry(wins: Array, *, prior: float = 0.5) -> Array:
    """Log strengths (D, S) with mean 0, from ``wins`` (D, S, S): how often i beat j, ties half to each.

    Minorization-maximization (Hunter, Annals of Statistics 32, 2004). ``prior`` adds that many wins each way to every
    pair that was compared, so that an undefeated system stays finite.
    """
    compared = wins + wins.transpose(0, 2, 1) > 0
    wins = wins + prior * compared
    played = wins + wins.transpose(0, 2, 1)
    won = wins.sum(2)
    p = np.ones(won.shape)
    for _ in range(_STEPS):
        denominator = (played / (p[:, :, None] + p[:, None, :])).sum(2)
        new = np.divide(won, denominator, out=p.copy(), where=denominator > 0)
        with np.errstate(divide="ignore"):
            new = new / np.exp(np.log(new).mean(1, keepdims=True))
        done = bool(np.max(np.abs(new - p) / p) < _CLOSE)
        p = new
        if done:
            break
    strengths: Array = np.log(p)
    return strengths


def rank_systems(
    systems: list[str], first: Array, second: Array, outcome: Array, items: Array, *, seed: int = 0, draws: int = 300
) -> list[Strength]:
    """Strengths of the systems, strongest first.

    Answer i compares ``systems[first[i]]`` with ``systems[second[i]]`` (int); ``outcome[i]`` is 1 when the first won, 0 when
    the second did, 0.5 for a tie; ``items[i]`` (int from 0) is what was judged, drawn again as a whole for the
    intervals. Raises ``ValueError`` when the comparisons fall into parts that never met: no scale joins them.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(systems)
    a, b, group = (np.asarray(x, np.int64) for x in (first, second, items))
    outcome = np.asarray(outcome, np.float64)
    met = coo_array((np.ones(len(a)), (a, b)), shape=(count, count))
    if count < 2 or connected_components(met, directed=False)[0] > 1:
        raise ValueError("these systems were not all compared with each other, directly or through others")
    n = int(group.max()) + 1
    cells = np.zeros((n, count * count))
    np.add.at(cells, (group, a * count + b), outcome)
    np.add.at(cells, (group, b * count + a), 1 - outcome)
    whole = bradley_terry(cells.sum(0).reshape(1, count, count))[0]
    low = high = np.full(count, np.nan)
    if n > 1:
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
        drawn = bradley_terry((weights @ cells).reshape(-1, count, count))
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)

    def record(index: int) -> tuple[int, int, int]:
        mine = np.concatenate([outcome[a == index], 1 - outcome[b == index]])
        return int((mine == 1).sum()), int((mine == 0).sum()), int((mine == 0.5).sum())

    def end(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    order = np.argsort(-whole, kind="stable")
    return [Strength(systems[i], float(whole[i]), end(low[i]), end(high[i]), *record(i)) for i in order]
