"""Black borders of a clip: letterbox, pillarbox, or both."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = 2.0  # frames a second
_BLACK = 12.0  # mean luma of 255 that a border row may have: black with the noise of compression
_EVEN = 5.0  # standard deviation of luma within a border row: a night sky is dark but not this even


class Letterbox:
    """Share of the frame behind borders that are black in every sampled frame of the clip.

    Each side takes the narrowest border seen, so a dark moment of a bright clip does not count. Frames that are black
    altogether say nothing; a clip of only such frames gets null.
    """

    name: ClassVar[str] = "letterbox"
    version: ClassVar[str] = "2"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("letterbox", pa.float64(), "share of the frame's area that is black border throughout the clip", "0..1"),
        Field("bars_above_below", pa.float64(), "share of the frame's height under black bars (letterbox)", "0..1"),
        Field("bars_beside", pa.float64(), "share of the frame's width under black bars (pillarbox)", "0..1"),
    )

    def start(self, info: VideoInfo) -> None:
        self._due = Every(_RATE)
        self._series = Series(4, "min")

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if self._due(time_s):
            self._series.add(index, index, *borders(picture.gray))

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        top, bottom, left, right = self._series.take(start_frame, end_frame)
        if top is None or bottom is None or left is None or right is None:
            return {column.name: None for column in self.columns}
        rows, columns = top + bottom, left + right
        return {"letterbox": 1.0 - (1.0 - rows) * (1.0 - columns), "bars_above_below": rows, "bars_beside": columns}


def borders(gray: np.ndarray) -> tuple[float | None, ...]:
    """Black border at top, bottom, left and right as shares of height and width; None for a picture black throughout."""
    rows = _black(gray)
    if rows.all():
        return None, None, None, None
    top, bottom = int(np.argmin(rows)), int(np.argmin(rows[::-1]))
    # without the bars, which would dilute a column that is not black
    columns = _black(gray[top : len(rows) - bottom].T)
    if columns.all():
        return None, None, None, None
    left, right = int(np.argmin(columns)), int(np.argmin(columns[::-1]))
    return top / len(rows), bottom / len(rows), left / len(columns), right / len(columns)


def _black(lines: np.ndarray) -> np.ndarray:
    """Which rows of a uint8 picture are black and even."""
    dark = lines.sum(axis=1, dtype=np.uint32) <= _BLACK * lines.shape[1]
    if dark.any():
        dark[dark] = lines[dark].std(axis=1) <= _EVEN
    return dark
