"""Seeded views of a reference picture: its crop jittered, turned and scaled a little, then letterboxed to a bucket.

A model that sees only the exact crop of its own target learns to paste it. So each reference is cached in several
views; view 0 is the picture as it is, which is what sampling and evaluation use.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from models.training.randomness import generator

WHITE = (255, 255, 255)
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class ViewSpec:
    """How views differ from the picture.

    ``jitter`` moves each side of the crop inwards by up to this share, ``turn`` rotates by up to so many degrees,
    ``shrink`` scales down to at least this share of the canvas, ``flip`` mirrors with this probability (0 by default:
    a mirrored logo is another logo), ``colour`` changes brightness, contrast and saturation by up to this share (0 by default: colour
    is identity). Rotation and scale are the augmentation that BindWeave and OpenS2V recipes name
    against copy-paste; the amounts are ours. ``background``: ``white`` shows the masked subject on white, ``keep`` the
    crop as it was cut.
    """

    jitter: float = 0.08
    turn: float = 8.0
    shrink: float = 0.8
    flip: float = 0.0
    colour: float = 0.0
    background: str = "white"

    def __post_init__(self) -> None:
        if self.background not in ("white", "keep"):
            raise ValueError(f"views: background is {self.background!r}, must be white or keep")
        shares = 0 <= self.jitter < 0.5 and 0 < self.shrink <= 1 and 0 <= self.flip <= 1 and 0 <= self.colour < 1
        if not (shares and 0 <= self.turn <= 180):
            raise ValueError(f"views: out of range in {self}")


def open_reference(crop: bytes, mask: bytes | None, background: str) -> Image.Image:
    """The reference picture, RGB; ``mask`` is an 8-bit picture of the same size, 255 inside."""
    picture = Image.open(io.BytesIO(crop)).convert("RGB")
    if background == "keep" or mask is None:
        return picture
    inside = Image.open(io.BytesIO(mask)).convert("L")
    if inside.size != picture.size:
        raise ValueError(f"mask of {inside.size} px does not fit its crop of {picture.size} px")
    return Image.composite(picture, Image.new("RGB", picture.size, WHITE), inside)


def make_view(
    picture: Image.Image,
    *,
    height: int,
    width: int,
    spec: ViewSpec,
    seed: int,
    sample_id: str,
    reference: int,
    view: int,
) -> U8:
    """One view, (height, width, 3) uint8, letterboxed on white. View 0 is the picture itself."""
    canvas_scale = 1.0
    if view:
        draws = torch.rand(7, generator=generator(seed, sample_id, view, f"reference-{reference}"), dtype=torch.float64)
        left, top, right, bottom, angle, scale, mirror = (float(d) for d in draws)
        w, h = picture.size
        inset = spec.jitter
        box = (left * inset * w, top * inset * h, w - right * inset * w, h - bottom * inset * h)
        picture = picture.crop(tuple(round(b) for b in box))  # type: ignore[arg-type]
        if mirror < spec.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if spec.colour:
            picture = _recolour(picture, spec.colour, seed, sample_id, reference, view)
        picture = picture.rotate(
            (2 * angle - 1) * spec.turn, resample=Image.Resampling.BICUBIC, expand=True, fillcolor=WHITE
        )
        canvas_scale = spec.shrink + (1 - spec.shrink) * scale
    return letterbox(picture, height=height, width=width, scale=canvas_scale)


def _recolour(picture: Image.Image, amount: float, seed: int, sample_id: str, reference: int, view: int) -> Image.Image:
    """Brightness, contrast and saturation times 1 +- ``amount``; pure white, which is background, stays white."""
    # Draws of their own, so that a cache made without colour keeps its other augmentations when colour is turned on.
    changed = picture
    draws = torch.rand(3, generator=generator(seed, sample_id, view, f"colour-{reference}"), dtype=torch.float64)
    for kind, draw in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), draws, strict=True):
        changed = kind(changed).enhance(1.0 + (2.0 * float(draw) - 1.0) * amount)
    white = (np.asarray(picture) == 255).all(axis=2, keepdims=True)
    return Image.fromarray(np.where(white, np.uint8(255), np.asarray(changed)))


def letterbox(picture: Image.Image, *, height: int, width: int, scale: float = 1.0) -> U8:
    """Fit a picture into (height, width, 3) uint8, centred on white, filling ``scale`` of the tighter side.

    Phantom-Wan's placement: LANCZOS, white, centred.
    """
    w, h = picture.size
    factor = scale * min(width / w, height / h)
    size = (max(1, min(width, math.floor(w * factor + 0.5))), max(1, min(height, math.floor(h * factor + 0.5))))
    canvas = Image.new("RGB", (width, height), WHITE)
    resized = picture.resize(size, Image.Resampling.LANCZOS)
    canvas.paste(resized, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas, dtype=np.uint8)


def to_unit(picture_HWC: U8) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(picture_HWC.astype(np.float32) / 127.5 - 1.0).permute(2, 0, 1).contiguous()


def video_to_unit(frames_FHWC: U8) -> Tensor:
    """(F, H, W, 3) uint8 -> (3, F, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(frames_FHWC.astype(np.float32) / 127.5 - 1.0).permute(3, 0, 1, 2).contiguous()


def from_unit(video_CFHW: Tensor) -> U8:
    """(3, F, H, W) in [-1, 1] -> (F, H, W, 3) uint8, rounded and clipped."""
    scaled = ((video_CFHW.detach().float().cpu() + 1.0) * 127.5).round().clamp(0, 255)
    return scaled.permute(1, 2, 3, 0).contiguous().to(torch.uint8).numpy()


def fit_video(frames_FHWC: U8, *, height: int, width: int) -> U8:
    """Scale to cover (height, width) and cut the centre, so that nothing is stretched and no bars are added."""
    fitted = [_cover(Image.fromarray(frame), height, width) for frame in frames_FHWC]
    return np.stack(fitted)


def _cover(picture: Image.Image, height: int, width: int) -> U8:
    w, h = picture.size
    factor = max(width / w, height / h)
    size = (max(width, round(w * factor)), max(height, round(h * factor)))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    resized = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(resized.crop((left, top, left + width, top + height)), dtype=np.uint8)
