"""Technical quality: sharp, clean, unblocked and with its tones, as an imaging quality that needs no weights.

Ours, not MUSIQ, hence the name. Per frame the geometric mean of four shares, so that one fault cannot be made up for by the
others: sharpness after a 3 x 3 median (which removes the noise that would pass for detail), by re-blurring as in
``sharpness_crete``; cleanliness 1 / (1 + sigma / 10), with sigma the noise in grey levels by Immerkaer (1996) over the
plainest quarter of the picture's blocks; the excess of steps on a grid of 8 px over steps elsewhere, which coarse
compression leaves; and tones, ``exposure``'s share of unclipped pixels times how much of 100 grey levels lies between the
1st and the 99th percentile. Range 0..1, higher is better. Known failure: a soft background, fog and night are faults to it; a
grid that was scaled or filtered after compression is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.metrics.exposure import unclipped
from models.metrics.sharpness_crete import frame_sharpness
from models.metrics.tools import Reference, Tools, check_video, sampled
from models.subjects.protocols import F32, U8

BLOCK = 16  # px
GRID = 8  # px: the blocks of JPEG and MPEG
HALF_AT = 10.0  # grey levels of noise at which cleanliness is a half
FULL_RANGE = 100.0  # grey levels between the 1st and 99th percentile from which tones count in full


def technical_quality(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean over at most 16 frames of the geometric mean above; 0 for a flat picture."""
    check_video(video_FHWC)
    return float(np.mean([_frame(frame) for frame in sampled(video_FHWC, 16)]))


def _frame(picture_HWC: U8) -> float:
    import cv2

    luma = cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2GRAY)
    gray = luma.astype(np.float32)
    sharp = max(0.0, frame_sharpness(cv2.medianBlur(luma, 3).astype(np.float32)))
    clean = 1.0 / (1.0 + noise_of(gray) / HALF_AT)
    dark, bright = np.percentile(luma, [1, 99])
    tones = unclipped(picture_HWC[None]) * min(1.0, float(bright - dark) / FULL_RANGE)
    return float((sharp * clean * tones / max(1.0, grid_of(gray) - 0.5)) ** (1 / 4))


def grid_of(luma_HW: F32) -> float:
    """Mean step between neighbours across the strongest phase of a grid of 8 px over that of the median phase, the
    stronger direction; 1 for no grid.
    """
    found = [1.0]
    for steps in (np.abs(np.diff(luma_HW, axis=1)).mean(0), np.abs(np.diff(luma_HW, axis=0)).mean(1)):
        if len(steps) >= 4 * GRID:
            phases = np.array([steps[phase::GRID].mean() for phase in range(GRID)])
            found.append(float(phases.max() / max(np.median(phases), 1e-3)))
    return max(found)


def noise_of(luma_HW: F32) -> float:
    """Standard deviation of white noise in grey levels, in the plainest quarter of the blocks of 16 px."""
    import cv2

    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    rest = np.abs(cv2.filter2D(luma_HW, cv2.CV_32F, mask))[1:-1, 1:-1]
    height, width = (max(1, side // BLOCK) for side in rest.shape)
    blocks = cv2.resize(rest, (width, height), interpolation=cv2.INTER_AREA)
    return float(np.sqrt(np.pi / 2) / 6 * np.quantile(blocks, 0.25))
