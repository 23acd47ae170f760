"""How far people agree beyond chance, from the counts of answers per item and category.

Every function takes ``counts`` (N, K), how often item i was put into category k, and ``weights`` (D, N), how often each item
was drawn (ones for the plain value), and returns (D,); NaN where the measure is undefined. Items with fewer than two
answers say nothing about agreement and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from models.statistics.resample import Array, Estimate, estimate, ratio

Scale = Literal["nominal", "ordinal"]


def counts_of(items: Sequence[int], categories: Sequence[int], shape: tuple[int, int]) -> Array:
    """Counts (N, K) of answers given as pairs of item and category numbers."""
    counts = np.zeros(shape)
    np.add.at(counts, (np.asarray(items, np.int64), np.asarray(categories, np.int64)), 1)
    return counts


def _item_agreement(counts: Array) -> tuple[Array, Array]:
    """Per item the share of pairs of answers that agree (N,), and whether it has a pair at all, 0 or 1 (N,)."""
    n = counts.sum(1)
    agree = (counts * (counts - 1)).sum(1)
    pairs = n * (n - 1)
    return np.divide(agree, pairs, out=np.zeros_like(agree), where=pairs > 0), (pairs > 0).astype(np.float64)


def raw_agreement(counts: Array, weights: Array) -> Array:
    """Mean over items of the share of pairs of answers that agree."""
    agree, paired = _item_agreement(counts)
    return ratio(weights @ (agree * paired), weights @ paired)


def fleiss_kappa(counts: Array, weights: Array) -> Array:
    """Fleiss, Psychological Bulletin 76 (1971). Every item must have the same number of answers, at least two.

    Raises ``ValueError`` otherwise.
    """
    n = counts.sum(1)
    if len(n) and (n.min() != n.max() or n[0] < 2):
        raise ValueError(
            "Fleiss' kappa needs the same number of answers, two or more, on every item; use Krippendorff's alpha"
        )
    observed = raw_agreement(counts, weights)
    share = _shares(weights @ counts)
    expected = (share**2).sum(1)
    return ratio(observed - expected, 1 - expected)


def gwet_ac1(counts: Array, weights: Array) -> Array:
    """Gwet, British Journal of Mathematical and Statistical Psychology 61 (2008): steady where nearly all answers are alike.

    Items with one answer take part in the categories' shares, as in Gwet's own treatment of missing answers. K is the
    number of columns of ``counts``: all categories that people could choose.
    """
    n = counts.sum(1)
    given = n > 0
    share_i = np.divide(counts, n[:, None], out=np.zeros_like(counts), where=given[:, None])
    share = ratio(weights @ share_i, (weights @ given.astype(np.float64))[:, None])
    k = counts.shape[1]
    if k < 2:
        return np.full(len(weights), np.nan)
    expected = (share * (1 - share)).sum(1) / (k - 1)
    return ratio(raw_agreement(counts, weights) - expected, 1 - expected)


def krippendorff_alpha(counts: Array, weights: Array, scale: Scale = "nominal") -> Array:
    """Krippendorff, Content Analysis (2004), chapter 11: any number of answers per item. Categories in ascending order."""
    n = counts.sum(1)
    paired = n >= 2
    counts, weights = counts[paired], weights[:, paired]
    per_answer = np.divide(1.0, n[paired] - 1)
    k = counts.shape[1]
    # o[c, d] = sum over items of n_c (n_d - [c = d]) / (n - 1)
    products = counts[:, :, None] * counts[:, None, :] - np.eye(k) * counts[:, :, None]
    coincidence = (weights @ (products * per_answer[:, None, None]).reshape(len(counts), k * k)).reshape(-1, k, k)
    total = coincidence.sum(2)  # (D, K) answers per category
    answers = total.sum(1)
    distance = _distances(total, scale)  # (D, K, K)
    observed = (coincidence * distance).sum((1, 2)) * (answers - 1)
    expected = (total[:, :, None] * total[:, None, :] * distance).sum((1, 2))
    return 1 - ratio(observed, expected)


def _distances(total: Array, scale: Scale) -> Array:
    k = total.shape[1]
    if scale == "nominal":
        return np.broadcast_to(1 - np.eye(k), (len(total), k, k))
    # ordinal: the answers that lie between two categories, each end counted half
    middle = np.cumsum(total, 1) - total / 2
    return (middle[:, :, None] - middle[:, None, :]) ** 2


def cohen_kappa(first: Sequence[int], second: Sequence[int], categories: int, weights: Array) -> Array:
    """Cohen, Educational and Psychological Measurement 20 (1960), of two people on the items that both answered.

    ``first[i]`` and ``second[i]`` are their category numbers on item i; ``weights`` (D, N).
    """
    a, b = np.asarray(first, np.int64), np.asarray(second, np.int64)
    cells = np.zeros((len(a), categories * categories))
    cells[np.arange(len(a)), a * categories + b] = 1
    table = (weights @ cells).reshape(-1, categories, categories)
    table = ratio(table, table.sum((1, 2))[:, None, None])
    observed = np.trace(table, axis1=1, axis2=2)
    expected = (table.sum(1) * table.sum(2)).sum(1)
    return ratio(observed - expected, 1 - expected)


def _shares(totals: Array) -> Array:
    return ratio(totals, totals.sum(1, keepdims=True))


def measure(
    name: Literal["raw", "fleiss", "krippendorff", "gwet_ac1"],
    counts: Array,
    scale: Scale = "nominal",
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Estimate:
    """One measure with its interval, on the items it can use: two answers or more; for Fleiss, as many as most items have."""
    n = counts.sum(1)
    used = counts[n >= 2]
    if name == "fleiss" and len(used):
        values, times = np.unique(used.sum(1), return_counts=True)
        used = used[used.sum(1) == values[np.argmax(times)]]
    functions = {
        "raw": raw_agreement,
        "fleiss": fleiss_kappa,
        "gwet_ac1": gwet_ac1,
        "krippendorff": lambda c, w: krippendorff_alpha(c, w, scale),
    }
    return estimate(lambda w: functions[name](used, w), len(used), int(used.sum()), seed=seed, draws=draws)
