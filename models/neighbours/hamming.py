"""Pairs of clips that share a picture, among millions of them, by the Hamming distance of their picture hashes.

A clip is known by the hashes of a few key frames, each also in the views that a cropped or mirrored copy would have. Two
searches find its candidates: all key frames of one view against all key frames of the other clips (selective, so it may be
wide), and single key frames (for copies that begin or end elsewhere; narrow). Both are k-nearest-neighbour searches, so the
work and the number of candidates grow with the number of clips and not with its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

EXHAUSTIVE = 30_000  # codes up to which every one is compared with every other
_BLOCK = 100_000  # queries at once
_PROBES = 8  # lists searched for each query
_CHANCE = 0.05  # expected neighbours of a clip that only chance made, at the widest radius used: each costs a decode
_LINKS = 4  # clips with equal hashes are each linked to this many before them


@dataclass(frozen=True)
class Reach:
    """How far to look. ``clip_bits``: of 63 for each key frame, the mean that may differ when all are compared; ``frame_bits``
    when one is; ``degree``: the most candidates that one clip may bring."""

    clip_bits: float = 13.0
    frame_bits: int = 14
    degree: int = 16


@dataclass(frozen=True)
class Candidates:
    """``pairs`` int64 (P, 2), smaller row first, sorted, nearest first; ``mirrored`` bool (P,); ``share`` float32 (P,) of bits that
    differ. ``cut``: pairs within reach that were left out because a clip had more than its degree, and one for every search that may
    have had more than it returned."""

    pairs: np.ndarray
    mirrored: np.ndarray
    share: np.ndarray
    cut: int
    clip_radius: int
    frame_radius: int


def candidate_pairs(hashes: np.ndarray, reach: Reach, views: int) -> Candidates:
    """Candidate pairs of rows of ``hashes``: uint64 (N, V, F), V views of F key frames, 0 where there is no hash.

    Views from ``views`` on are those of the mirrored picture. Rows without any hash have no candidates. The result does not
    depend on the order of threads, nor on anything but the rows and their order.
    """
    count, total, frames = hashes.shape
    found: list[np.ndarray] = []
    whole = hashes[:, 0]
    known = np.flatnonzero((whole != 0).any(axis=1))
    bits = 63 * frames
    limit = round(reach.clip_bits * frames)
    clip_radius = chance_radius(whole[known], bits, limit, len(known) * total)
    frame_radius = -1
    cut = 0
    links, rows, codes, lost = _equal(whole[known])
    cut += lost
    found.append(_columns(known[links[:, 0]], known[links[:, 1]], 0.0, False))
    index = _Index(codes, reach.degree)
    owner = known[rows]
    for view in range(total):
        for start in range(0, len(known), _BLOCK):
            asking = known[start : start + _BLOCK]
            # equal codes are linked already
            query, neighbour, distance, full = index.search(hashes[asking, view], clip_radius, int(view == 0))
            cut += full
            found.append(_columns(asking[query], owner[neighbour], distance / bits, view >= views))
    if frames > 1:
        flat = whole.reshape(-1, 1)
        # a clip whose key frames are equal asks once
        fresh = np.ones_like(whole, bool)
        for number in range(1, frames):
            fresh[:, number] = (whole[:, :number] != whole[:, number : number + 1]).all(axis=1)
        some = np.flatnonzero((flat[:, 0] != 0) & fresh.ravel())
        frame_radius = chance_radius(flat[some], 63, reach.frame_bits, len(some))
        links, rows, codes, lost = _equal(flat[some])
        cut += lost
        found.append(_columns(some[links[:, 0]] // frames, some[links[:, 1]] // frames, 0.0, False))
        index = _Index(codes, reach.degree)
        owner = some[rows] // frames
        for start in range(0, len(some), _BLOCK):
            asking = some[start : start + _BLOCK]
            query, neighbour, distance, full = index.search(flat[asking], frame_radius, 1)
            cut += full
            found.append(_columns(asking[query] // frames, owner[neighbour], distance / 63, False))
    pairs, lost = _nearest(np.concatenate(found), count, reach.degree)
    order = np.lexsort((pairs["two"], pairs["one"], pairs["share"]))
    pairs = pairs[order]
    return Candidates(
        np.stack([pairs["one"], pairs["two"]], axis=1).astype(np.int64),
        pairs["mirrored"],
        pairs["share"],
        cut + lost,
        clip_radius,
        frame_radius,
    )


def chance_radius(codes: np.ndarray, bits: int, limit: int, comparisons: int) -> int:
    """The widest radius up to ``limit`` at which a clip finds at most ``_CHANCE`` others by chance among ``comparisons``.

    Distances of unrelated codes are those of fewer independent bits than there are, as many as their mean and spread tell
    (degrees of freedom, Daugman, "The importance of being random", 2003); the spread is taken from quartiles, which copies
    do not move. ``codes`` uint64 (N, W). At least 0.
    """
    if len(codes) < 64:
        return limit
    from scipy.special import betainc

    rng = np.random.default_rng(0)
    one, two = rng.integers(0, len(codes), (2, 200_000))
    apart = one != two
    distances = np.bitwise_count(codes[one[apart]] ^ codes[two[apart]]).sum(axis=1).astype(np.float64)
    distances = (distances + rng.uniform(-0.5, 0.5, len(distances))) / bits  # whole numbers have no fine quartiles
    low, middle, high = np.percentile(distances, (25, 50, 75))
    mean, spread = float(np.clip(middle, 0.05, 0.95)), max(float(high - low) / 1.349, 1e-3)
    freedom = mean * (1 - mean) / spread**2
    for radius in range(limit, 0, -1):
        below = radius / bits * freedom
        # P(at most ``below`` of ``freedom`` bits differ), the binomial's sum as an incomplete beta function
        if below < freedom and comparisons * betainc(freedom - below, below + 1, 1 - mean) <= _CHANCE:
            return radius
    return 0


class _Index:
    """k nearest codes; exact for few, by inverted lists (seeded k-means) for many."""

    def __init__(self, codes: np.ndarray, degree: int) -> None:
        import faiss

        self.degree = min(degree + 1, len(codes))  # a clip finds itself
        self.width = codes.shape[1] * 64
        if len(codes) <= EXHAUSTIVE:
            self.index: Any = faiss.IndexBinaryFlat(self.width)
        else:
            lists = int(np.clip(2 ** round(np.log2(2 * np.sqrt(len(codes)))), 256, 8192))
            self.coarse = faiss.IndexBinaryFlat(self.width)
            self.index = faiss.IndexBinaryIVF(self.coarse, self.width, lists)
            self.index.cp.niter, self.index.cp.seed = 10, 1234
            self.index.cp.min_points_per_centroid = 1  # a fair number is seen to here; it would only warn
            self.index.nprobe = _PROBES
            step = max(1, len(codes) // (40 * lists))
            self.index.train(_bytes(codes[::step]))
        for start in range(0, len(codes), 1_000_000):
            self.index.add(_bytes(codes[start : start + 1_000_000]))

    def search(self, queries: np.ndarray, radius: int, least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Query, code and distance of each neighbour from ``least`` to ``radius`` away; and how many queries may have had more."""
        asked = np.flatnonzero((queries != 0).any(axis=1))
        if not len(asked) or not self.degree:
            nothing = np.zeros(0, np.int64)
            return nothing, nothing, nothing, 0
        distance, neighbour = self.index.search(_bytes(queries[asked]), self.degree)
        near = (distance <= radius) & (distance >= least) & (neighbour >= 0)
        row, column = np.nonzero(near)
        full = int(near[:, -1].sum()) if self.degree < self.index.ntotal else 0
        return asked[row], neighbour[row, column], distance[row, column], full


def _bytes(codes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(codes).view(np.uint8).reshape(len(codes), -1)


def _equal(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Links between rows with equal codes, the first row of each distinct code, the distinct codes, and links left out."""
    if not len(codes):
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int64), codes, 0
    order = np.lexsort((np.arange(len(codes)), *codes.T))
    same = (codes[order][1:] == codes[order][:-1]).all(axis=1)
    first = np.concatenate([[True], ~same])
    group = np.cumsum(first)
    links = []
    for step in range(1, _LINKS + 1):
        together = np.flatnonzero(group[step:] == group[:-step])
        links.append(np.stack([order[together], order[together + step]], axis=1))
    sizes = np.bincount(group)
    lost = int((sizes * (sizes - 1) // 2).sum()) - sum(len(found) for found in links)
    return np.concatenate(links), order[first], codes[order[first]], lost


_PAIR = np.dtype([("one", np.int32), ("two", np.int32), ("share", np.float32), ("mirrored", bool)])


def _columns(one: np.ndarray, two: np.ndarray, share: np.ndarray | float, mirrored: bool) -> np.ndarray:
    apart = one != two
    rows = np.empty(int(apart.sum()), _PAIR)
    rows["one"], rows["two"] = np.minimum(one, two)[apart], np.maximum(one, two)[apart]
    rows["share"] = share[apart] if isinstance(share, np.ndarray) else share
    rows["mirrored"] = mirrored
    return rows


def _nearest(found: np.ndarray, count: int, degree: int) -> tuple[np.ndarray, int]:
    """Each pair once, by its smallest distance, where it is among the ``degree`` nearest of either clip; and how many are not."""
    order = np.lexsort((found["mirrored"], found["share"], found["two"], found["one"]))
    found = found[order]
    new = np.ones(len(found), bool)
    new[1:] = (found["one"][1:] != found["one"][:-1]) | (found["two"][1:] != found["two"][:-1])
    found = found[new]
    clip = np.concatenate([found["one"], found["two"]])
    other = np.concatenate([found["two"], found["one"]])
    order = np.lexsort((other, np.tile(found["share"], 2), clip))
    clip = clip[order]
    starts = np.concatenate([[True], clip[1:] != clip[:-1]]) if len(clip) else np.zeros(0, bool)
    place = np.arange(len(clip)) - np.maximum.accumulate(np.where(starts, np.arange(len(clip)), 0))
    kept = np.zeros(len(found), bool)
    kept[order[place < degree] % max(1, len(found))] = True
    return found[kept], int((~kept).sum())
