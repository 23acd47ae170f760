"""CLIP-T: does the video show what the prompt says?

Source: DreamBooth (CVPR 2023) and most S2V papers: cosine of the CLIP image embedding of each frame with the CLIP text
embedding of the prompt, averaged over frames. Range -1..1 (papers print it x100), higher is better. The layout's marks
are taken out of the prompt first: CLIP has never seen "Ref 1[...]". Known failure: blind to who does what, cut at 77
tokens, and meaningless with random weights, which the table then says.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.tools import Reference, Tools, check_video, frame_embeddings
from models.subjects.prompts import plain
from models.subjects.protocols import U8


def clip_t(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean cosine of 8 frames with the plain prompt; None without a CLIP tower or words."""
    check_video(video_FHWC)
    text = plain(prompt)
    if tools.clip is None or not text:
        return None
    images = frame_embeddings(video_FHWC, tools.clip)
    return float((images @ tools.clip.texts([text])[0]).mean())
