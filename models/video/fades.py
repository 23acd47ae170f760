"""Fades: one plain colour between two shots, or at an end of the video."""

from __future__ import annotations

from dataclasses import dataclass

from models.video.thumbs import Thumb, change, correlation

_LOOK_S = 1.0  # how far from the plain stretch a fade may have its full picture
_FULL = 0.9  # of the largest contrast within that time: from there on the picture counts as full
_GLIMPSE_S = 0.25  # a plain stretch goes on after a picture this short: a fade's noise at the threshold


@dataclass(frozen=True)
class Fade:
    """A fade from one full picture to another, in seconds, and its middle; ``boundary`` says whether it parts two shots."""

    frame: int
    time_s: float
    start_s: float
    end_s: float
    boundary: bool = True


@dataclass(frozen=True)
class FadeParams:
    """See ``models.video.shots.ShotParams``, of which these are a part."""

    flat_spread: float
    edge_flat_s: float
    gradual_change: float
    same_picture: float


class FadeFinder:
    """``frame`` for every thumbnail in order, then ``finish``; both return the fades that have become certain."""

    def __init__(self, params: FadeParams) -> None:
        self.params = params
        self._fullest: list[Thumb] = []  # of the last second, by falling contrast: what each later frame fell short of
        self._before: list[Thumb] = []  # the same, as it was when the plain stretch began
        self._plain: tuple[Thumb, Thumb] | None = None  # first and last frame of the stretch that is not settled
        self._after: list[Thumb] = []  # since it ended, by rising contrast
        self._long = False  # whether the stretch is known to be a shot, and its beginning was told

    @property
    def settled_s(self) -> float:
        """No later frame changes what is said about frames before this instant."""
        if self._plain is None:
            return float("inf")
        return (self._plain[0] if self._long or not self._before else self._before[0]).time_s

    def frame(self, thumb: Thumb) -> list[Fade]:
        found: list[Fade] = []
        if thumb.contrast < self.params.flat_spread:
            if self._plain and self._after and thumb.time_s - self._plain[1].time_s > _GLIMPSE_S:
                found = self._settle()  # what was seen since was a shot
            self._after = []
            if self._plain is None:
                self._before, self._fullest = self._fullest, []
            first = self._plain[0] if self._plain else thumb
            self._plain = (first, thumb)
            if not self._long and thumb.time_s - first.time_s >= self.params.edge_flat_s:
                self._long = True  # said now: scorers cannot wait until a film's black hour is over
                found.append(self._edge(self._start(), first, bool(self._before)))
            return found
        while self._fullest and self._fullest[-1].contrast <= thumb.contrast:
            self._fullest.pop()
        self._fullest.append(thumb)
        while self._fullest[0].time_s < thumb.time_s - _LOOK_S:
            self._fullest.pop(0)
        if self._plain is not None:
            if not self._after or thumb.contrast > self._after[-1].contrast:
                self._after.append(thumb)
            if thumb.time_s >= self._plain[1].time_s + _LOOK_S:
                found = self._settle()
        return found

    def finish(self) -> list[Fade]:
        return self._settle()

    def _settle(self) -> list[Fade]:
        if self._plain is None:
            return []
        (first, last), before, after, long = self._plain, self._before, self._after, self._long
        start = self._start()
        end = next(t for t in after if t.contrast >= _FULL * after[-1].contrast) if after else last
        self._plain, self._before, self._after, self._long = None, [], [], False
        if long:
            return [self._edge(last, end, bool(after))]
        # nothing on one side: the video fades in or out; the same picture on both: it blinks
        pairs = [(a, b) for a in (start, *before[-1:]) for b in (end, *after[:1])] if before and after else []
        parts = bool(pairs) and max(correlation(a, b) for a, b in pairs) < self.params.same_picture
        frame, time_s = (first.index + last.index) // 2, (first.time_s + last.time_s) / 2.0
        return [Fade(frame, time_s, start.time_s, end.time_s, parts)]

    def _start(self) -> Thumb:
        """The last full picture before the plain stretch; its first frame where there is none."""
        assert self._plain is not None
        full = [t for t in self._before if t.contrast >= _FULL * self._before[0].contrast]
        return full[-1] if full else self._plain[0]

    def _edge(self, a: Thumb, b: Thumb, seen: bool) -> Fade:
        """Where a plain stretch that is a shot of its own begins or ends."""
        return Fade(b.index, b.time_s, a.time_s, b.time_s, seen and change(a, b) >= self.params.gradual_change)
