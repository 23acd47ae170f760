"""Colourfulness of a clip, as people rate it: from grey film to posters."""

from __future__ import annotations

import math
from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = 2.0  # frames a second


class Colourfulness:
    """The metric M3 of Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003).

    Spread and mean of the opponent colours red - green and yellow - blue. Their observers called 15 slightly, 33 moderately,
    59 quite and 109 extremely colourful; a grey picture has 0.
    """

    name: ClassVar[str] = "colourfulness"
    version: ClassVar[str] = "1"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("colourfulness", pa.float64(), "Hasler and Suesstrunk's M3 (2003)", "0 and up; 109 is extreme"),
    )

    def start(self, info: VideoInfo) -> None:
        self._due = Every(_RATE)
        self._series = Series(1)

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if self._due(time_s):
            self._series.add(index, index, colourfulness(picture.tiny))

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return {"colourfulness": self._series.take(start_frame, end_frame)[0]}


def colourfulness(bgr: np.ndarray) -> float:
    """Colourfulness of one uint8 BGR HW3 picture."""
    blue, green, red = (channel.astype(np.int16) for channel in cv2.split(bgr))
    opponents = (red - green).astype(np.float64), (red + green).astype(np.float64) / 2 - blue
    spread = math.hypot(*(float(o.std()) for o in opponents))
    mean = math.hypot(*(float(o.mean()) for o in opponents))
    return spread + 0.3 * mean
