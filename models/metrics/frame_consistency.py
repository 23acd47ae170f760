"""Frame consistency: does the picture stay itself over time, by CLIP?

Source: VBench ``background_consistency``: for each frame after the first, the mean of max(0, cosine with the first frame) and
max(0, cosine with the one before), averaged. Range 0..1, higher is better; 1 for a still picture. Named apart since the CLIP
model is the configured one and not VBench's ViT-B/32. Known failure: pays for standing still; little contrast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.metrics.tools import Reference, Tools, check_video, frame_embeddings
from models.subjects.protocols import U8


def frame_consistency(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """The formula above on 8 evenly spread frames; None without a CLIP tower or with a single frame."""
    check_video(video_FHWC)
    if tools.clip is None or len(video_FHWC) < 2:
        return None
    vectors = frame_embeddings(video_FHWC, tools.clip)
    to_first = np.maximum(0.0, vectors[1:] @ vectors[0])
    to_previous = np.maximum(0.0, (vectors[1:] * vectors[:-1]).sum(1))
    return float((0.5 * (to_first + to_previous)).mean())
