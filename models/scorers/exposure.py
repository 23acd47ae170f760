"""Exposure of a clip: how bright it is, how much of it is black or burnt out, and how far its tones spread."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = 2.0  # frames a second
_DARK = 20  # of 255: what a display in a lit room shows as black
_BRIGHT = 250  # of 255: burnt out, with room for the ringing of codecs


class Exposure:
    """Statistics of brightness (luma, full range) on the small plane."""

    name: ClassVar[str] = "exposure"
    version: ClassVar[str] = "2"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("brightness", pa.float64(), "mean luma", "0..1"),
        Field("dark_share", pa.float64(), "share of pixels with luma under 20 of 255", "0..1"),
        Field("bright_share", pa.float64(), "share of pixels with luma over 250 of 255", "0..1"),
        Field("contrast", pa.float64(), "standard deviation of luma over the picture", "0..0.5"),
    )

    def start(self, info: VideoInfo) -> None:
        self._due = Every(_RATE)
        self._series = Series(4)

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if not self._due(time_s):
            return
        counts = cv2.calcHist([picture.gray], [0], None, [256], [0, 256]).ravel().astype(np.float64)
        share = counts / counts.sum()
        levels = np.arange(256) / 255.0
        mean = float(share @ levels)
        spread = float(np.sqrt(share @ (levels - mean) ** 2))
        self._series.add(index, index, mean, float(share[:_DARK].sum()), float(share[_BRIGHT + 1 :].sum()), spread)

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return dict(zip((c.name for c in self.columns), self._series.take(start_frame, end_frame), strict=True))
