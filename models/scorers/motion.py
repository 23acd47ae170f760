"""Motion of a clip from optical flow: how much, how much at its liveliest, and how much is the camera's."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = (
    4.0  # pairs a second: motion changes over tenths of a second, and a pair costs as much as decoding one small frame
)
_GAP_S = (
    0.08  # between the frames of a pair: longer than the repeats of animation drawn on twos, short enough for fast pans
)
_GRID = 16  # px between the flow vectors that the camera is fitted to
_SMALLEST = 32  # px, short side below which DIS has no room for its pyramid
_UNIT = "frame diagonals/s"


class Motion:
    """Dense inverse search flow (Kroeger et al. 2016, OpenCV's ULTRAFAST) between frames about 0.08 s apart.

    Every speed is relative to the frame's diagonal, so that a clip scores the same at any resolution and frame rate. The
    camera is an affine field fitted robustly to the flow; what it leaves over is the residual.
    """

    name: ClassVar[str] = "motion"
    version: ClassVar[str] = "1"
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
        # Not cv2.magnitude: its last bit depends on where the arrays lie in memory, and equal work must give equal scores.
        speed = np.sqrt(flow[..., 0] ** 2 + flow[..., 1] ** 2).ravel()
        top = len(speed) // 10
        # Sorted, because partition leaves an order that varies from run to run, and a float sum follows its order.
        fastest = float(np.sort(np.partition(speed, len(speed) - top)[-top:]).mean(dtype=np.float64))
        vectors = flow[_GRID // 2 :: _GRID, _GRID // 2 :: _GRID].reshape(-1, 2).astype(np.float64)
        field = self._camera(vectors, before.shape)
        camera = float(np.linalg.norm(field, axis=1).mean())
        residual = float(np.linalg.norm(vectors - field, axis=1).mean())
        return float(speed.mean(dtype=np.float64)) * unit, fastest * unit, camera * unit, residual * unit

    def _camera(self, vectors: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The affine field (N, 2) that fits most of the vectors: least squares, reweighted by Cauchy's weights."""
        if self._design is None or len(self._design) != len(vectors):
            y, x = np.mgrid[_GRID // 2 : shape[0] : _GRID, _GRID // 2 : shape[1] : _GRID]
            ones = np.ones(x.size)
            self._design = np.stack([ones, x.ravel() / shape[1] - 0.5, y.ravel() / shape[0] - 0.5], axis=1)
        design = self._design
        field = np.broadcast_to(np.median(vectors, axis=0), vectors.shape)
        for _ in range(5):
            error = np.linalg.norm(vectors - field, axis=1)
            scale = max(0.2, 1.48 * float(np.median(error)))  # px; 1.48 turns a median into a standard deviation
            weight = 1.0 / (1.0 + (error / (2.385 * scale)) ** 2)  # 2.385: 95 % efficiency on normal errors
            weighted = design * weight[:, None]
            field = design @ np.linalg.solve(weighted.T @ design + 1e-6 * np.eye(3), weighted.T @ vectors)
        return field
