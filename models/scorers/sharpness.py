"""Sharpness of a clip: how much detail a further blur would take away."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = 2.0  # frames a second
_TAPS = 9  # length of the blur, as in the paper
_FLAT = 0.05  # mean neighbour difference in grey levels under which there is no edge to judge


class Sharpness:
    """One minus the perceptual blur of Crete et al., "The blur effect" (2007), at a long side of 480 px.

    A sharp picture loses most of its neighbour differences to a blur, a blurred one hardly any. Pictures smaller than 480
    px are judged as they are, so an enlarged one counts as blurred and a small sharp one as sharp.
    """

    name: ClassVar[str] = "sharpness"
    version: ClassVar[str] = "1"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("sharpness", pa.float64(), "1 - blur effect (Crete 2007) on brightness; null for flat pictures", "0..1"),
    )

    def start(self, info: VideoInfo) -> None:
        self._due = Every(_RATE)
        self._series = Series(1)

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if self._due(time_s):
            self._series.add(index, index, sharpness(picture.detail))

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return {"sharpness": self._series.take(start_frame, end_frame)[0]}


def sharpness(gray: np.ndarray) -> float | None:
    """Sharpness of one uint8 HW picture in 0..1; None when it is too small or too flat to have an edge."""
    if min(gray.shape) < _TAPS:
        return None
    picture = (
        gray.astype(np.uint16) * 128
    )  # room for the fractions of a mean in whole numbers, which OpenCV is fastest with
    kept = []
    for axis, kernel in ((0, (1, _TAPS)), (1, (_TAPS, 1))):
        sharp = _neighbour_difference(picture, axis)
        total = cv2.sumElems(sharp)[0]
        if total < _FLAT * 128 * sharp.size:
            continue
        # differences that the blur takes away; those that it adds count as nothing (the subtraction stops at 0)
        lost = cv2.subtract(sharp, _neighbour_difference(cv2.blur(picture, kernel), axis))
        kept.append(1.0 - cv2.sumElems(lost)[0] / total)
    return 1.0 - max(kept) if kept else None


def _neighbour_difference(picture: np.ndarray, axis: int) -> np.ndarray:
    if axis == 0:
        return cv2.absdiff(picture[1:], picture[:-1])
    return cv2.absdiff(picture[:, 1:], picture[:, :-1])
