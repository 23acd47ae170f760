"""Copy-paste: does the video show the reference's background as well as its subject?

Ours; OpenS2V (arXiv 2505.20292) names the failure: a model that pastes the whole reference has perfect identity and ignores
the prompt. Background = what lies outside the subject's mask grown by 5% of the picture. Value = max(0, identity cosine of
the subjects) x max(0, identity cosine of the backgrounds), both by the identity encoder, averaged over frames. Range 0..1,
lower is better. None when the reference has no background worth the name (under 15% of the picture, or flat: a cut-out
on white cannot be pasted), or when no frame shows a subject before a background: a lost subject is no merit here, and
the identity metrics count it as 0. Known failure: two scenes of the same colours look copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.metrics.tools import Reference, Tools, check_video, find_subjects, reference_mask, spread_indices
from models.subjects.protocols import F32, U8, IdentityEncoder

LEAST_SHARE = 0.15
LEAST_SPREAD = 4.0  # grey levels: below this a background is a studio's paper


def copy_paste(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean over 8 frames of subject cosine x background cosine, worst reference; None where it cannot be told."""
    check_video(video_FHWC)
    if tools.identity is None:
        return None
    wanted = []
    for reference in references:
        mask = reference_mask(reference, tools)
        if mask is None:
            continue
        background = background_of(reference.picture, mask)
        if background is not None:
            wanted.append(_describe(tools.identity, reference.picture, mask, background))
    if not wanted:
        return None
    at = spread_indices(video_FHWC)
    values = []
    for index, region in zip(at, find_subjects(video_FHWC, at, tools), strict=True):
        mask = None if region is None else region.mask
        background = None if mask is None else background_of(video_FHWC[index], mask)
        if mask is None or background is None:
            continue
        subject, scene = _describe(tools.identity, video_FHWC[index], mask, background)
        values.append(max(max(0.0, float(subject @ s)) * max(0.0, float(scene @ b)) for s, b in wanted))
    return float(np.mean(values)) if values else None


def background_of(picture_HWC: U8, mask_HW: U8) -> U8 | None:
    """Mask of the background, 255 inside; None when there is too little of it or it is flat."""
    import cv2

    reach = max(1, round(0.05 * max(mask_HW.shape)))
    grown = cv2.dilate(mask_HW, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    outside = grown < 128
    if outside.mean() < LEAST_SHARE:
        return None
    if float(picture_HWC[outside].astype(np.float32).std(axis=0).max()) < LEAST_SPREAD:
        return None
    return np.where(outside, 255, 0).astype(np.uint8)


def _describe(encoder: IdentityEncoder, picture: U8, mask: U8, background: U8) -> tuple[F32, F32]:
    both = encoder.encode([picture, picture], [mask, background])
    return both[0], both[1]
