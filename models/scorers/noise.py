"""Noise of a clip: grain and sensor noise, measured where the picture itself is plainest."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
import pyarrow as pa

from data_schemas.schema import Field
from models.scorers.base import Every, Picture, Series, VideoInfo

_RATE = 1.0  # frames a second
_PLAIN = 0.25  # quantile of the patches: texture looks like noise, so the plainer patches speak
_TONES = (8.0, 247.0)  # mean grey levels between which a patch counts: noise is cut off at black and white
# No edge, line or slope in either direction passes this filter; it multiplies the standard deviation of noise by 6
_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


class Noise:
    """Standard deviation of white noise by Immerkaer, "Fast noise variance estimation" (1996), in 64 patches at full size.

    Scaling averages noise away, so it is measured on the stored pixels. A codec that smooths its plain areas has removed the
    noise there, and the score says so: it is the noise that is left to see.
    """

    name: ClassVar[str] = "noise"
    version: ClassVar[str] = "1"
    columns: ClassVar[tuple[Field, ...]] = (
        Field(
            "noise", pa.float64(), "standard deviation of luma noise in the plainer patches (Immerkaer 1996)", "0..1"
        ),
    )

    def start(self, info: VideoInfo) -> None:
        self._due = Every(_RATE)
        self._series = Series(1)

    def frame(self, picture: Picture, index: int, time_s: float) -> None:
        if self._due(time_s):
            self._series.add(index, index, noise(picture.patches))

    def clip(self, start_frame: int, end_frame: int) -> dict[str, float | None]:
        return {"noise": self._series.take(start_frame, end_frame)[0]}


def noise(patches: np.ndarray) -> float | None:
    """Noise of patches float32 [N, S, S] in 0..255, as a share of 255; None where none has a middle tone."""
    means = patches.mean(axis=(1, 2), dtype=np.float64)
    patches = patches[(means > _TONES[0]) & (means < _TONES[1])]
    count, side = len(patches), patches.shape[-1]
    if not count:
        return None
    # all patches in one tall picture; rows and columns whose mask reaches into a neighbour are left out
    passed = cv2.filter2D(patches.reshape(-1, side), cv2.CV_32F, _MASK).reshape(count, side, side)[:, 1:-1, 1:-1]
    mean_size = np.abs(passed).mean(axis=(1, 2), dtype=np.float64)
    return float(np.quantile(np.sqrt(np.pi / 2) / 6 * mean_size, _PLAIN)) / 255.0
