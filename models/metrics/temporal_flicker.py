"""Temporal flicker: how little neighbouring frames differ.

Source: VBench ``temporal_flickering`` (CVPR 2024): (255 - mean absolute difference of adjacent frames) / 255.
Range 0..1, higher is better; 1 for a still picture. Known failure: it pays for standing still (VBench itself asks for
static scenes), so it means nothing without dynamic degree beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from models.metrics.tools import Reference, Tools, check_video
from models.subjects.protocols import U8


def temporal_flicker(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """(255 - MAE of adjacent frames) / 255; None for a single frame."""
    check_video(video_FHWC)
    if len(video_FHWC) < 2:
        return None
    total = 0.0
    for before, after in pairwise(video_FHWC):
        total += float(np.abs(after.astype(np.int16) - before.astype(np.int16)).mean())
    return 1.0 - total / (len(video_FHWC) - 1) / 255.0
