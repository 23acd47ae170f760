"""Chooses the key frames of a clip whose end is not known yet, in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation

from models.scorers.base import Every, Picture
from models.video.reader import Scalers, turned

POSITIONS = (0.1, 0.5, 0.9)  # shares of the clip's length: clear of the boundaries, where dissolves and fades linger
SHORT_SIDE = 256  # px, what image encoders take, with room to crop
_RATE = 3.0  # candidates a second at first
_KEEP = 32  # older candidates kept of the open clip; every second one goes when there are more
_TINY_RATE = 12.0  # tiny planes a second kept beside: a shot too short for a candidate still has one of these
_RECENT_S = 6.0  # a clip's end is announced at most this late, so candidates this young may belong to the next clip
_QUALITY = 88


@dataclass(frozen=True)
class KeyFrame:
    """A picture of a clip: its nominal place in it (share of its length), its instant, and the picture as JPEG."""

    position: float
    time_s: float
    jpeg: bytes


@dataclass(frozen=True)
class _Candidate:
    """A frame that may become a key frame, small but not yet converted: as stored, in YUV, which most of them remain."""

    index: int
    time_s: float
    small: av.VideoFrame
    rotation: int

    def picture(self, scalers: Scalers) -> np.ndarray:
        """The picture as shown, uint8 BGR HW3."""
        bgr = scalers.scale(self.small, self.small.width, self.small.height, "bgr24", Interpolation.AREA)
        return turned(np.ascontiguousarray(bgr.to_ndarray()), self.rotation)


@dataclass(frozen=True)
class _Tiny:
    """A plane of a shot that may be too short to have a candidate."""

    index: int
    time_s: float
    plane: np.ndarray

    def picture(self, scalers: Scalers) -> np.ndarray:
        return self.plane


class KeyFramePicker:
    """Fed with every frame; ``clip`` returns the candidates nearest to each position.

    Candidates of the open clip thin out as it grows, so a position is met to within 1/16 of the clip's length.
    """

    def __init__(self) -> None:
        self._due = Every(_RATE)
        self._due_tiny = Every(_TINY_RATE)
        self._tiny: deque[_Tiny] = deque()
        self._old: list[_Candidate] = []
        self._recent: deque[_Candidate] = deque()
        self._scalers = Scalers()
        self._stride = 1
        self._seen = 0

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if self._due_tiny(time_s):
            self._tiny.append(_Tiny(index, time_s, picture.tiny))
            while self._tiny[0].time_s < time_s - _RECENT_S:
                self._tiny.popleft()
        if not self._due(time_s):
            return
        self._recent.append(self._candidate(picture, index, time_s))
        while self._recent[0].time_s < time_s - _RECENT_S:
            candidate = self._recent.popleft()
            if self._seen % self._stride == 0:
                self._old.append(candidate)
            self._seen += 1
            if len(self._old) > _KEEP:
                self._old = self._old[::2]
                self._stride *= 2

    def _candidate(self, picture: Picture, index: int, time_s: float) -> _Candidate:
        # Scaled in YUV, and converted only if chosen: the conversion costs five times as much as the scaling.
        raw = picture.frame.raw
        scale = min(1.0, SHORT_SIDE / min(raw.width, raw.height))
        size = (max(1, round(raw.width * scale)), max(1, round(raw.height * scale)))
        small = self._scalers.scale(raw, *size, "yuv420p", Interpolation.AREA)
        return _Candidate(index, time_s, small, picture.frame.rotation)

    def clip(self, start_frame: int, end_frame: int, start_s: float, end_s: float) -> list[KeyFrame]:
        """The clip's key frames; fewer than three different pictures when it is short, none when it has no candidate."""
        inside: list[_Candidate | _Tiny] = [
            c for c in (*self._old, *self._recent) if start_frame <= c.index < end_frame
        ]
        if not inside:
            inside = [c for c in self._tiny if start_frame <= c.index < end_frame]
        self._old = [c for c in self._old if c.index >= end_frame]
        self._stride, self._seen = 1, 0
        if not inside:
            return []
        frames = []
        for position in POSITIONS:
            wanted = start_s + position * (end_s - start_s)
            best = min(inside, key=lambda c: abs(c.time_s - wanted))
            frames.append(KeyFrame(position, best.time_s, jpeg(best.picture(self._scalers))))
        return frames


def jpeg(bgr: np.ndarray) -> bytes:
    """A BGR uint8 picture as JPEG."""
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"a picture of shape {bgr.shape} could not be written as JPEG")
    return data.tobytes()
