"""Aesthetic: how beautiful a linear head on CLIP finds the frames.

Source: VBench ``aesthetic_quality``: LAION's predictor on unit CLIP ViT-L/14 embeddings, divided by 10, mean over frames: 8
of them here, all in VBench. The CLIP model and head are the configured ones. Range about 0..1, higher is better. Known
failure: likes vivid, centred, shallow-focus pictures whatever was asked for; meaningless with random weights, which the
table then says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.metrics.tools import Reference, Tools, check_video, frame_embeddings
from models.subjects.protocols import U8


def aesthetic(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean score of 8 evenly spread frames, divided by 10; None without a CLIP tower or a head."""
    check_video(video_FHWC)
    if tools.clip is None or tools.aesthetic is None:
        return None
    return float(np.mean(tools.aesthetic(frame_embeddings(video_FHWC, tools.clip)))) / 10.0
