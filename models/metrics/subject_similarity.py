"""Subject similarity: is what stands out in the video what the reference shows?

Ours, in the form of masked DINO-I (Phantom's DINO-I-Seg, arXiv 2502.11079): the subject is segmented in the reference
and in evenly spread frames, both are described by the identity encoder, and cosines are averaged over frames, best
reference each. Range -1..1, higher is better. A frame in which no subject can be found counts as 0 (a model that
loses the subject must not gain). Known failure with the embedded closed form: colour and texture only; and a wrong mask
in the reference lowers every system alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from models.metrics.tools import Reference, Tools, check_video, find_subjects, reference_mask, spread_indices
from models.subjects.protocols import U8


def subject_similarity(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean over 8 frames of the best cosine of the frame's subject with a reference; None without reference or encoder."""
    check_video(video_FHWC)
    if tools.identity is None or not references:
        return None
    masked = [(r.picture, reference_mask(r, tools)) for r in references]
    known = [(p, m) for p, m in masked if m is not None]
    if not known:
        return None
    wanted = tools.identity.encode([p for p, _ in known], [m for _, m in known])
    at = spread_indices(video_FHWC)
    found = find_subjects(video_FHWC, at, tools)
    seen = [(video_FHWC[i], r.mask) for i, r in zip(at, found, strict=True) if r is not None]
    if not seen:
        return 0.0
    cosines = tools.identity.encode([p for p, _ in seen], [m for _, m in seen]) @ wanted.T
    return float(cosines.max(axis=1).sum() / len(at))
