"""The embedded identity encoder: colours, textures and shape of a masked subject in one closed form, nothing learnt.

It tells apart things that differ in colour or pattern and knows nothing of meaning: two dogs of one coat are one dog to
it, and a change of light moves it. What it separates is measured in ``tests/subjects``; thresholds come from there.

The parts, each a unit vector from which the direction "everything equal" has been removed (so that unrelated subjects
score near 0 rather than near 1), weighted by ``WEIGHTS`` and joined:

- **colour**: soft histogram over hue (12) x saturation (3) x value (3), grey colours apart by value (6), square-rooted
  (Hellinger: the cosine becomes the Bhattacharyya coefficient of Bhattacharyya, 1943);
- **layout**: mean Lab colour of each cell of a 4 x 4 grid over the mask's box, relative to the subject's own mean;
- **orientation**: magnitude-weighted histogram of undirected gradient orientations (9) in a 2 x 2 grid, as HOG (Dalal
  and Triggs, CVPR 2005);
- **texture**: uniform local binary patterns (Ojala et al., PAMI 2002) of the luma at two scales, square-rooted;
- **shape**: share of each cell of a 6 x 6 grid that the mask fills, and its aspect ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.subjects.protocols import F32, U8

SIDE = 96  # px: the subject's box is brought to this square before anything is measured
WEIGHTS = {"colour": 1.0, "layout": 0.35, "orientation": 0.3, "texture": 0.35, "shape": 0.25}

_HUES, _SATURATIONS, _VALUES, _GREYS = 12, 3, 3, 6
_LBP_RADII = (1.0, 2.0)
SURROUNDINGS = _HUES * _SATURATIONS * _VALUES + _GREYS + 4 * 4 * 3


class ClosedFormEncoder:
    """See the module's docstring; ``name`` carries the version and changes with any number in this file."""

    name = "closed-form/1"
    width = _HUES * _SATURATIONS * _VALUES + _GREYS + 4 * 4 * 3 + 9 * 4 + 10 * len(_LBP_RADII) + 6 * 6 + 1

    def encode(self, pictures: Sequence[U8], masks: Sequence[U8]) -> F32:
        """Unit vectors (N, width) float32 of RGB crops (H, W, 3) and masks (H, W), 255 inside.

        Raises ``ValueError`` for an empty mask or one of another size than its picture.
        """
        if len(pictures) != len(masks):
            raise ValueError(f"{len(pictures)} pictures but {len(masks)} masks: each picture needs its mask")
        rows = [describe(p, m) for p, m in zip(pictures, masks, strict=True)]
        return np.stack(rows) if rows else np.zeros((0, self.width), np.float32)


def describe(picture_HWC: U8, mask_HW: U8) -> F32:
    """The descriptor of one masked subject, unit norm, float32 (width,)."""
    import cv2

    picture, mask, aspect = _square(picture_HWC, mask_HW)
    hsv = cv2.cvtColor(picture.astype(np.float32) / 255.0, cv2.COLOR_RGB2HSV)
    lab = cv2.cvtColor(picture.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inside = mask > 0.5
    parts = {
        "colour": _centred(np.sqrt(_colours(hsv[inside]))),
        "layout": _layout(lab, mask),
        "orientation": _centred(np.sqrt(_orientations(gray, mask))),
        "texture": _centred(np.sqrt(np.concatenate([_binary_patterns(gray, inside, r) for r in _LBP_RADII]))),
        "shape": _shape(mask, aspect),
    }
    joined = np.concatenate([WEIGHTS[name] * part for name, part in parts.items()])
    return (joined / np.linalg.norm(joined)).astype(np.float32)


def surroundings(picture_HWC: U8, mask_HW: U8) -> F32:
    """What lies around a subject: colour and layout of the frame outside its mask, unit norm, float32 (SURROUNDINGS,).

    Two crops before one background score near 1. Zero where the mask leaves under a hundredth of the frame.
    """
    import cv2

    outside = 255 - mask_HW
    if float((outside > 127).mean()) < 0.01:
        return np.zeros(SURROUNDINGS, np.float32)
    size = (SIDE, SIDE)
    picture = (
        cv2.resize(np.ascontiguousarray(picture_HWC), size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    )
    mask = cv2.resize((outside > 127).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    inside = mask > 0.5
    if not inside.any():
        return np.zeros(SURROUNDINGS, np.float32)
    hsv, lab = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV), cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    joined = np.concatenate([_centred(np.sqrt(_colours(hsv[inside]))), 0.35 * _layout(lab, mask)])
    return (joined / max(float(np.linalg.norm(joined)), 1e-9)).astype(np.float32)


def _square(picture: U8, mask: U8) -> tuple[U8, F32, float]:
    """The mask's box brought to SIDE x SIDE, the mask with it (0..1), and log2 of the box's aspect ratio."""
    import cv2

    if picture.shape[:2] != mask.shape[:2]:
        raise ValueError(f"picture is {picture.shape[:2]}, its mask {mask.shape[:2]}: they must have one size")
    rows, columns = np.flatnonzero((mask > 127).any(1)), np.flatnonzero((mask > 127).any(0))
    if not len(rows):
        raise ValueError("the mask is empty: there is no subject to describe")
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    mode = cv2.INTER_AREA if min(height, width) >= SIDE else cv2.INTER_LINEAR
    # What lies outside takes the subject's mean colour, so that no background leaks in by scaling or from neighbours.
    outside = mask[box] <= 127
    part = picture[box].copy()
    part[outside] = np.round(part[~outside].mean(axis=0)).astype(np.uint8)
    square = cv2.resize(np.ascontiguousarray(part), (SIDE, SIDE), interpolation=mode)
    inside = cv2.resize((mask[box] > 127).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if not (inside > 0.5).any():
        inside = np.maximum(inside, 0.51 * (inside >= inside.max())).astype(np.float32)
    return np.asarray(square, np.uint8), np.asarray(inside, np.float32), float(np.log2(width / height))


def _colours(hsv: F32) -> F32:
    """Soft histogram of (N, 3) colours, hue in degrees and the rest in 0..1; sums to 1."""
    hue, saturation, value = hsv[:, 0] * (_HUES / 360.0), hsv[:, 1], hsv[:, 2]
    # Hue means little in the dark or without saturation; such pixels count as grey, gradually.
    chroma = np.clip((saturation * np.sqrt(value) - 0.08) / 0.14, 0.0, 1.0)
    result = np.zeros((_HUES, _SATURATIONS, _VALUES), np.float64)
    h0 = np.floor(hue - 0.5)
    h_share = hue - 0.5 - h0
    for dh in (0, 1):
        h = ((h0 + dh) % _HUES).astype(int)
        wh = np.where(dh, h_share, 1 - h_share)
        for s, ws in _soft(saturation, _SATURATIONS):
            for v, wv in _soft(value, _VALUES):
                np.add.at(result, (h, s, v), wh * ws * wv * chroma)
    greys = np.zeros(_GREYS, np.float64)
    for v, wv in _soft(value, _GREYS):
        np.add.at(greys, v, wv * (1 - chroma))
    joined = np.concatenate([result.ravel(), greys])
    return (joined / max(joined.sum(), 1e-12)).astype(np.float32)


def _soft(values: F32, bins: int) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Linear shares of values in 0..1 between the two nearest of ``bins`` bin centres."""
    at = np.clip(values.astype(np.float64) * bins - 0.5, 0.0, bins - 1.0)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, bins - 1)
    return [(low, 1.0 - (at - low)), (high, at - low)]


def _layout(lab: F32, mask: F32) -> F32:
    import cv2

    weights = cv2.resize(mask, (4, 4), interpolation=cv2.INTER_AREA)
    sums = cv2.resize(lab * mask[..., None], (4, 4), interpolation=cv2.INTER_AREA)
    mean = (lab * mask[..., None]).sum((0, 1)) / max(float(mask.sum()), 1e-6)
    cells = sums / np.maximum(weights, 1e-6)[..., None] - mean
    cells[weights < 0.1] = 0.0
    return _norm(cells.ravel().astype(np.float32))


def _orientations(gray: F32, mask: F32) -> F32:
    import cv2

    smooth = cv2.GaussianBlur(gray, (0, 0), 1.0)
    gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    # The outline belongs to the shape part, and the background beyond it to nobody.
    inner = cv2.erode((mask > 0.5).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    magnitude = np.hypot(gx, gy) * inner
    angle = (np.arctan2(gy, gx) % np.pi) * (9 / np.pi)
    low = np.floor(angle - 0.5)
    share = angle - 0.5 - low
    cells = np.zeros((2, 2, 9), np.float64)
    row = (np.arange(SIDE) * 2 // SIDE)[:, None] * np.ones((1, SIDE), int)
    for d in (0, 1):
        bins = ((low + d) % 9).astype(int)
        np.add.at(cells, (row, row.T, bins), magnitude * np.where(d, share, 1 - share))
    total = cells.sum()
    return (cells.ravel() / total if total > 0 else cells.ravel() + 1 / 36).astype(np.float32)


def _binary_patterns(gray: F32, inside: NDArray[np.bool_], radius: float) -> F32:
    """Histogram of rotation-invariant uniform patterns of 8 neighbours: 0..8 ones in one run, or 9 for the rest."""
    import cv2

    smooth = cv2.GaussianBlur(gray, (0, 0), 0.6 * radius)
    height, width = gray.shape
    grid_y, grid_x = np.mgrid[0:height, 0:width].astype(np.float32)
    ones = []
    for k in range(8):
        angle = 2 * np.pi * k / 8
        x, y = grid_x + np.float32(radius * np.cos(angle)), grid_y + np.float32(radius * np.sin(angle))
        neighbour = cv2.remap(smooth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        ones.append(neighbour >= smooth - 1.0)  # one grey level of slack, so that noise on flat colour is flat
    bits = np.stack(ones)
    changes = (bits != np.roll(bits, 1, axis=0)).sum(0)
    codes = np.where(changes <= 2, bits.sum(0), 9)
    histogram = np.bincount(codes[inside], minlength=10).astype(np.float32)
    return histogram / max(float(histogram.sum()), 1.0)


def _shape(mask: F32, aspect: float) -> F32:
    import cv2

    cells = cv2.resize(mask, (6, 6), interpolation=cv2.INTER_AREA).ravel() - 0.75
    return _norm(np.concatenate([cells, [np.clip(aspect, -2.0, 2.0)]]).astype(np.float32))


def _centred(values: F32) -> F32:
    """The unit vector left when the direction of equal entries has been taken out."""
    return _norm(values - values.mean())


def _norm(values: F32) -> F32:
    length = float(np.linalg.norm(values))
    return (values / length if length > 1e-9 else np.zeros_like(values)).astype(np.float32)
