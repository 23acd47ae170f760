"""Candidates for cross-pairs: the most alike identities of each, found blockwise, and why each is or is not a reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stages.subjects.identities import F32, I64, Identities

BLOCK = 1024
PROBES = 64  # inverted lists searched for each; of a million crops, 0.96 of the ten most alike lie in them (24: 0.89)
DEEPEST = 1024  # candidates looked at for a subject whose nearest ones are all excluded

# Why a candidate is no reference, the nearest miss first: what one would have to change for a match.
REASONS = (
    "not_among_the_best",
    "not_checked",
    "another_by_the_model",
    "above_upper_bound",
    "near_duplicate",
    "same_background",
    "other_split",
    "named_otherwise",
    "source_not_asked_for",
    "below_lower_bound",
    "same_shot",
)
CODE = {reason: np.int8(i + 1) for i, reason in enumerate(REASONS)}  # 0 is a reference
NONE = np.int8(-1)  # no candidate at all in this place
SAME_IDENTITY = tuple(
    CODE[r] for r in ("above_upper_bound", "near_duplicate", "same_background", "source_not_asked_for")
)


@dataclass(frozen=True)
class Bounds:
    """``lower <= cosine <= upper``, ``background`` the largest cosine of backgrounds, ``source`` which sources may serve."""

    lower: float
    upper: float
    background: float
    source: Literal["any", "same", "other"]


@dataclass(frozen=True)
class Candidates:
    """For each of N identities up to K others, most alike first.

    ``row`` int32 (N, K), -1 where there is none; ``cosine`` and ``background`` float32 (N, K), the latter NaN where it was not
    measured; ``reason`` int8 (N, K): 0 where it may be a reference, else ``CODE`` of why not, ``NONE`` where there is none.
    """

    row: NDArray[np.int32]
    cosine: F32
    background: F32
    reason: NDArray[np.int8]


def candidates(
    identities: Identities, bounds: Bounds, most: int, *, block: int = BLOCK, tick: Callable[[int], None] | None = None
) -> Candidates:
    """The ``most`` most alike identities of each, but those of its own clip or photograph.

    Where all of them are excluded while the last is still alike, more are looked at, up to ``DEEPEST``. Up to 50,000
    identities are all compared with each other; beyond that an inverted file finds them and their cosine is computed anew.
    Cosines are rounded to six digits, since the last bits of a product depend on the machine; ties go to the lower row.
    Memory is the index (two bytes a number of each vector) and block x most vectors.
    """
    from models.neighbours.cosine import EXACT, CosineIndex, sample_of

    count, width = identities.vector.shape
    k = min(most, max(count - 1, 0))
    row, reason = np.full((count, k), -1, np.int32), np.full((count, k), NONE, np.int8)
    cosine, background = np.zeros((count, k), np.float32), np.full((count, k), np.nan, np.float32)
    if not k or not width:  # one subject, or none that was embedded
        return Candidates(row, cosine, background, reason)
    every = np.arange(count)
    sample = sample_of(identities.vector, every, count) if count > EXACT else identities.vector[:0]
    index = CosineIndex(width, count, sample, PROBES)
    for start in range(0, count, 16_384):
        index.add(identities.vector[start : start + 16_384])
    for start in range(0, count, block):
        mine = every[start : start + block]
        found = _look(index.search, identities, mine, k, bounds)
        short = (found.reason > 0).all(axis=1) & (found.cosine[:, -1] >= bounds.lower) & (found.row[:, -1] >= 0)
        deeper = 4 * k
        while short.any() and deeper <= DEEPEST and deeper < 4 * count:
            again = _look(index.search, identities, mine[short], min(deeper, count - 1), bounds)
            fits = again.reason == 0
            # A reference from farther down takes the last places; what was nearer keeps its own.
            for place, at in enumerate(np.flatnonzero(short)):
                extra = np.flatnonzero(fits[place])[: max(1, k // 2)]
                if len(extra):
                    into = slice(k - len(extra), k)
                    for name in ("row", "cosine", "background", "reason"):
                        getattr(found, name)[at, into] = getattr(again, name)[place, extra]
            still = ~fits.any(axis=1) & (again.cosine[:, -1] >= bounds.lower) & (again.row[:, -1] >= 0)
            short[np.flatnonzero(short)[~still]] = False
            deeper *= 4
        part = slice(start, start + len(mine))
        row[part], cosine[part], background[part], reason[part] = (
            found.row,
            found.cosine,
            found.background,
            found.reason,
        )
        if tick:
            tick(len(mine))
    return Candidates(row, cosine, background, reason)


def _look(
    search: Callable[[F32, int], tuple[F32, I64]], ids: Identities, mine: I64, k: int, bounds: Bounds
) -> Candidates:
    # Crops of the own clip or photograph come first of all: a few more are asked for and those taken out.
    asked = min(k + 4, len(ids))
    _, found = search(ids.vector[mine], asked)
    there = (found >= 0) & (ids.source[found] != ids.source[mine][:, None])
    safe = np.where(there, found, 0)
    query = ids.vector[mine].astype(np.float64)
    exact = np.empty(found.shape, np.float64)
    for column in range(asked):
        exact[:, column] = np.einsum("qd,qd->q", query, ids.vector[safe[:, column]].astype(np.float64))
    exact = np.where(there, np.round(exact, 6), -np.inf)
    order = np.lexsort((safe, -exact), axis=1)[:, :k]
    safe, there = np.take_along_axis(safe, order, 1), np.take_along_axis(there, order, 1)
    cosine = np.where(there, np.take_along_axis(exact, order, 1), 0.0)
    background = _backgrounds(ids, mine, safe)
    reason = np.where(there, _judge(ids, mine, safe, cosine, background, bounds), NONE).astype(np.int8)
    return Candidates(
        np.where(there, safe, -1).astype(np.int32), cosine.astype(np.float32), background.astype(np.float32), reason
    )


def _backgrounds(ids: Identities, mine: I64, other: I64) -> NDArray[np.float64]:
    if not ids.background.shape[1]:
        return np.full(other.shape, np.nan)
    query = ids.background[mine].astype(np.float64)
    known = (np.abs(query).sum(1) > 0)[:, None] & (np.abs(ids.background).max(1) > 0)[other]
    cosine = np.stack(
        [np.einsum("qd,qd->q", query, ids.background[other[:, j]]) for j in range(other.shape[1])], axis=1
    )
    return np.where(known, np.round(cosine, 6), np.nan)


def _judge(
    ids: Identities, mine: I64, other: I64, cosine: NDArray[np.float64], background: NDArray[np.float64], bounds: Bounds
) -> NDArray[np.int8]:
    """0 or the ``CODE`` of the first rule, from the hardest to the softest, that excludes a candidate."""

    def of(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = getattr(ids, name)
        return values[mine][:, None], values[other]

    video, other_video = of("video")
    same_source = video == other_video
    (start, other_start), (end, other_end) = of("start"), of("end")
    name, other_name = of("name")
    group, other_group = of("group")
    rules = (
        ("same_shot", same_source & (start < other_end) & (end > other_start)),
        ("below_lower_bound", cosine < bounds.lower),
        ("named_otherwise", (name != other_name) & (name >= 0) & (other_name >= 0)),
        ("near_duplicate", (group == other_group) & (group >= 0)),
        ("above_upper_bound", cosine > bounds.upper),
        ("same_background", np.nan_to_num(background, nan=-1.0) > bounds.background),
        ("source_not_asked_for", same_source if bounds.source == "other" else ~same_source),
    )
    found = np.zeros(other.shape, np.int8)
    for reason, holds in rules:
        if reason == "source_not_asked_for" and bounds.source == "any":
            continue
        found[(found == 0) & holds] = CODE[reason]
    return found


def settle(found: Candidates, identities: Identities, held_out: NDArray[np.bool_], most: int) -> Candidates:
    """The candidates once the split is drawn: references never cross it, and each target has ``most`` at most, each from
    another clip or photograph. ``held_out`` is by identity."""
    reason = found.reason.copy()
    safe = np.maximum(found.row, 0)
    reason[(reason == 0) & (held_out[safe] != held_out[:, None])] = CODE["other_split"]
    taken = np.zeros(len(reason), np.int64)
    source = identities.source[safe]
    for column in range(reason.shape[1]):
        fits = reason[:, column] == 0
        again = ((source[:, :column] == source[:, column : column + 1]) & (reason[:, :column] == 0)).any(axis=1)
        surplus = fits & (again | (taken >= most))
        reason[surplus, column] = CODE["not_among_the_best"]
        taken += fits & ~surplus
    return Candidates(found.row, found.cosine, found.background, reason)


def why_none(reasons: NDArray[np.int8]) -> str | None:
    """Why a target has no reference: the nearest miss among its candidates' reasons, None where it has one."""
    there = reasons[reasons != NONE]
    if not len(there):
        return "alone"
    least = int(there.min())
    return None if least == 0 else REASONS[least - 1]
