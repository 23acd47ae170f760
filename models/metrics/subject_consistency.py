"""Subject consistency: does the subject stay itself over time, by DINO?

Source: VBench ``subject_consistency`` (CVPR 2024): DINO embeddings of all frames; for each after the first, the mean of
max(0, cosine with the first) and max(0, cosine with the one before), averaged. VBench's numbers are those of DINO ViT-B/16 on
whole frames; the model here is the configured one, which sees the middle square of a frame (``dino.py``), so on wide videos
they are near but not the same. Range 0..1, higher is better; 1 for a still picture. Known failure: it knows of no reference,
looks at the background as at the subject, misses what happens at the sides of a wide picture, and pays for standing still,
so it is read beside dynamic degree.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.tools import Reference, Tools, check_video, steadiness
from models.subjects.protocols import U8


def subject_consistency(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """The formula above on all frames; None without a DINO encoder or with a single frame."""
    check_video(video_FHWC)
    if tools.dino is None or len(video_FHWC) < 2:
        return None
    return steadiness(tools.dino.encode(list(video_FHWC)))
