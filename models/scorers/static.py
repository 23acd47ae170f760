"""Stillness of a clip: how often nothing at all changes, as in slides, photographs and frozen streams."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = 5.0  # comparisons a second
_SIZE = (64, 36)  # averaging down to this leaves motion and takes away the noise of compression
_MEAN = 0.35  # grey levels of 255; a re-encoded slide stays under it
_PLACE = 3.0  # grey levels that no single place may exceed: a small thing moving on a still ground


class Static:
    """Share of frame pairs 0.2 s apart that are nearly identical."""

    name: ClassVar[str] = "static"
    version: ClassVar[str] = "1"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("static_share", pa.float64(), "share of frame pairs 0.2 s apart in which nothing changes", "0..1"),
    )

    def start(self, info: VideoInfo) -> None:
        self._due = Every(_RATE)
        self._series = Series(1)
        self._before: tuple[np.ndarray, int] | None = None

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if not self._due(time_s):
            return
        small = cv2.resize(picture.gray, _SIZE, interpolation=cv2.INTER_AREA).astype(np.int16)
        if self._before is not None:
            change = np.abs(small - self._before[0])
            same = float(change.mean()) < _MEAN and float(change.max()) <= _PLACE
            self._series.add(self._before[1], index, float(same))
        self._before = (small, index)

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return {"static_share": self._series.take(start_frame, end_frame)[0]}
