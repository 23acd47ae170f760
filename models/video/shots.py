"""Finds where shots begin and end, from frames fed one by one: hard cuts by PySceneDetect, dissolves and fades by ourselves."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import cv2
import numpy as np
from scenedetect.common import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from models.video.reader import fitted

Kind = Literal["cut", "dissolve", "fade"]

SHOTS_VERSION = "1"

_ANY_RATE = Fraction(25)  # a timecode wants one; nothing depends on it
_FEWEST = 8  # frames remembered however far apart they are: a cut is announced two frames late
_PLANE = 160  # px, long side of what hard cuts are looked for on: half of the shared plane, which OpenCV halves fastest
_THUMB = (32, 18)  # px, what gradual changes are looked for on: a mix of two pictures is a mix at any size


@dataclass(frozen=True)
class ShotParams:
    """Thresholds of shot detection; lengths in seconds.

    ``adaptive_ratio`` and ``min_change`` are AdaptiveDetector's ``adaptive_threshold`` and ``min_content_val`` (0 to 255, mean
    of hue, saturation and value differences); hue and saturation are noise in the dark, so a cut must also change the picture
    itself by ``least_change`` grey levels, or its structure. ``min_shot_s`` merges a boundary with an earlier one this close.
    A gradual change must differ by ``gradual_change`` grey levels between its ends and its middle must be their mixture up to
    ``gradual_residual`` of that. A flat (black, white) stretch at either end of the video that is shorter than
    ``edge_flat_s`` belongs to the shot that fades from or into it; one between two shots becomes a single boundary. ``flash_s`` is
    the longest flash: two cuts closer than it around the same picture are none.
    """

    adaptive_ratio: float = 3.0
    min_change: float = 15.0
    least_change: float = 12.0
    min_shot_s: float = 0.15
    flash_s: float = 0.25
    gradual_s: tuple[float, ...] = (0.4, 0.7, 1.0)
    gradual_change: float = 22.0
    gradual_residual: float = 0.2
    flat_spread: float = 6.0
    edge_flat_s: float = 2.0


@dataclass(frozen=True)
class Boundary:
    """The first frame of a new shot: for a gradual change, the middle of it."""

    frame: int
    time_s: float
    kind: Kind


@dataclass(frozen=True)
class _Gradual(Boundary):
    """A gradual change not yet settled: how much it changes (grey levels), and whether an end of it is one plain colour."""

    size: float = 0.0
    from_flat: bool = False
    into_flat: bool = False


@dataclass(frozen=True)
class _Thumb:
    index: int
    time_s: float
    picture: np.ndarray  # float32, 18 x 32 x 3


class ShotDetector:
    """``frame`` for every frame in order, then ``finish``; both return the boundaries that have become certain, in order."""

    def __init__(self, params: ShotParams | None = None) -> None:
        self.params = params or ShotParams()
        self._cuts = AdaptiveDetector(
            adaptive_threshold=self.params.adaptive_ratio,
            min_content_val=self.params.min_change,
            min_scene_len=0.0,
        )
        self._size: tuple[int, int] | None = (
            None  # of the small picture; the first frame's, since a stream may change its own
        )
        self._recent: deque[_Thumb] = deque()
        self._waiting: list[Boundary] = []
        self._last: Boundary | None = None
        self._newest_s = 0.0
        self._reach_s = max(self.params.gradual_s)

    # -- frames in -----------------------------------------------------------------------------------------------------

    def frame(self, bgr: np.ndarray, index: int, time_s: float) -> list[Boundary]:
        """One frame, uint8 BGR HWC of any size."""
        if self._size is None:
            self._size = fitted((bgr.shape[1], bgr.shape[0]), _PLANE)
        small = bgr
        if (bgr.shape[1], bgr.shape[0]) != self._size:
            small = cv2.resize(bgr, self._size, interpolation=cv2.INTER_AREA)
        thumb = cv2.resize(small, _THUMB, interpolation=cv2.INTER_AREA).astype(np.float32)
        self._newest_s = time_s
        self._recent.append(_Thumb(index, time_s, thumb))
        while len(self._recent) > _FEWEST and self._recent[0].time_s < time_s - 2.5 * self._reach_s:
            self._recent.popleft()
        # the detector is asked for frames and not for time: lengths in seconds are kept here, where frames have instants
        for found in self._cuts.process_frame(FrameTimecode(index, fps=_ANY_RATE), small):
            self._found_cut(found.frame_num)
        self._look_for_gradual()
        return self._certain(time_s)

    def finish(self) -> list[Boundary]:
        """The boundaries that were still waiting for later frames."""
        return self._certain(float("inf"))

    # -- hard cuts -----------------------------------------------------------------------------------------------------

    def _found_cut(self, index: int) -> None:
        thumbs = {thumb.index: thumb for thumb in self._recent}
        if index not in thumbs or index == 0:
            return
        if not self._corroborated(thumbs.get(index - 1), thumbs[index]):
            return
        cut = Boundary(index, thumbs[index].time_s, "cut")
        if self._waiting and self._is_flash(self._waiting[-1], cut, thumbs):
            self._waiting.pop()
            return
        # a gradual change that a cut falls into was the cut, smeared by the encoder or by interlacing
        self._waiting = [
            b for b in self._waiting if b.kind == "cut" or abs(b.time_s - cut.time_s) > self.params.gradual_s[0]
        ]
        self._waiting.append(cut)

    def _corroborated(self, before: _Thumb | None, after: _Thumb) -> bool:
        if before is None:
            return False
        change = float(np.abs(after.picture - before.picture).mean())
        if change >= self.params.least_change:
            return True
        return change >= 0.4 * self.params.least_change and _correlation(before.picture, after.picture) < 0.6

    def _is_flash(self, first: Boundary, second: Boundary, thumbs: dict[int, _Thumb]) -> bool:
        """Whether the picture after the second cut is the one before the first: a flash, or a dropped-in frame."""
        if first.kind != "cut" or second.time_s - first.time_s > self.params.flash_s:
            return False
        before, flash, after = thumbs.get(first.frame - 1), thumbs.get(first.frame), thumbs.get(second.frame)
        if before is None or flash is None or after is None:
            return False
        back = float(np.abs(after.picture - before.picture).mean())
        return back < 0.5 * float(np.abs(flash.picture - before.picture).mean())

    # -- dissolves and fades -------------------------------------------------------------------------------------------

    def _look_for_gradual(self) -> None:
        """A window whose ends differ and whose inside is a mixture of them, moving steadily from one to the other.

        Motion also changes a picture little by little, but the middle of a movement is not the mean of its ends, while the
        middle of a dissolve is.
        """
        newest = self._recent[-1]
        thumbs: list[_Thumb] = []
        for length in self.params.gradual_s:
            start = bisect_left(self._recent, newest.time_s - length - 1e-6, key=lambda t: t.time_s)
            first = self._recent[start]
            if len(self._recent) - start < 5 or newest.time_s - first.time_s < 0.8 * length:
                continue
            if cv2.norm(first.picture, newest.picture, cv2.NORM_L1) < self.params.gradual_change * newest.picture.size:
                continue
            thumbs = thumbs or list(self._recent)
            window = thumbs[start:]
            found = self._mixture(window)
            if found is not None:
                self._note_gradual(found)

    def _mixture(self, window: list[_Thumb]) -> _Gradual | None:
        first, last = window[0].picture, window[-1].picture
        change = last - first
        size = float(np.abs(change).mean())
        energy = float((change * change).sum())
        quarter, middle, three = (window[round(q * (len(window) - 1))].picture - first for q in (0.25, 0.5, 0.75))
        shares = [float((f * change).sum()) / energy for f in (quarter, middle, three)]
        if not (shares[0] < shares[1] < shares[2] and 0.2 < shares[1] < 0.8):
            return None
        for share, f in zip(shares, (quarter, middle, three), strict=True):
            rest = f - share * change
            if float((rest * rest).sum()) > (self.params.gradual_residual**2) * energy:
                return None
        flat = [float(p.std(axis=(0, 1)).max()) < self.params.flat_spread for p in (first, last)]
        if not any(flat) and _correlation(first, last) > 0.8:
            return None  # one picture getting brighter or darker
        path = np.array([float(((t.picture - first) * change).sum()) / energy for t in window])
        if float(np.abs(np.diff(path)).max()) > 0.5:
            return None  # one step makes most of it: a cut
        half = next(n for n, share in enumerate(path) if share >= 0.5)
        kind: Kind = "fade" if any(flat) else "dissolve"
        return _Gradual(window[half].index, window[half].time_s, kind, size, from_flat=flat[0], into_flat=flat[1])

    def _note_gradual(self, found: _Gradual) -> None:
        """Keep the strongest of the overlapping windows that show one gradual change."""
        near = self.params.gradual_s[-1]
        for n, other in enumerate(self._waiting):
            if abs(other.time_s - found.time_s) > (near if isinstance(other, _Gradual) else self.params.gradual_s[0]):
                continue
            if isinstance(other, _Gradual) and found.size > other.size:
                self._waiting[n] = found
            return
        if self._last is not None and found.time_s - self._last.time_s < self.params.gradual_s[0]:
            return
        self._waiting.append(found)

    # -- boundaries out ------------------------------------------------------------------------------------------------

    def _certain(self, now_s: float) -> list[Boundary]:
        """Boundaries old enough that no later frame can move, merge or drop them."""
        self._waiting.sort(key=lambda b: b.frame)
        ready: list[Boundary] = []
        while self._waiting:
            first = self._waiting[0]
            patience = self.params.flash_s + 0.5
            if isinstance(first, _Gradual):
                patience = 2 * self._reach_s + (self.params.edge_flat_s if first.into_flat else 0.0)
            if first.time_s > now_s - patience:
                break
            self._waiting.pop(0)
            settled = self._settle(first)
            if settled is not None:
                ready.append(settled)
                self._last = settled
        return ready

    def _settle(self, first: Boundary) -> Boundary | None:
        """The boundary as it stands at last, or None where it is none."""
        if self._last is not None and first.time_s - self._last.time_s < self.params.min_shot_s:
            return None
        if not isinstance(first, _Gradual):
            return first
        if first.from_flat and self._last is None and first.time_s < self.params.edge_flat_s:
            return None  # the video fades in
        if first.into_flat:
            after = next((b for b in self._waiting if isinstance(b, _Gradual) and b.from_flat), None)
            if after is not None and after.time_s - first.time_s < self.params.edge_flat_s:
                self._waiting.remove(after)
                middle = (first.time_s + after.time_s) / 2.0
                frame = (first.frame + after.frame) // 2
                return Boundary(frame, middle, "fade")
            if after is None and self._newest_s - first.time_s < self.params.edge_flat_s:
                return None  # the video fades out
        return Boundary(first.frame, first.time_s, first.kind)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two pictures' values, 1 for pictures that differ in brightness and contrast only."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-6 else 1.0
