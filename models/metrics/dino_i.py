"""DINO-I: does the video show the very subject of the reference?

Source: DreamBooth (CVPR 2023), "DINO": cosine of the DINO class tokens of each frame and each reference, averaged. Papers
use DINO ViT-S/16 and print it x100; the model here is the configured one. Range -1..1, higher is better. Known failure:
whole pictures, so a copied background raises it and a small subject is lost: read it beside ``dino_i_masked`` and
``copy_paste``.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.tools import FRAMES, Reference, Tools, check_video, sampled
from models.subjects.protocols import U8


def dino_i(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean cosine of 8 frames with every reference; None without a DINO encoder or a reference."""
    check_video(video_FHWC)
    if tools.dino is None or not references:
        return None
    frames = tools.dino.encode(list(sampled(video_FHWC, FRAMES)))
    return float((frames @ tools.dino.encode([r.picture for r in references]).T).mean())
