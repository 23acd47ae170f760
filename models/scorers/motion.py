"""Motion of a clip from optical flow: how much, how much at its liveliest, and how much is the camera's."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

# pairs a second: motion changes over tenths of a second, and a pair costs as much as decoding one small frame
_RATE = 3.0
# seconds between the frames of a pair: longer than the repeats of animation drawn on twos, short enough for fast pans
_GAP_S = 0.08
# px between the vectors that are looked at: ULTRAFAST finds them on a quarter of the plane and fills in the rest
_STEP = 4
_GRID = 4  # of those between the ones that the camera is fitted to
_SMALLEST = 32  # px, short side below which DIS has no room for its pyramid
_RIDGE = 1e-6 * np.eye(3)
_UNIT = "frame diagonals/s"


class Motion:
    """Dense inverse search flow (Kroeger et al. 2016, OpenCV's ULTRAFAST) between frames about 0.08 s apart.

    Every speed is relative to the frame's diagonal, so that a clip scores the same at any resolution and frame rate. The
    camera is an affine field fitted robustly to the flow; what it leaves over is the residual.
    """

    name: ClassVar[str] = "motion"
    version: ClassVar[str] = "2"
    columns: ClassVar[tuple[Field, ...]] = (
        Field("motion", pa.float64(), "mean optical flow speed (DIS ULTRAFAST)", _UNIT),
        Field("motion_top", pa.float64(), "mean flow speed of the fastest tenth of the pixels", _UNIT),
        Field("motion_camera", pa.float64(), "mean speed of the affine field that fits the flow best", _UNIT),
        Field(
            "motion_residual", pa.float64(), "mean speed of flow minus that field: what moves beside the camera", _UNIT
        ),
    )

    def start(self, info: VideoInfo) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._due = Every(_RATE, jitter=0.6)
        self._before: tuple[np.ndarray, int, float] | None = None
        self._series = Series(4)
        self._design: np.ndarray | None = None

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if self._before is not None:
            before, first, since = self._before
            gap = time_s - since
            if gap >= _GAP_S - 1e-4:
                self._series.add(first, index, *self._measure(before, picture.gray, gap))
                self._before = None
        if self._before is None and self._due(time_s):
            self._before = (picture.gray, index, time_s)

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return dict(zip((c.name for c in self.columns), self._series.take(start_frame, end_frame), strict=True))

    def _measure(self, before: np.ndarray, after: np.ndarray, gap_s: float) -> tuple[float | None, ...]:
        height, width = before.shape
        if min(height, width) < _SMALLEST or before.shape != after.shape:
            return None, None, None, None
        flow = self._flow.calc(before, after, None)
        unit = 1.0 / (float(np.hypot(width, height)) * gap_s)
        vectors = flow[_STEP // 2 :: _STEP, _STEP // 2 :: _STEP].astype(np.float64)
        # Not cv2.magnitude: its last bit depends on where the arrays lie in memory, and equal work must give equal scores.
        speed = np.sort(_lengths(vectors).ravel())
        fastest = float(speed[-max(1, len(speed) // 10) :].mean())
        spread = vectors[_GRID // 2 :: _GRID, _GRID // 2 :: _GRID]
        field = self._camera(spread)
        camera = float(_lengths(field).mean())
        residual = float(_lengths(spread.reshape(-1, 2) - field).mean())
        return float(speed.mean()) * unit, fastest * unit, camera * unit, residual * unit

    def _camera(self, vectors: np.ndarray) -> np.ndarray:
        """The affine field [N, 2] that fits most of the vectors [rows, columns, 2]: least squares, reweighted by Cauchy's weights."""
        rows, columns = vectors.shape[:2]
        if self._design is None or len(self._design) != rows * columns:
            y, x = np.mgrid[0:rows, 0:columns]
            self._design = np.stack([np.ones(x.size), x.ravel() / columns - 0.5, y.ravel() / rows - 0.5], axis=1)
        design, flat = self._design, vectors.reshape(-1, 2)
        middle = len(flat) // 2
        field = np.partition(flat, middle, axis=0)[middle][None]
        for _ in range(4):
            error = _lengths(flat - field)
            # px; 1.48 turns a median into a standard deviation
            scale = max(0.2, 1.48 * float(np.partition(error, middle)[middle]))
            weight = 1.0 / (1.0 + (error / (2.385 * scale)) ** 2)  # 2.385: 95 % efficiency on normal errors
            weighted = (design * weight[:, None]).T
            field = design @ np.linalg.solve(weighted @ design + _RIDGE, weighted @ flat)
        return field


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(vectors[..., 0] ** 2 + vectors[..., 1] ** 2)
