"""Dissolves and wipes: one picture turns into another one step by step, and every pixel goes there without detours."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from models.video.thumbs import Thumb, change, colour_change, correlation

_STEP_S = 0.08  # between the frames that are looked at: the shortest gradual change spans three steps
_LENGTHS_S = (0.32, 0.56, 0.88, 1.28, 1.76, 2.24)  # of the stretches that are looked at
_CONTEXT_S = 0.24  # how long the shots on either side must be seen
REACH_S = _LENGTHS_S[-1] + 2 * _CONTEXT_S
_PARTS = 5  # into which a stretch is divided

# Log odds that a stretch is a passage between two shots and no motion, as benchmarks/fit_gradual.py found them: of the way,
# the largest step, the motion of the neighbours, their drift, and the colours.
WEIGHTS = (-2.7, -2.9, 1.0, -1.2, 4.8)
BIAS = 1.2


@dataclass(frozen=True)
class GradualParams:
    """See ``models.video.shots.ShotParams``, of which these are a part."""

    gradual_change: float
    gradual_score: float
    flat_spread: float
    same_picture: float


@dataclass(frozen=True)
class Gradual:
    """A change between ``start_s`` and ``end_s`` whose middle is the frame; ``score`` is how surely it is one."""

    frame: int
    time_s: float
    start_s: float
    end_s: float
    score: float


class GradualFinder:
    """``frame`` for every thumbnail in order; returns changes seen up to now, one and the same several times."""

    def __init__(self, params: GradualParams) -> None:
        self.params = params
        self._kept: list[Thumb] = []
        self._times: list[float] = []
        self._next_s = 0.0

    def frame(self, thumb: Thumb) -> list[Gradual]:
        if thumb.time_s < self._next_s - 1e-6:
            return []
        self._next_s = max(self._next_s, thumb.time_s - _STEP_S) + _STEP_S
        self._kept.append(thumb)
        self._times.append(thumb.time_s)
        while len(self._times) > 8 and self._times[0] < thumb.time_s - REACH_S - _STEP_S:
            del self._kept[0], self._times[0]
        end = self._before(len(self._kept) - 1, _CONTEXT_S)
        return [found for length in _LENGTHS_S if (found := self._stretch(self._before(end, length), end)) is not None]

    def _before(self, place: int, seconds: float) -> int:
        return max(0, bisect_left(self._times, self._times[place] - seconds - 1e-6))

    def _stretch(self, start: int, end: int) -> Gradual | None:
        """The change between two kept frames, if they belong to two shots and what lies between is a passage."""
        a, b = self._kept[start], self._kept[end]
        if end - start < 3 or (size := change(a, b)) < self.params.gradual_change:
            return None
        if (colours := colour_change(a, b)) < 0.1 or correlation(a, b) > self.params.same_picture:
            return None
        if any(t.contrast < self.params.flat_spread for t in self._kept[start : end + 1]):
            return None  # a fade
        outside = self._kept[self._before(start, _CONTEXT_S)], self._kept[-1]
        if min(change(outside[0], b), change(a, outside[1]), change(*outside)) < 0.6 * size:
            return None  # it does not last: a flash
        score = BIAS + sum(w * f for w, f in zip(WEIGHTS, self.features(start, end, size, colours), strict=True))
        if score < self.params.gradual_score:
            return None
        middle = self._halfway(self._kept[start : end + 1])
        return Gradual(middle.index, middle.time_s, a.time_s, b.time_s, score)

    def features(self, start: int, end: int, size: float, colours: float) -> tuple[float, ...]:
        """What ``WEIGHTS`` weigh, all but the colours relative to ``size``, the change between the ends.

        The way that the picture goes in all: 1 where every pixel goes straight to its end, as in a dissolve or a wipe, more in
        motion. Its largest step: 1 for a cut. How much the shots before and after move, and how far they would get in a time
        as long as the stretch. The share of colours that change.
        """
        kept = self._kept
        places = [start + round(n * (end - start) / _PARTS) for n in range(_PARTS + 1)]
        steps = [change(kept[p], kept[q]) / size for p, q in pairwise(places)]
        before = change(kept[self._before(start, _CONTEXT_S)], kept[start]) / size
        after = change(kept[end], kept[-1]) / size
        drift = (before + after) / 2.0 * (kept[end].time_s - kept[start].time_s) / _CONTEXT_S
        moving = min(before, 1.0) + min(after, 1.0)
        return min(sum(steps), 3.0), min(max(steps), 1.0), moving, min(drift, 2.0), min(colours / 0.4, 1.0)

    @staticmethod
    def _halfway(window: Sequence[Thumb]) -> Thumb:
        """The first frame that is nearer to the last one than to the first."""
        return next((t for t in window if change(t, window[-1]) <= change(window[0], t)), window[-1])
