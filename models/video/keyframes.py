"""Chooses the key frames of a clip whose end is not known yet, in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

from models.scorers.base import Every, Picture

POSITIONS = (0.1, 0.5, 0.9)  # shares of the clip's length: clear of the boundaries, where dissolves and fades linger
SHORT_SIDE = 256  # px, what image encoders take, with room to crop
_RATE = 3.0  # candidates a second at first
_KEEP = 32  # older candidates kept of the open clip; every second one goes when there are more
_PLANE_RATE = 12.0  # small planes a second kept beside: a shot too short for a candidate still has one of these
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
    index: int
    time_s: float
    picture: np.ndarray


class KeyFramePicker:
    """Fed with every frame; ``clip`` returns the candidates nearest to each position.

    Candidates of the open clip thin out as it grows, so a position is met to within 1/16 of the clip's length.
    """

    def __init__(self) -> None:
        self._due = Every(_RATE)
        self._due_plane = Every(_PLANE_RATE)
        self._planes: deque[_Candidate] = deque()
        self._old: list[_Candidate] = []
        self._recent: deque[_Candidate] = deque()
        self._stride = 1
        self._seen = 0

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if self._due_plane(time_s):
            self._planes.append(_Candidate(index, time_s, picture.bgr))
            while self._planes[0].time_s < time_s - _RECENT_S:
                self._planes.popleft()
        if not self._due(time_s):
            return
        width, height = picture.frame.size
        scale = min(1.0, SHORT_SIDE / min(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._recent.append(_Candidate(index, time_s, picture.frame.picture(size)))
        while self._recent[0].time_s < time_s - _RECENT_S:
            candidate = self._recent.popleft()
            if self._seen % self._stride == 0:
                self._old.append(candidate)
            self._seen += 1
            if len(self._old) > _KEEP:
                self._old = self._old[::2]
                self._stride *= 2

    def clip(self, start_frame: int, end_frame: int, start_s: float, end_s: float) -> list[KeyFrame]:
        """The clip's key frames; fewer than three different pictures when it is short, none when it has no candidate."""
        inside = [c for c in (*self._old, *self._recent) if start_frame <= c.index < end_frame]
        if not inside:
            inside = [c for c in self._planes if start_frame <= c.index < end_frame]
        self._old = [c for c in self._old if c.index >= end_frame]
        self._stride, self._seen = 1, 0
        if not inside:
            return []
        frames = []
        for position in POSITIONS:
            wanted = start_s + position * (end_s - start_s)
            best = min(inside, key=lambda c: abs(c.time_s - wanted))
            frames.append(KeyFrame(position, best.time_s, jpeg(best.picture)))
        return frames


def jpeg(bgr: np.ndarray) -> bytes:
    """A BGR uint8 picture as JPEG."""
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"a picture of shape {bgr.shape} could not be written as JPEG")
    return data.tobytes()
