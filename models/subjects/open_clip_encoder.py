"""An open_clip image tower as identity encoder: a user's weights in open_clip's own layout, or the tower trained on tinyworld."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.scorers.clip_tower import LOCAL, ClipTower, EncoderError, EncoderSpec, encoder_digests
from models.subjects.protocols import F32, U8
from models.subjects.weights import Weights, WeightsError


def spec_of(weights: Weights) -> EncoderSpec:
    """``weights.source`` is a folder with open_clip_config.json, or ``embedded:tinyworld``."""
    from models import embedded

    model = embedded.NAME if weights.source == embedded.NAME else f"{LOCAL}{weights.source}"
    return EncoderSpec(model, sha256=weights.sha256)


def name_of(weights: Weights) -> str:
    """What identifies the weights, for the fingerprint. Raises ``WeightsError``; imports no torch."""
    try:
        return f"open_clip (sha256 {encoder_digests(spec_of(weights))['encoder'][:16]})"
    except EncoderError as error:
        raise WeightsError(str(error)) from error


class OpenClipEncoder:
    """Crops cut out onto white and made square, so that the tower's own preparation neither stretches nor cuts them."""

    def __init__(self, weights: Weights, *, device: str = "cpu", batch: int = 32) -> None:
        self.name = name_of(weights)
        self.tower = ClipTower(spec_of(weights), device, batch)
        self.width = self.tower.dim

    def encode(self, pictures: Sequence[U8], masks: Sequence[U8]) -> F32:
        """See ``IdentityEncoder.encode``. Raises ``ValueError`` for an empty mask or one of another size than its picture."""
        from models.subjects.frames import png

        if len(pictures) != len(masks):
            raise ValueError(f"{len(pictures)} pictures but {len(masks)} masks: each picture needs its mask")
        return self.tower.images([png(squared(p, m)) for p, m in zip(pictures, masks, strict=True)])


def squared(picture: U8, mask: U8) -> U8:
    """The masked subject's own box on a white square."""
    if picture.shape[:2] != mask.shape[:2]:
        raise ValueError(f"picture is {picture.shape[:2]}, its mask {mask.shape[:2]}: they must have one size")
    inside = mask > 127
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        raise ValueError("the mask is empty: there is no subject to describe")
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    cut = np.where(inside[box][..., None], picture[box], np.uint8(255)).astype(np.uint8)
    height, width = cut.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = cut
    return square
