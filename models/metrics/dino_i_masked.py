"""Masked DINO-I: does the subject in the video look like the subject of the reference, whatever lies behind them?

Source: DINO-I-Seg of Phantom (arXiv 2502.11079): subjects are segmented in reference and frames, cut out, and compared by
the cosine of their DINO class tokens. Here the cut-out lies on the mean colour of ImageNet, which DINO sees as zero, in a
square. Best reference each, mean over frames. A frame in which no subject can be found counts as 0 (a model that loses the
subject must not gain). Range -1..1, higher is better. Known failure: as good as its masks, and the embedded segmenter's
masks on textured backgrounds are rough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.metrics.tools import Reference, Tools, check_video, find_subjects, reference_mask, spread_indices
from models.subjects.protocols import U8

GREY = np.array([124, 116, 104], np.uint8)  # 255 x ImageNet's mean (0.485, 0.456, 0.406)


def dino_i_masked(video_FHWC: U8, prompt: str, references: Sequence[Reference], tools: Tools) -> float | None:
    """Mean over 8 frames of the best cosine of the frame's subject with a reference's; None without a DINO encoder,
    a segmenter, or a reference in which a subject can be found.
    """
    check_video(video_FHWC)
    if tools.dino is None or tools.grounder is None or tools.segmenter is None:
        return None
    masked = [(r.picture, reference_mask(r, tools)) for r in references]
    wanted = [cut_out(p, m) for p, m in masked if m is not None and (m > 127).any()]
    if not wanted:
        return None
    at = spread_indices(video_FHWC)
    found = zip(at, find_subjects(video_FHWC, at, tools), strict=True)
    seen = [cut_out(video_FHWC[i], region.mask) for i, region in found if region is not None]
    if not seen:
        return 0.0
    cosines = tools.dino.encode(seen) @ tools.dino.encode(wanted).T
    return float(cosines.max(axis=1).sum() / len(at))


def cut_out(picture_HWC: U8, mask_HW: U8) -> U8:
    """The masked subject in the middle of a square of ``GREY`` that is 10% larger than its box."""
    rows, columns = np.flatnonzero((mask_HW > 127).any(1)), np.flatnonzero((mask_HW > 127).any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    height, width = bottom - top, right - left
    side = int(np.ceil(1.1 * max(height, width)))
    square = np.tile(GREY, (side, side, 1))
    y, x = (side - height) // 2, (side - width) // 2
    inside = mask_HW[top:bottom, left:right] > 127
    square[y : y + height, x : x + width][inside] = picture_HWC[top:bottom, left:right][inside]
    return square
