"""Face rate: in which share of the frames is a face found, where the reference shows one?

Ours, to be read beside ``face_similarity``, whose frames without a face count as 0: it tells a lost face from another one.
Range 0..1, higher is better. Known failure: the detector's own, on profiles, small and covered faces.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.face_similarity import FRAMES
from models.metrics.tools import Reference, Tools, check_video, sampled
from models.subjects.protocols import U8


def face_rate(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Share of 32 frames with a face; None without a recogniser or a reference's face."""
    check_video(video_FHWC)
    faces = tools.faces
    if faces is None or all(faces.largest(r.picture) is None for r in references):
        return None
    frames = sampled(video_FHWC, FRAMES)
    return sum(faces.largest(frame) is not None for frame in frames) / len(frames)
