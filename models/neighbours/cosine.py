"""Nearest unit vectors by cosine among millions: exact where they are few, by inverted lists with exact re-ranking where not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

EXACT = 50_000  # vectors up to which every one is compared with every other
_BLOCK = 4096  # vectors that are compared among themselves at once
_PROBES = 24  # lists searched for each query
_TRAIN_PER_LIST = 40
_SEED = 1234


class CosineIndex:
    """k nearest of the vectors added, by cosine. ``size``: how many there will be; ``sample``: some of them to train on.

    Many vectors are held as fp16 in inverted lists (Jegou et al., PAMI 2011, without the product quantiser: an embedding of 512
    numbers is 1 KiB); what is found is ranked again by the fp32 vectors. Equal cosines are ordered by number. The result does
    not depend on the number of threads: training uses one.
    """

    def __init__(self, dimension: int, size: int, sample: np.ndarray, probes: int = _PROBES) -> None:
        import faiss

        self.exact = size <= EXACT
        self.count = 0
        if self.exact:
            self.index: Any = faiss.IndexFlatIP(dimension)
            return
        lists = lists_for(size)
        self._coarse = faiss.IndexFlatIP(dimension)
        self.index = faiss.IndexIVFScalarQuantizer(
            self._coarse, dimension, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        self.index.by_residual = False
        self.index.cp.niter, self.index.cp.seed, self.index.cp.spherical = 8, _SEED, True
        self.index.cp.min_points_per_centroid = 1
        self.index.nprobe = probes
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            self.index.train(np.ascontiguousarray(sample, np.float32))
        finally:
            faiss.omp_set_num_threads(threads)

    def add(self, vectors: np.ndarray) -> None:
        self.index.add(np.ascontiguousarray(vectors, np.float32))
        self.count += len(vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and number of the ``k`` nearest of each query, best first: float32 (Q, k), int64 (Q, k), -1 where there are fewer."""
        found: tuple[np.ndarray, np.ndarray] = self.index.search(np.ascontiguousarray(queries, np.float32), k)
        return found


def lists_for(size: int) -> int:
    """Inverted lists for so many vectors: about the square root, so that finding the lists costs as much as reading a few."""
    return int(np.clip(2 ** round(np.log2(2 * np.sqrt(size))), 64, 16_384))


def sample_of(vectors: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """Rows to train an index for ``size`` vectors on, evenly spread."""
    want = min(len(rows), _TRAIN_PER_LIST * lists_for(size))
    return np.asarray(vectors[rows[np.linspace(0, len(rows) - 1, want).astype(np.int64)]], np.float32)


@dataclass(frozen=True)
class Followers:
    """``member`` int64 (M,) and the ``leader`` int64 (M,) that each is kept for."""

    member: np.ndarray
    leader: np.ndarray
    exact: bool


def leaders(vectors: np.ndarray, rows: np.ndarray, threshold: float) -> Followers:
    """Go through ``rows`` (int64, sorted) of ``vectors`` (float32 (N, D), unit) in order; a row that has an earlier leader within
    ``threshold`` follows the nearest of them, any other becomes a leader.

    Every follower is within the threshold of its own leader and no two leaders (that the index finds) are within it of each other:
    unlike connected components there are no chains in which the ends have nothing in common. One nearest leader is all that is
    asked for, so nothing is cut off however large a group is.
    """
    count, dimension = len(rows), vectors.shape[1]
    index = CosineIndex(dimension, count, sample_of(vectors, rows, count) if count > EXACT else vectors[:0])
    led: list[np.ndarray] = []  # rows that lead, in the order in which the index numbers them
    lead = np.zeros(0, np.int64)
    members: list[np.ndarray] = []
    found: list[np.ndarray] = []
    slack = 0.0 if index.exact else 2e-3  # what fp16 may lose; the exact cosine decides
    for start in range(0, count, _BLOCK):
        mine = rows[start : start + _BLOCK]
        block = np.asarray(vectors[mine], np.float32)
        best, cosine = np.full(len(mine), -1, np.int64), np.full(len(mine), -np.inf, np.float32)
        if index.count:
            lead = np.concatenate([lead, *led])
            led = []
            best, cosine = _rerank(vectors, block, lead, *index.search(block, min(4, index.count)), threshold, slack)
        inner = _within(block, cosine, threshold)
        best[inner >= 0] = mine[inner[inner >= 0]]
        new = best < 0
        index.add(block[new])
        led.append(mine[new])
        members.append(mine[~new])
        found.append(best[~new])
    return Followers(np.concatenate(members or [rows[:0]]), np.concatenate(found or [rows[:0]]), index.exact)


def _rerank(
    vectors: np.ndarray,
    block: np.ndarray,
    lead: np.ndarray,
    cosine: np.ndarray,
    number: np.ndarray,
    threshold: float,
    slack: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest leader of each row of the block by exact cosine, the earlier of equals, and the cosine; -1 where none is near."""
    best = np.full(len(block), -1, np.int64)
    best_cosine = np.full(len(block), -np.inf, np.float32)
    for column in range(number.shape[1]):
        asked = np.flatnonzero((number[:, column] >= 0) & (cosine[:, column] >= threshold - slack))
        if not len(asked):
            break
        row = lead[number[asked, column]]
        exact = np.einsum("nd,nd->n", block[asked], np.asarray(vectors[row], np.float32))
        better = (exact >= threshold) & (
            (exact > best_cosine[asked]) | ((exact == best_cosine[asked]) & (row < best[asked]))
        )
        best[asked[better]], best_cosine[asked[better]] = row[better], exact[better]
    return best, best_cosine


def _within(block: np.ndarray, known: np.ndarray, threshold: float) -> np.ndarray:
    """The same among the rows of a block, in order: int64 (B,), the place of each row's nearest leader in the block.

    -1 for a leader, and for a row that follows one outside the block at ``known`` (float32 (B,), -inf for none), which is nearer.
    """
    count = len(block)
    best = np.full(count, -1, np.int64)
    follows = np.isfinite(known)
    cosine = block @ block.T
    row, column = np.nonzero(np.tril(cosine >= threshold, k=-1))
    starts = np.searchsorted(row, np.arange(count + 1))
    for place in np.unique(row).tolist():
        earlier = column[starts[place] : starts[place + 1]]
        earlier = earlier[~follows[earlier]]
        if len(earlier):
            nearest = int(earlier[np.argmax(cosine[place, earlier])])
            if cosine[place, nearest] > known[place]:
                best[place] = nearest
            follows[place] = True
    return best
