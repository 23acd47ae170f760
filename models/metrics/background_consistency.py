"""Background consistency: does the whole picture stay itself over time, by CLIP?

Source: VBench ``background_consistency`` (CVPR 2024): CLIP embeddings of all frames; for each after the first, the mean of
max(0, cosine with the first) and max(0, cosine with the one before), averaged. VBench's numbers are those of CLIP ViT-B/32;
the model here is the configured one. Range 0..1, higher is better; 1 for a still picture. Known failure: the subject is in
the picture too; it pays for standing still, so it is read beside dynamic degree.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.tools import Reference, Tools, check_video, steadiness
from models.subjects.frames import png
from models.subjects.protocols import U8


def background_consistency(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """The formula above on all frames; None without a CLIP tower or with a single frame."""
    check_video(video_FHWC)
    if tools.clip is None or len(video_FHWC) < 2:
        return None
    return steadiness(tools.clip.images([png(frame) for frame in video_FHWC]))
