"""Thumbnails of the newest frames, and how two of them differ: what every part of shot detection looks at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

SIZE = (32, 18)  # px; gradual changes and camera motion show at any size, noise and fine texture do not at this one
_VALUES = SIZE[0] * SIZE[1] * 3


@dataclass(frozen=True)
class Thumb:
    """A frame's number, instant in seconds, and picture: uint8 BGR, 18 x 32 x 3."""

    index: int
    time_s: float
    picture: np.ndarray

    @cached_property
    def colours(self) -> np.ndarray:
        """Shares of the pixels in 64 colours (4 levels a channel), float32 summing to 1: what motion leaves as it is."""
        levels = self.picture >> 6
        keys = (levels[..., 0] << 4) | (levels[..., 1] << 2) | levels[..., 2]
        return (np.bincount(keys.ravel(), minlength=64) / keys.size).astype(np.float32)

    @cached_property
    def contrast(self) -> float:
        """The largest standard deviation of a channel, in grey levels; near 0 for one plain colour."""
        return float(cv2.meanStdDev(self.picture)[1].max())

    @cached_property
    def centred(self) -> np.ndarray:
        """The picture minus its mean, divided by its norm: float32, flat."""
        values = self.picture.astype(np.float32).ravel()
        values -= values.mean()
        norm = float(np.linalg.norm(values))
        return values / norm if norm > 1e-3 else values * 0


def thumb_of(bgr: np.ndarray, index: int, time_s: float) -> Thumb:
    return Thumb(index, time_s, cv2.resize(bgr, SIZE, interpolation=cv2.INTER_AREA))


def change(a: Thumb, b: Thumb) -> float:
    """Mean absolute difference in grey levels, 0 to 255."""
    return float(cv2.norm(a.picture, b.picture, cv2.NORM_L1)) / _VALUES


def correlation(a: Thumb, b: Thumb) -> float:
    """Correlation of the values, -1 to 1; 1 for pictures that differ in brightness and contrast only; 0 beside a plain one."""
    return float(a.centred @ b.centred)


def colour_change(a: Thumb, b: Thumb) -> float:
    """The share of pixels that another colour took, 0 to 1 (total variation distance of ``colours``)."""
    return 0.5 * float(cv2.norm(a.colours, b.colours, cv2.NORM_L1))


class Recent:
    """The thumbnails of the last ``seconds``, but never fewer than ``fewest``, oldest first."""

    def __init__(self, seconds: float, fewest: int) -> None:
        self.seconds, self.fewest = seconds, fewest
        self._kept: deque[Thumb] = deque()

    def add(self, thumb: Thumb) -> None:
        self._kept.append(thumb)
        while len(self._kept) > self.fewest and self._kept[0].time_s < thumb.time_s - self.seconds:
            self._kept.popleft()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def newest(self) -> Thumb:
        return self._kept[-1]

    def at(self, index: int) -> Thumb | None:
        """The thumbnail of this frame, if it is still kept; frames are kept without gaps."""
        place = index - self._kept[0].index if self._kept else -1
        return self._kept[place] if 0 <= place < len(self._kept) else None

    def before(self, thumb: Thumb, seconds: float) -> Iterator[Thumb]:
        """Those up to this long before it, newest first, at least one where there is one."""
        for n in range(thumb.index - self._kept[0].index - 1, -1, -1):
            other = self._kept[n]
            if other.time_s < thumb.time_s - seconds - 1e-6 and n < thumb.index - self._kept[0].index - 1:
                return
            yield other

    def after(self, thumb: Thumb, seconds: float) -> Iterator[Thumb]:
        """Those up to this long after it, oldest first, at least one where there is one."""
        first = max(0, thumb.index - self._kept[0].index + 1)
        for n in range(first, len(self._kept)):
            other = self._kept[n]
            if other.time_s > thumb.time_s + seconds + 1e-6 and n > first:
                return
            yield other
