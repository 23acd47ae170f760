"""Which references go with which target clip: vectorised retrieval between a lower and an upper similarity bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_schemas.ids import short_hash

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Why a target has no cross-pair, from the nearest miss to the farthest.
REASONS = (
    "above_upper_bound",
    "only_near_duplicates",
    "only_in_the_other_split",
    "only_named_otherwise",
    "below_lower_bound",
    "alone",
)


@dataclass(frozen=True)
class Candidates:
    """Subjects that may serve as references, one row each, as arrays.

    Codes are integers, -1 for none: ``clip`` (a photograph has none), ``video``, ``group`` (dedupe), ``split``, ``name`` (head
    noun of its phrase). ``start``
    and ``end`` are the clip's span in its source in seconds (NaN for a photograph). ``vector`` rows are unit.
    """

    vector: F32
    clip: I64
    video: I64
    group: I64
    split: I64
    name: I64
    start: NDArray[np.float64]
    end: NDArray[np.float64]

    def rows(self, index: I64) -> Candidates:
        return Candidates(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Match:
    """What one target got: candidate rows with cosines, best first, or a reason out of ``REASONS``."""

    target: int
    chosen: list[tuple[int, float]]
    reason: str | None


def match(
    targets: Candidates, candidates: Candidates, *, lower: float, upper: float, most: int, block: int = 512
) -> Iterator[Match]:
    """For each target, up to ``most`` candidates with lower <= cosine <= upper, the most alike first.

    Never the target's own clip or a stretch of the same source that overlaps it (the same shot), never a member of its
    dedupe group, never across the split, never one that is called otherwise where both are named; of one clip or
    photograph at most one. Ties go to the lower row. Memory is ``block`` x candidates; time grows with targets x
    candidates.
    """
    vectors = candidates.vector.astype(np.float64)
    source = np.where(candidates.clip >= 0, candidates.clip, -2 - candidates.video)
    for start in range(0, len(targets.vector), block):
        part = targets.rows(np.arange(start, min(start + block, len(targets.vector))))
        # In float64 and rounded, since the last bits of a product depend on the block's size and the machine's BLAS.
        cosine = np.round(part.vector.astype(np.float64) @ vectors.T, 6)
        same_clip = part.clip[:, None] == candidates.clip[None]
        overlap = (
            (part.video[:, None] == candidates.video[None])
            & (part.start[:, None] < candidates.end[None])
            & (part.end[:, None] > candidates.start[None])
        )
        own = same_clip | overlap
        twin = (part.group[:, None] == candidates.group[None]) & (part.group[:, None] >= 0)
        apart = part.split[:, None] != candidates.split[None]
        other = (part.name[:, None] != candidates.name[None]) & (part.name[:, None] >= 0) & (candidates.name[None] >= 0)
        fits = ~own & ~twin & ~apart & ~other & (cosine >= lower) & (cosine <= upper)
        for i in range(len(cosine)):
            rows = np.flatnonzero(fits[i])
            rows = rows[np.argsort(-cosine[i, rows], kind="stable")]
            _, first = np.unique(source[rows], return_index=True)
            rows = rows[np.sort(first)][:most]
            if len(rows):
                yield Match(start + i, [(int(r), float(cosine[i, r])) for r in rows], None)
            else:
                yield Match(start + i, [], _why(cosine[i], own[i], twin[i], apart[i], other[i], lower, upper))


def _why(
    cosine: NDArray[np.float64], own: Mask, twin: Mask, apart: Mask, other: Mask, lower: float, upper: float
) -> str:
    """The first of ``REASONS`` that holds: what one would have to change for a match."""
    alike = cosine >= lower
    if (~own & ~twin & ~apart & ~other & (cosine > upper)).any():
        return "above_upper_bound"
    if (~own & twin & alike).any():
        return "only_near_duplicates"
    if (~own & apart & ~other & alike).any():
        return "only_in_the_other_split"
    if (~own & other & alike).any():
        return "only_named_otherwise"
    return "below_lower_bound" if (~own & ~twin).any() else "alone"


def held_out_videos(targets: Iterable[str], others: Iterable[str], seed: int, share: float) -> set[str]:
    """The source files that no training sample may touch: those whose hash falls under the share.

    ``targets`` are videos that clips come from, ``others`` photographs. The draw looks at one file at a time, so a new file
    moves no other to the other side; only where it leaves no target and there are two or more, the target with the
    smallest hash is held out, so that a small collection has something to test on.
    """
    if share <= 0:
        return set()
    marks = {v: int(short_hash("split", seed, v), 16) / 16.0**20 for v in {*targets, *others}}
    drawn = {v for v, mark in marks.items() if mark < share}
    wanted = sorted(set(targets), key=lambda v: (marks[v], v))
    return drawn | set(wanted[:1]) if len(wanted) > 1 else drawn - set(wanted)
