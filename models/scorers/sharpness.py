"""Sharpness of a clip: how much detail a further blur would take away, over the picture and where it is sharpest."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = 1.0  # frames a second
_TAPS = 9  # length of the blur, as in the paper
_FLAT = 0.05  # mean neighbour difference in grey levels under which there is no edge to judge
_BLOCKS = 6  # along the short side: a face or a flower in focus fills one or more
_EDGES = 2.0  # grey levels of mean neighbour difference (both directions together) that a block needs to be judged
_BEST = 0.95  # quantile: one block may be a logo or a caption, which are always sharp


class Sharpness:
    """One minus the perceptual blur of Crete et al., "The blur effect" (2007), at a long side of 480 px.

    A sharp picture loses most of its neighbour differences to a blur, a blurred one hardly any. Shallow focus makes most of a
    picture soft on purpose, so ``sharpness_best`` asks the same of blocks and takes the sharpest: low only where nothing is in
    focus. Pictures smaller than 480 px are judged as they are: an enlarged one counts as blurred, a small sharp one as sharp.
    """

    name: ClassVar[str] = "sharpness"
    version: ClassVar[str] = "2"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("sharpness", pa.float64(), "1 - blur effect (Crete 2007) on brightness; null for flat pictures", "0..1"),
        Field("sharpness_best", pa.float64(), "the same for the sharpest twentieth of the picture's blocks", "0..1"),
    )

    def start(self, info: VideoInfo) -> None:
        self._due = Every(_RATE)
        self._series = Series(2)

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if self._due(time_s):
            self._series.add(index, index, *sharpness(picture.detail))

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return dict(zip((c.name for c in self.columns), self._series.take(start_frame, end_frame), strict=True))


def sharpness(gray: np.ndarray) -> tuple[float | None, float | None]:
    """Sharpness of one uint8 HW picture as a whole and of its sharpest blocks; None where there is no edge to judge."""
    if min(gray.shape) < 3 * _TAPS:
        return None, None
    # in 128ths of a grey level: room for the fractions of a mean in whole numbers, which OpenCV is fastest with
    picture = gray.astype(np.uint16) * 128
    whole, edges, losses = [], [], []
    for axis, kernel in ((0, (1, _TAPS)), (1, (_TAPS, 1))):
        sharp = _neighbour_difference(picture, axis)
        # differences that the blur takes away; those that it adds count as nothing (the subtraction stops at 0)
        lost = cv2.subtract(sharp, _neighbour_difference(cv2.blur(picture, kernel), axis))
        total = cv2.sumElems(sharp)[0]
        if total >= _FLAT * 128 * sharp.size:
            whole.append(1.0 - cv2.sumElems(lost)[0] / total)
        edges.append(sharp)
        losses.append(lost)
    side = min(gray.shape) // _BLOCKS
    edge, loss = (_block_means(down, across, side) for down, across in (edges, losses))
    judged = edge >= _EDGES * 128
    best = float(np.quantile(loss[judged] / edge[judged], _BEST)) if judged.any() else None
    return 1.0 - max(whole) if whole else None, best


def _neighbour_difference(picture: np.ndarray, axis: int) -> np.ndarray:
    if axis == 0:
        return cv2.absdiff(picture[1:], picture[:-1])
    return cv2.absdiff(picture[:, 1:], picture[:, :-1])


def _block_means(down: np.ndarray, across: np.ndarray, side: int) -> np.ndarray:
    """Means of the sum of both uint16 pictures over square blocks, float64 [rows, columns]; what is left at the edges is left."""
    rows, columns = down.shape[0] // side, across.shape[1] // side
    both = cv2.add(down[: rows * side, : columns * side], across[: rows * side, : columns * side])
    return np.asarray(both.reshape(rows, side, columns, side).sum(axis=(1, 3), dtype=np.uint32) / side**2)
