"""Sharpness by re-blurring, as an imaging quality that needs no weights.

Source: Crete, Dolmiere, Ladret and Nicolas, "The blur effect" (SPIE 2007): blur the luma along an axis with a box of 9
and see how much of its neighbour-to-neighbour variation is lost; a blurred picture loses little. Here sharpness =
1 - blur, the blurrier axis deciding. Range 0..1, higher is sharper; 0 for a flat picture. Known
failure: it takes noise for sharpness, text and hard edges raise it, and of exposure or beauty it knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.metrics.tools import Reference, Tools, check_video, sampled
from models.subjects.protocols import F32, U8


def sharpness_crete(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean over at most 16 frames of 1 - the blur effect of the luma."""
    check_video(video_FHWC)
    import cv2

    frames = sampled(video_FHWC, 16)
    return float(np.mean([frame_sharpness(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float32)) for f in frames]))


def frame_sharpness(luma_HW: F32) -> float:
    """1 - blur of one (H, W) luma in grey levels; 0 where nothing varies."""
    return 1.0 - max(_blur_along(luma_HW), _blur_along(luma_HW.T))


def _blur_along(luma: F32) -> float:
    import cv2

    blurred = cv2.blur(np.ascontiguousarray(luma), (1, 9))
    sharp_variation = np.abs(np.diff(luma, axis=0))[1:-1, 1:-1]
    soft_variation = np.abs(np.diff(blurred, axis=0))[1:-1, 1:-1]
    total = float(sharp_variation.sum())
    if total <= 1e-3 * sharp_variation.size:
        return 1.0
    lost = float(np.maximum(0.0, sharp_variation - soft_variation).sum())
    return (total - lost) / total
