"""Subject proposals without weights: what moves against the camera, what differs from the border, then GrabCut.

Motion serves clips, saliency serves photographs and clips that stand still; both give soft maps which the same code
cuts into boxes. Everything is deterministic: RANSAC and GrabCut run under a fixed OpenCV seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.subjects.protocols import F32, U8, Box, Proposal, Region

WORK_SIDE = 192  # long side of the working picture; boxes are found here, GrabCut runs at twice that
SEGMENT_SIDE = 320
FLAT = 2.0  # grey levels: what varies less holds nothing that could stand out
_EPS = 1e-6


def fit(picture: U8, side: int) -> U8:
    """The picture with its long side at most ``side`` px, averaged down; never enlarged."""
    import cv2

    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def spectral_residual(gray: F32) -> F32:
    """Spectral residual saliency (Hou and Zhang, CVPR 2007) of a (H, W) float picture, scaled to 0..1.

    The log amplitude spectrum minus its local average, with the original phase, transformed back and squared.
    """
    import cv2

    small = cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA)
    spectrum = np.fft.fft2(small)
    log_amplitude = np.log(np.abs(spectrum) + _EPS).astype(np.float32)
    residual = log_amplitude - cv2.blur(log_amplitude, (3, 3))
    back = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    smooth = cv2.GaussianBlur(back.astype(np.float32), (0, 0), 2.5)
    return _unit(cv2.resize(smooth, (gray.shape[1], gray.shape[0]), interpolation=cv2.INTER_LINEAR))


def border_contrast(lab: F32) -> F32:
    """How far each pixel's colour lies from the colours of the picture's border, 0..1; the border prior of Wei et al. 2012.

    Border pixels are clustered in four (k-means, fixed start); a pixel's contrast is its distance to the nearest
    cluster, in units of that cluster's own spread, so that a busy background counts for less than a plain one.
    """
    height, width = lab.shape[:2]
    rim = max(2, round(0.06 * min(height, width)))
    frame = np.ones((height, width), bool)
    frame[rim:-rim, rim:-rim] = False
    border = lab[frame]
    centres = border[np.linspace(0, len(border) - 1, 4).astype(int)].copy()
    for _ in range(6):
        nearest = ((border[:, None] - centres[None]) ** 2).sum(-1).argmin(1)
        for k in range(len(centres)):
            if (nearest == k).any():
                centres[k] = border[nearest == k].mean(0)
    spread = np.array(
        [
            np.sqrt(((border[nearest == k] - c) ** 2).sum(-1).mean()) if (nearest == k).any() else 0.0
            for k, c in enumerate(centres)
        ]
    )
    distance = np.sqrt(((lab[:, :, None] - centres) ** 2).sum(-1)) / (spread + 8.0)
    return _unit(np.minimum(distance.min(-1), 6.0).astype(np.float32))


def centre_prior(height: int, width: int) -> F32:
    """A Gaussian over the picture, 1 in the middle, 0.14 in the middle of an edge (sigma = a quarter of the side)."""
    y = (np.arange(height, dtype=np.float32) + 0.5) / height - 0.5
    x = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    return np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * 0.25**2)).astype(np.float32)


def _contrast(picture: U8) -> F32:
    """Smoothed border contrast. On motion it weakens ghosts: where a subject has been, what shows is background."""
    import cv2

    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    return cv2.GaussianBlur(border_contrast(lab), (0, 0), 0.012 * max(picture.shape[:2])).astype(np.float32)


def saliency(picture_HWC: U8) -> F32:
    """Where a photograph's subject may be: (H, W) in 0..1 for an RGB picture.

    Colour contrast against the border carries most of it, spectral residual finds a textured subject on a background of
    its own colour, and the centre prior breaks ties as photographers do.
    """
    import cv2

    gray = cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mixed = 0.75 * _contrast(picture_HWC) + 0.25 * spectral_residual(gray)
    return _unit(mixed * (0.25 + 0.75 * centre_prior(*gray.shape)))


def motion(frames_FHWC: U8, at: int) -> F32 | None:
    """What moves against the camera in frame ``at``: (H, W) in 0..1, or None when nothing does.

    Neighbours are aligned to the frame by a partial affine fitted to dense DIS flow with RANSAC, which is the camera; the
    rest of the flow is the subject. Where the camera stands still, the difference from the temporal median is added:
    it sees a whole textureless subject, of which flow sees only the edges.
    """
    import cv2

    count, height, width = frames_FHWC.shape[:3]
    if count < 3:
        return None
    grays = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames_FHWC]
    flow_engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    step = max(4, min(height, width) // 24)
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    points = np.stack([x.ravel(), y.ravel()], -1).astype(np.float32)
    residuals: list[F32] = []
    camera = 0.0
    for other in {max(0, at - 1), min(count - 1, at + 1)} - {at}:
        flow = flow_engine.calc(grays[at], grays[other], None)
        moved = points + flow[y.ravel(), x.ravel()]
        cv2.setRNGSeed(0)
        model, _ = cv2.estimateAffinePartial2D(points, moved, ransacReprojThreshold=1.0)
        if model is None:
            continue
        grid_y, grid_x = np.mgrid[0:height, 0:width].astype(np.float32)
        camera_x = model[0, 0] * grid_x + model[0, 1] * grid_y + model[0, 2] - grid_x
        camera_y = model[1, 0] * grid_x + model[1, 1] * grid_y + model[1, 2] - grid_y
        camera = max(camera, float(np.hypot(camera_x, camera_y).mean()))
        residuals.append(np.hypot(flow[..., 0] - camera_x, flow[..., 1] - camera_y).astype(np.float32))
    if not residuals:
        return None
    # The subject moves against both neighbours; what it covers or uncovers, against one only.
    residual = np.minimum.reduce(residuals)
    amount = np.minimum(residual / (0.01 * max(height, width)), 2.0) / 2.0
    if camera < 0.5:
        background = np.median(frames_FHWC, axis=0)
        difference = np.abs(frames_FHWC[at].astype(np.float32) - background).max(-1)
        amount = np.maximum(amount, np.clip((difference - 12.0) / 48.0, 0.0, 1.0))
    amount = cv2.GaussianBlur(amount.astype(np.float32), (0, 0), 0.01 * max(height, width))
    moving = float((amount > 0.25).mean())
    if not 0.004 <= moving <= 0.75:
        return None
    return _unit(amount)


def regions_of(soft: F32, most: int) -> list[tuple[Box, float]]:
    """Boxes of the connected parts of a soft map, with confidence, best first.

    The cut is Otsu's; a part's confidence is the contrast of the map inside against outside, times how much of the
    whole map's mass it holds, so that a scattered map gives no confident box, times what speaks against a background: 1
    for a part away from the picture's border, 0 for one that covers half of it.
    """
    import cv2

    height, width = soft.shape
    threshold, _ = cv2.threshold((soft * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    binary = (soft * 255 > threshold).astype(np.uint8)
    radius = max(1, round(0.015 * max(height, width)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    binary = cv2.morphologyEx(cv2.morphologyEx(binary, cv2.MORPH_CLOSE, kernel), cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary)
    mass = float(soft[binary > 0].sum()) + _EPS
    found: list[tuple[Box, float]] = []
    for k in range(1, count):
        left, top, w, h, pixels = (int(v) for v in stats[k])
        if pixels < 0.003 * height * width:
            continue
        inside = labels == k
        contrast = float(soft[inside].mean()) - float(soft[binary == 0].mean() if (binary == 0).any() else 0.0)
        share = float(soft[inside].sum()) / mass * (1.0 - min(1.0, 2.0 * border_share(inside)))
        box = (left / width, top / height, (left + w) / width, (top + h) / height)
        found.append((box, float(np.clip(contrast * share, 0.0, 1.0))))
    return sorted(found, key=lambda item: (-item[1], item[0]))[:most]


class EmbeddedGrounder:
    """Motion first, saliency where nothing moves; no language, so phrases are ignored."""

    name = "motion-saliency/1"

    def __init__(self, most: int = 4) -> None:
        self.most = most

    def ground(self, frames_FHWC: U8, at: Sequence[int], phrases: Sequence[str] = ()) -> list[list[Proposal]]:
        """See ``Grounder.ground``. Frames of any one size; work happens at ``WORK_SIDE`` px."""
        small = np.stack([fit(f, WORK_SIDE) for f in frames_FHWC])
        result = []
        for index in at:
            moving = motion(small, index)
            if moving is None:
                soft, weight = saliency(small[index]), 0.8
            else:
                soft, weight = _unit(moving * (0.4 + 0.6 * _contrast(small[index]))), 1.0
            outlined = moving is not None  # of a textureless subject only the edges are seen to move
            result.append([Proposal(box, weight * c, None, soft, outlined) for box, c in regions_of(soft, self.most)])
        return result


class GrabCutSegmenter:
    """GrabCut (Rother et al. 2004) started from the proposal's box and, where there is one, its soft map."""

    name = "grabcut/2"

    def segment(self, picture_HWC: U8, proposal: Proposal) -> Region | None:
        """The largest connected foreground in the box and a margin of a tenth around it.

        An outlined proposal is started twice, and the mask whose edge stands out more is taken. None where that is under 1% of the
        box, or covers over 40% of the picture's border.
        """
        import cv2

        full_height, full_width = picture_HWC.shape[:2]
        small = fit(picture_HWC, SEGMENT_SIDE)
        height, width = small.shape[:2]
        x0, y0, x1, y1 = proposal.box
        pad_x, pad_y = 0.1 * (x1 - x0), 0.1 * (y1 - y0)
        left, top = int(max(0.0, x0 - pad_x) * width), int(max(0.0, y0 - pad_y) * height)
        right, bottom = int(np.ceil(min(1.0, x1 + pad_x) * width)), int(np.ceil(min(1.0, y1 + pad_y) * height))
        if right - left < 4 or bottom - top < 4:
            return None
        if float(small[top:bottom, left:right].reshape(-1, 3).std(axis=0).max()) < FLAT:
            return None
        inner = (slice(int(y0 * height), int(np.ceil(y1 * height))), slice(int(x0 * width), int(np.ceil(x1 * width))))
        starts = [np.full((height, width), cv2.GC_BGD, np.uint8) for _ in range(1 + proposal.outlined)]
        for labels in starts:
            labels[top:bottom, left:right] = cv2.GC_PR_BGD
        if proposal.seed is None:
            starts[0][inner] = cv2.GC_PR_FGD
        else:
            seed = cv2.resize(proposal.seed, (width, height), interpolation=cv2.INTER_LINEAR)
            values = seed[inner]
            middle, high = np.quantile(values, 0.4), np.quantile(values, 0.9)
            # What was seen may be the whole subject with a halo, or its outline alone: one start for each.
            for labels, probable in zip(starts, (values > min(middle, 0.5), _solid(values)), strict=False):
                labels[inner] = np.where(probable, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
                labels[inner][(values >= high) & (values > 0.5)] = cv2.GC_FGD
        least = 0.01 * (right - left) * (bottom - top)
        found = [m for labels in starts if (m := _grab_cut(small, labels)) is not None and m.sum() >= least]
        if not found:
            return None
        mask = max(found, key=lambda m: edge_contrast(small, m))
        touching = border_share(mask > 0)
        if touching > 0.4:
            return None  # it frames the picture: a background, not a subject
        full = cv2.resize(mask * 255, (full_width, full_height), interpolation=cv2.INTER_LINEAR)
        full = np.where(full >= 128, 255, 0).astype(np.uint8)
        rows, columns = np.flatnonzero(full.any(1)), np.flatnonzero(full.any(0))
        if not len(rows):
            return None
        box = (
            float(columns[0] / full_width),
            float(rows[0] / full_height),
            float((columns[-1] + 1) / full_width),
            float((rows[-1] + 1) / full_height),
        )
        return Region(box, full, proposal.confidence * (1.0 - touching), proposal.phrase)


def _solid(soft: F32) -> NDArray[np.bool_]:
    """The part of a soft map above Otsu's cut, with what its outline encloses."""
    import cv2

    raw = np.ascontiguousarray(_unit(soft) * 255).astype(np.uint8)
    _, binary = cv2.threshold(raw, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    binary = cv2.morphologyEx(np.pad(binary, 3), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(binary), contours, -1, 1, cv2.FILLED)
    return np.asarray(filled[3:-3, 3:-3] > 0)


def _grab_cut(picture: U8, labels: U8) -> U8 | None:
    """The foreground (H, W) in 0..1 that GrabCut finds from these labels, which it changes; None where nothing stands out."""
    import cv2

    if not ((labels == cv2.GC_BGD) | (labels == cv2.GC_PR_BGD)).any() or not (labels & 1).any():
        return None
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(np.ascontiguousarray(picture[..., ::-1]), labels, None, *models, 4, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None  # too few distinct pixels to fit two colour models
    height, width = picture.shape[:2]
    return _largest(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8), height * width)


def edge_contrast(picture_HWC: U8, mask: U8) -> float:
    """How far the colours just inside a mask's outline lie from those just outside, in Lab units: the median over the outline.

    A mask that leaked into the background has part of its outline where nothing changes. Where the picture ends nothing is outside,
    and that part of the outline counts as no contrast.
    """
    import cv2

    lab = cv2.cvtColor(picture_HWC.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    inside = (mask > 0).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))

    def mean_of(where: NDArray[np.bool_]) -> tuple[F32, F32]:
        weight = cv2.blur(where.astype(np.float32), (9, 9))
        colour = cv2.blur(lab * where[..., None].astype(np.float32), (9, 9)) / np.maximum(weight, 1e-6)[..., None]
        return np.asarray(colour, np.float32), np.asarray(weight, np.float32)

    near, _ = mean_of((inside - cv2.erode(inside, kernel)) > 0)
    far, there = mean_of((cv2.dilate(inside, kernel) - inside) > 0)
    padded = np.pad(inside, 1)
    outline = (padded - cv2.erode(padded, np.ones((3, 3), np.uint8)))[1:-1, 1:-1] > 0
    difference = np.linalg.norm(near - far, axis=-1) * (there > 1e-3)
    return float(np.median(difference[outline])) if outline.any() else 0.0


def border_share(inside: NDArray[np.bool_]) -> float:
    """Which share of the picture's border pixels lies inside a boolean mask (H, W)."""
    rim = np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
    return float(rim.mean())


def _largest(mask: U8, pixels: int) -> U8 | None:
    """The largest connected part with every part at least a quarter as large, holes filled; None when empty."""
    import cv2

    radius = max(1, round(0.006 * np.sqrt(pixels)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    mask = cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel), cv2.MORPH_CLOSE, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return None
    sizes = stats[1:, cv2.CC_STAT_AREA]
    kept = np.isin(labels, 1 + np.flatnonzero(sizes >= 0.25 * sizes.max())).astype(np.uint8)
    contours, _ = cv2.findContours(kept, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros_like(kept), contours, -1, 1, cv2.FILLED), dtype=np.uint8)


def _unit(values: F32) -> F32:
    low, high = float(values.min()), float(values.max())
    return ((values - low) / (high - low + _EPS)).astype(np.float32)
