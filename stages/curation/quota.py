"""Chooses rows in order of preference so that no group gets more than its share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]

TAKEN = -1
CHUNK = 65_536  # rows that are Python numbers at a time


@dataclass(frozen=True)
class Grouping:
    """Rows by what they have in common. ``codes`` (N,) int64 from 0; each group may keep at most ``cap`` rows."""

    name: str
    codes: Codes
    cap: int


def allocate(groupings: Sequence[Grouping], rows: int, total: int | None = None) -> NDArray[np.int8]:
    """Go through the rows in order and take each one for which every group it belongs to, and the total, has room.

    Returns int8 (N,): ``TAKEN``, or the index of the first grouping that is full in the end, ``len(groupings)`` for the
    total. A row that one group refuses uses up no room in another, so no refused row could be added without breaking a cap.
    """
    counts = [np.zeros(int(g.codes.max(initial=-1)) + 1, np.int64) for g in groupings]
    caps = [g.cap for g in groupings]
    room = rows if total is None else total
    taken = np.zeros(rows, bool)
    for start in range(0, rows, CHUNK):
        part = [g.codes[start : start + CHUNK] for g in groupings]
        # what was full before this chunk is refused in one step: later chunks are mostly that
        fits = np.ones(min(CHUNK, rows - start), bool)
        for count, codes, cap in zip(counts, part, caps, strict=True):
            fits &= count[codes] < cap
        candidates = np.flatnonzero(fits)
        members = zip(*(codes[candidates].tolist() for codes in part), strict=True) if part else [()] * len(candidates)
        for row, groups in zip((candidates + start).tolist(), members, strict=True):
            if room <= 0:
                break
            if all(count[group] < cap for count, group, cap in zip(counts, groups, caps, strict=True)):
                taken[row] = True
                room -= 1
                for count, group in zip(counts, groups, strict=True):
                    count[group] += 1
    fate = np.full(rows, len(groupings), np.int8)
    for index in reversed(range(len(groupings))):
        fate[counts[index][groupings[index].codes] >= caps[index]] = index
    fate[taken] = TAKEN
    return fate


def in_turns(codes: Codes) -> NDArray[np.int64]:
    """An order that takes the first row of every group, then the second of every group, and so on. int64 (N,).

    Within one turn rows keep the order they came in.
    """
    by_group = np.argsort(codes, kind="stable")
    ordered = codes[by_group]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(codes) else np.zeros(0, np.int64)
    first = np.repeat(starts, np.diff(np.r_[starts, len(codes)]))
    turn = np.empty(len(codes), np.int64)
    turn[by_group] = np.arange(len(codes)) - first
    return np.argsort(turn, kind="stable")
