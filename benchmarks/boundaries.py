"""Scores found shot boundaries against true ones: one found boundary explains at most one true one, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Count:
    """True boundaries that were found and that were missed, and found ones that are none."""

    hit: int = 0
    missed: int = 0
    false: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.hit + other.hit, self.missed + other.missed, self.false + other.false)

    @property
    def precision(self) -> float | None:
        return self.hit / (self.hit + self.false) if self.hit + self.false else None

    @property
    def recall(self) -> float | None:
        return self.hit / (self.hit + self.missed) if self.hit + self.missed else None

    @property
    def f1(self) -> float | None:
        total = 2 * self.hit + self.missed + self.false
        return 2 * self.hit / total if total else None


def matched(
    found: Sequence[float], spans: Sequence[tuple[float, float]], tolerance: float
) -> tuple[set[int], set[int]]:
    """Indices of ``found`` and of ``spans`` in a largest possible one-to-one matching.

    A point fits a span ``(start, end)`` where ``start - tolerance <= point <= end + tolerance``. Points are gone through in
    order, and each takes, of the open spans that hold it, the one that ends first; an exchange argument shows that no matching
    is larger (scheduling unit jobs by earliest deadline). The caller's units are kept: frames, or seconds.
    """
    used_points: set[int] = set()
    used_spans: set[int] = set()
    for p in sorted(range(len(found)), key=lambda n: found[n]):
        fitting = [
            s
            for s, (start, end) in enumerate(spans)
            if s not in used_spans and start - tolerance <= found[p] <= end + tolerance
        ]
        if fitting:
            used_spans.add(min(fitting, key=lambda s: spans[s][1]))
            used_points.add(p)
    return used_points, used_spans
