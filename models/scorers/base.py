"""What a frame scorer is, what it is shown of each frame, and how its samples become one number a clip."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Protocol

import numpy as np
from av.video.reformatter import Interpolation

from data_schemas.schema import Field
from models.video.reader import Frame, fitted, turned

TINY_SIDE = 160  # long side of the picture that every frame is scaled to: enough to tell pictures apart by
PLANE_SIDE = 320  # long side for what is sampled a few times a second: DIS flow is as exact there as at full size
DETAIL_SIDE = 480  # long side for fine structure (edges, letters), averaged down rather than picked
PATCH = 32  # px, side of a patch of the full-size picture
_PATCHES = 8  # patches along each direction, evenly spread
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG


class Picture:
    """One frame as scorers see it, upright. Nothing is converted before it is asked for, and nothing twice.

    What a plane costs is reading the decoded frame from memory, so ask for the smallest that will do: ``tiny`` is made for
    every frame anyway, the others only for frames that some scorer samples. All values are full range (0 black, 255 white).
    """

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    @cached_property
    def tiny(self) -> np.ndarray:
        """uint8 BGR HW3, long side at most 160 px, one pixel for each: half of the rows that two taps would read."""
        raw = self.frame.raw
        size = fitted((raw.width, raw.height), TINY_SIDE)
        small = self.frame.scalers.scale(raw, *size, "bgr24", Interpolation.POINT)
        return turned(np.ascontiguousarray(small.to_ndarray()), self.frame.rotation)

    @cached_property
    def bgr(self) -> np.ndarray:
        """uint8 BGR HW3, long side at most 320 px, two taps a direction."""
        return self.frame.picture(fitted(self.frame.size, PLANE_SIDE), fast=True)

    @cached_property
    def gray(self) -> np.ndarray:
        """Brightness (luma), uint8 HW, long side at most 320 px, two taps a direction."""
        return self.frame.picture(fitted(self.frame.size, PLANE_SIDE), "gray", fast=True)

    @cached_property
    def detail(self) -> np.ndarray:
        """Brightness (luma) averaged down to a long side of at most 480 px, uint8 HW."""
        return self.frame.picture(fitted(self.frame.size, DETAIL_SIDE), "gray")

    @cached_property
    def patches(self) -> np.ndarray:
        """Brightness in at most 64 patches of the picture at full size, not scaled at all: float32 [N, 32, 32], 0..255.

        N is 0 where the picture is smaller than a patch. Patches lie as stored, so a rotated video's are not turned.
        """
        luma, scale, offset = _stored_luma(self.frame)
        rows, columns = (
            [*range(0, side - PATCH + 1, max(PATCH, (side - PATCH) // (_PATCHES - 1)))] for side in luma.shape
        )
        found = [luma[y : y + PATCH, x : x + PATCH] for y in rows for x in columns]
        if not found:
            return np.zeros((0, PATCH, PATCH), np.float32)
        return (np.stack(found).astype(np.float32) - np.float32(offset)) * np.float32(scale)


def _stored_luma(frame: Frame) -> tuple[np.ndarray, float, float]:
    """The luma plane as the decoder left it, uint8 HW without a copy, with the scale and offset that make it full range.

    Formats whose first plane is not 8-bit luma are converted.
    """
    first = frame.raw.format.components[0]
    if not (frame.raw.format.name.startswith(("yuv4", "yuvj4", "nv12")) and first.bits == 8):
        return frame.picture(order="gray"), 1.0, 0.0
    plane = frame.raw.planes[0]
    padded = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    stored = padded[: frame.raw.height, : frame.raw.width]
    full = frame.raw.format.name.startswith("yuvj") or frame.raw.color_range == _FULL_RANGE
    return stored, *((1.0, 0.0) if full else (255.0 / 219.0, 16.0))


@dataclass(frozen=True)
class VideoInfo:
    """What is known before the first frame: size as shown in pixels, and the header's word on the rate (a hint)."""

    width: int
    height: int
    fps_hint: float | None


class Scorer(Protocol):
    """Turns the frames of a video into columns of its clips.

    ``start`` is called once a video, ``frame`` for every decoded frame in order, ``clip`` once a clip in order, up to
    ``MAX_LATENESS`` frames after the clip's end went by. ``clip`` returns a value for every declared column, None where
    nothing could be measured. A scorer keeps no frames beyond the few it compares. Raising an exception gives up this
    scorer for this video and harms no other.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    columns: ClassVar[tuple[Field, ...]]

    def start(self, info: VideoInfo) -> None: ...

    def frame(self, picture: Picture, index: int, time_s: float) -> None: ...

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]: ...


_GOLDEN = 0.6180339887498949  # multiples of the golden ratio, modulo 1, fill an interval most evenly
MAX_LATENESS = 512  # frames by which a clip's end may lie behind the newest frame when it is announced


class Every:
    """Says yes about ``rate`` times a second, beginning with the first frame.

    ``jitter`` delays each instant by up to this share of the step, in a fixed sequence that never repeats: where frames are
    held (animation on twos, 8 frames a second stored as 24) evenly spaced instants can fall into step with the holds.
    """

    def __init__(self, rate: float, jitter: float = 0.0) -> None:
        self._step = 1.0 / rate
        self._jitter = jitter
        self._count = 0
        self._origin = 0.0
        self._next = -math.inf

    def __call__(self, time_s: float) -> bool:
        if time_s + 1e-6 < self._next:
            return False
        if self._next == -math.inf:
            self._origin = time_s
        # after a hole in time, go on from the newest frame and do not catch up
        self._count = max(self._count + 1, math.floor((time_s - self._origin) / self._step) + 1)
        delay = self._jitter * (self._count * _GOLDEN % 1.0)
        self._next = self._origin + (self._count + delay) * self._step
        return True


class Series:
    """Samples of a few values over frames, reduced clip by clip to their mean, minimum, maximum or sum.

    A sample covers the frames from ``first`` to ``last``; one that reaches over a clip's edge belongs to no clip. Values that
    are None or not finite do not count. Memory is bounded: samples too old to lie beyond a clip edge are folded together.
    """

    def __init__(self, values: int, reduce: Literal["mean", "min", "max", "sum"] = "mean") -> None:
        self._reduce = reduce
        self._values = values
        self._recent: deque[tuple[int, int, tuple[float, ...]]] = deque()
        self._open = 0  # first frame of the clip that is being folded
        self._clear()

    def _clear(self) -> None:
        self._total = [0.0] * self._values
        self._count = [0] * self._values

    def add(self, first: int, last: int, *values: float | None) -> None:
        self._recent.append((first, last, tuple(math.nan if v is None else float(v) for v in values)))
        while self._recent[0][1] < last - MAX_LATENESS:
            self._fold(self._recent.popleft())

    def _fold(self, sample: tuple[int, int, tuple[float, ...]]) -> None:
        if sample[0] < self._open:
            return
        for n, value in enumerate(sample[2]):
            if not math.isfinite(value):
                continue
            if not self._count[n]:
                self._total[n] = value
            elif self._reduce in ("mean", "sum"):
                self._total[n] += value
            else:
                self._total[n] = (min if self._reduce == "min" else max)(self._total[n], value)
            self._count[n] += 1

    def take(self, start: int, end: int) -> list[float | None]:
        """The reduction over ``[start, end)``; clips are asked for in order, and a sample counts in one clip only."""
        if start > self._open:
            self._clear()
            self._open = start
        while self._recent and self._recent[0][1] < end:
            self._fold(self._recent.popleft())
        result: list[float | None] = []
        for total, count in zip(self._total, self._count, strict=True):
            mean = self._reduce == "mean"
            result.append(None if not count else total / count if mean else total)
        self._clear()
        self._open = end
        return result
