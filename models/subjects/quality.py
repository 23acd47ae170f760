"""How good a crop is as a reference: is the subject whole, and is it sharp."""

from __future__ import annotations

import numpy as np

from models.subjects.protocols import U8


def completeness(mask_HW: U8) -> float:
    """Which share of a mask's outline (H, W uint8 over the whole frame, 255 inside) the frame's border does not cut off, 0..1.

    1 for a subject that stays clear of the border; a subject of which the frame shows half has about 0.7.
    """
    import cv2

    inside = (mask_HW > 127).astype(np.uint8)
    padded = np.pad(inside, 1)
    outline = padded & (1 - cv2.erode(padded, np.ones((3, 3), np.uint8)))
    border = int(inside[0].sum() + inside[-1].sum() + inside[1:-1, 0].sum() + inside[1:-1, -1].sum())
    return float(1.0 - border / max(1, int(outline.sum())))


def sharpness(picture_HWC: U8, mask_HW: U8) -> float:
    """log10 of 1 + the variance of the Laplacian of the luma (0..255) inside the mask, at the crop's own scale.

    Pech-Pacheco et al., ICPR 2000. The mask is taken in by two pixels, so that its own edge does not count.
    """
    import cv2

    gray = cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2GRAY)
    inner = cv2.erode((mask_HW > 127).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if not inner.any():
        return 0.0
    return float(np.log10(1.0 + cv2.Laplacian(gray, cv2.CV_32F)[inner].var()))
