"""CLIP-I: does the video look like the reference?

Source: DreamBooth (CVPR 2023): cosine of CLIP image embeddings of each frame and each reference, averaged. Range -1..1
(papers print it x100), higher is better. Known failure: it sees whole pictures, so a copied background raises it (read it beside
copy_paste). Meaningless with random weights, which the table then says.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.tools import Reference, Tools, check_video, frame_embeddings
from models.subjects.frames import png
from models.subjects.protocols import U8


def clip_i(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean cosine of 8 frames with every reference; None without a CLIP tower or a reference."""
    check_video(video_FHWC)
    if tools.clip is None or not references:
        return None
    images = frame_embeddings(video_FHWC, tools.clip)
    return float((images @ tools.clip.images([png(r.picture) for r in references]).T).mean())
