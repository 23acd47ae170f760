"""Flicker of a clip: brightness that jumps up and down from frame to frame."""

from __future__ import annotations

from typing import ClassVar

import cv2
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Picture, Series, VideoInfo


class Flicker:
    """Mean distance of each frame's mean luma from the middle between its neighbours'.

    Steady light and steady fades give 0; light that alternates by d between frames gives d.
    """

    name: ClassVar[str] = "flicker"
    version: ClassVar[str] = "2"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("flicker", pa.float64(), "mean |b - (b before + b after) / 2| of the frames' mean luma b", "0..1"),
    )

    def start(self, info: VideoInfo) -> None:
        self._series = Series(1)
        self._last: list[float] = []

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        blue, green, red, _ = cv2.mean(picture.tiny)
        self._last.append((0.114 * blue + 0.587 * green + 0.299 * red) / 255.0)
        if len(self._last) == 3:
            before, now, after = self._last
            self._series.add(index - 2, index, abs(now - (before + after) / 2.0))
            del self._last[0]

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return {"flicker": self._series.take(start_frame, end_frame)[0]}
