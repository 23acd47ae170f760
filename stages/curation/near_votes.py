"""Lets a group of copies grow only by what most comparisons across the seam say, since one wrong verdict would join everything
on both sides of it.

Being the same passes on, so the connected parts of the pairs that match are groups, and a single wrong match between two
scenes with twenty copies each makes four hundred wrong pairs. Two clips of one group that were never compared can be; copies
agree with most of their group, strangers with next to none of it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

import numpy as np

from stages.curation.groups import components
from stages.curation.near_growth import Link

ROUND = (
    4  # clips after each one, in the order of the draw, that it is compared with: every clip gets twice as many votes
)
LEAST_GROUP = 3  # rows; two clips that match have nobody else to ask

Compared = Mapping[tuple[int, int], bool]


def ballots(links: Sequence[Link], draw: Mapping[int, str]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows within connected parts whose comparison would tell whether the part is one group.

    ``draw`` gives each row its place, whatever it is called and wherever it lies: its content key. Returns int64 (P, 2) and whether
    the two are turned left to right to each other as the links have it, bool (P,).
    """
    pairs = np.asarray([(link.one, link.two) for link in links], np.int64).reshape(-1, 2)
    rows, label = components(pairs)
    turned = _turned(links)
    found: dict[tuple[int, int], bool] = {}
    for part in np.split(rows, np.flatnonzero(np.diff(label)) + 1):
        if len(part) < LEAST_GROUP:
            continue
        order = sorted(part.tolist(), key=lambda row: (draw[row], row))
        for step in range(1, min(ROUND, len(order) // 2) + 1):
            for one, two in zip(order, order[step:] + order[:step], strict=True):
                found[min(one, two), max(one, two)] = turned[one] != turned[two]
    keys = sorted(found)
    return np.asarray(keys, np.int64).reshape(-1, 2), np.asarray([found[key] for key in keys], bool)


def _turned(links: Sequence[Link]) -> dict[int, bool]:
    """Whether each linked row is turned left to right, to the first row of its part."""
    near: dict[int, list[tuple[int, bool]]] = {}
    for link in links:
        near.setdefault(link.one, []).append((link.two, link.mirrored))
        near.setdefault(link.two, []).append((link.one, link.mirrored))
    turned: dict[int, bool] = {}
    for first in sorted(near):
        waiting = [] if first in turned else [first]
        turned.setdefault(first, False)
        while waiting:
            row = waiting.pop()
            for other, mirrored in near[row]:
                if other not in turned:
                    turned[other] = turned[row] != mirrored
                    waiting.append(other)
    return turned


def agreed(links: Sequence[Link], compared: Compared, quorum: float) -> list[bool]:
    """Which links lie within a group, for each of them. From single clips, the two groups are joined of which the comparisons
    across say most surely that they are one, again and again, while at least ``quorum`` of those comparisons match.

    ``compared``: whether each pair of rows (smaller, larger) that was compared matched. A link is a match.
    """
    votes = _Votes({**compared, **{(min(k.one, k.two), max(k.one, k.two)): True for k in links}})
    waiting = [(-votes.confirmed(k.one, k.two), k.difference, min(k.one, k.two), max(k.one, k.two)) for k in links]
    heapq.heapify(waiting)
    while waiting:
        sure, _, one, two = heapq.heappop(waiting)
        a, b = votes.group[one], votes.group[two]
        if a == b:
            continue
        same, asked = votes.across[a][b]
        if votes.size(a) + votes.size(b) > 2 and -sure != _surely(same, asked):
            continue  # one of the two has grown since, and stands in the queue again
        if same >= quorum * asked:
            for other, told in votes.merge(a, b).items():
                if told[0]:
                    heapq.heappush(waiting, (-_surely(*told), 0.0, min(a, other), max(a, other)))
    return [votes.group[k.one] == votes.group[k.two] for k in links]


class _Votes:
    """The comparisons between groups of rows. ``across[a][b]``: those that match, and all."""

    def __init__(self, told: Compared) -> None:
        self.across: dict[int, dict[int, tuple[int, int]]] = {}
        for (one, two), matched in told.items():
            self.across.setdefault(one, {})[two] = self.across.setdefault(two, {})[one] = (int(matched), 1)
        self.group = {row: row for row in self.across}
        self._members = {row: [row] for row in self.across}

    def confirmed(self, one: int, two: int) -> float:
        """How sure a match is: third rows that were compared with both and match either are asked whether they match both."""
        mine, theirs = self.across[one], self.across[two]
        shared = [(mine[row][0], theirs[row][0]) for row in mine.keys() & theirs.keys()]
        return _surely(1 + sum(map(all, shared)), 1 + sum(map(any, shared)))

    def size(self, group: int) -> int:
        return len(self._members[group])

    def merge(self, kept: int, gone: int) -> dict[int, tuple[int, int]]:
        """What was said of ``gone`` is said of ``kept``; returns all that is said of it now."""
        for row in self._members[gone]:
            self.group[row] = kept
        self._members[kept] += self._members.pop(gone)
        mine = self.across[kept]
        for other, (same, asked) in self.across.pop(gone).items():
            del self.across[other][gone]
            if other != kept:
                before = mine.get(other, (0, 0))
                mine[other] = self.across[other][kept] = (before[0] + same, before[1] + asked)
        return mine


def _surely(same: int, asked: int) -> float:
    """Lower end of Wilson's interval of one standard error for the share ``same`` of ``asked``: many votes weigh more than few."""
    share = same / asked
    return (share + 0.5 / asked - math.sqrt(share * (1 - share) / asked + 0.25 / asked**2)) / (1 + 1 / asked)
