"""Face similarity: is the face in the video that of the reference?

Source: FaceSim of OpenS2V-Eval (arXiv 2505.20292): the largest face of reference and frame, described by a face recogniser
(ArcFace, CurricularFace), cosine below 0 taken as 0. The published code drops frames whose face was not found for one
recogniser and keeps them for the other; here a frame without a face counts as 0 (a model that loses the face must not gain),
and ``face_rate`` says in how many one was found. Range 0..1, higher is better. The recogniser is the user's plug-in: the
known weights are for research alone. Known failure: profiles and small faces lower it, whoever they show.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.tools import Reference, Tools, check_video, sampled
from models.subjects.protocols import U8

FRAMES = 32  # as OpenS2V-Eval takes them


def face_similarity(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean over 32 frames of the best cosine with a reference's face; None without a recogniser or a reference's face."""
    check_video(video_FHWC)
    if tools.faces is None:
        return None
    wanted = [face for r in references if (face := tools.faces.largest(r.picture)) is not None]
    if not wanted:
        return None
    total, frames = 0.0, sampled(video_FHWC, FRAMES)
    for frame in frames:
        face = tools.faces.largest(frame)
        if face is not None:
            total += max(0.0, *(float(face @ w) for w in wanted))
    return total / len(frames)
