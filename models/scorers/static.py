"""Stillness of a clip: how often nothing at all changes, and whether it is a sequence of slides."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = 4.0  # comparisons a second
_SIZE = (64, 36)  # averaging down to this leaves motion and takes away the noise of compression
_MEAN = 0.35  # grey levels of 255; a re-encoded slide stays under it
_PLACE = 3.0  # grey levels that no single place may exceed: a small thing moving on a still ground
_SLIDE_S = 0.75  # from the first to the last sample of the shortest slide, which then lasts some 1 s


class Static:
    """What frames 0.25 s apart say about stillness.

    A slide is a stretch of 1 s or more in which nothing changes, measured to within 0.25 s at either end. One slide fills a
    frozen shot; two and more make a slideshow, whatever moves between them (a shot of a video that hard cuts already part has
    one). A panned or zoomed photograph moves: it has ``motion_residual`` far below ``motion_camera`` instead.
    """

    name: ClassVar[str] = "static"
    version: ClassVar[str] = "2"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("static_share", pa.float64(), "share of frame pairs 0.25 s apart in which nothing changes", "0..1"),
        Field("slides", pa.float64(), "still stretches of 1 s or more", "count"),
        Field("slide_s", pa.float64(), "mean length of those stretches; null where there is none", "s"),
    )

    def start(self, info: VideoInfo) -> None:
        self._due = Every(_RATE)
        self._same = Series(1)
        self._slides = Series(2, "sum")
        self._before: np.ndarray | None = None
        self._last = (0, 0.0)  # frame and instant of the newest sample
        self._since: tuple[int, float] | None = None  # of the first sample of the stretch that is still going on

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if not self._due(time_s):
            return
        small = cv2.resize(picture.gray, _SIZE, interpolation=cv2.INTER_AREA).astype(np.int16)
        if self._before is not None:
            change = np.abs(small - self._before)
            same = float(change.mean()) < _MEAN and float(change.max()) <= _PLACE
            self._same.add(self._last[0], index, float(same))
            if not same:
                self._end_slide()
        self._since = self._since or (index, time_s)
        self._before, self._last = small, (index, time_s)

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        share = self._same.take(start_frame, end_frame)[0]
        if self._last[0] < end_frame:  # nothing newer was seen: a stretch that goes on ends with the clip
            self._end_slide()
        seconds, count = self._slides.take(start_frame, end_frame)
        slides = count or (None if share is None else 0.0)
        return {"static_share": share, "slides": slides, "slide_s": seconds / count if seconds and count else None}

    def _end_slide(self) -> None:
        if self._since is not None and self._last[1] - self._since[1] >= _SLIDE_S - 0.02:
            self._slides.add(self._since[0], self._last[0], self._last[1] - self._since[1], 1.0)
        self._since = None
