"""Exposure: the share of pixels that are neither black nor white.

Ours. A pixel counts as clipped when its luma lies within 4 of either end of 0..255. Range 0..1, higher is better; 0 for
black and for white, 1 for mid grey. Known failure: a night scene or a cut-out on white is penalised for what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.metrics.tools import Reference, Tools, check_video, sampled
from models.subjects.protocols import U8


def exposure(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Share of unclipped pixels over at most 16 frames."""
    check_video(video_FHWC)
    return unclipped(sampled(video_FHWC, 16))


def unclipped(video_FHWC: U8) -> float:
    """Share of the pixels whose luma lies more than 4 from either end of 0..255."""
    luma = video_FHWC.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return float(((luma > 4.0) & (luma < 251.0)).mean())
