"""The doors through which any detector, segmenter, tracker or identity encoder enters, embedded or with weights.

An adapter over Grounding DINO, SAM 2 or DINOv2 implements one of these and nothing else; the stages know only them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Proposal:
    """A box in one picture: ``box`` is x0, y0, x1, y1 as shares of width and height; ``confidence`` lies in 0..1.

    ``seed`` is what the grounder itself saw inside the box, a soft map over the whole picture (H, W) in 0..1, or None
    when it gives boxes only; a segmenter may start from it. ``outlined`` says that the map may show the subject's outline alone.
    """

    box: Box
    confidence: float
    phrase: str | None = None
    seed: F32 | None = None
    outlined: bool = False


@dataclass(frozen=True)
class Region:
    """A segmented subject: ``mask`` is (H, W) uint8 over the whole picture, 255 inside, and ``box`` encloses it."""

    box: Box
    mask: U8
    confidence: float
    phrase: str | None = None


@runtime_checkable
class Grounder(Protocol):
    """Finds where a subject may be."""

    name: str

    def ground(self, frames_FHWC: U8, at: Sequence[int], phrases: Sequence[str]) -> list[list[Proposal]]:
        """Proposals, best first, for each frame index in ``at``.

        ``frames_FHWC`` is RGB; one frame is a photograph, several are a clip in order of time. ``phrases`` names what to
        look for; a grounder without language ignores it and leaves ``Proposal.phrase`` None.
        """
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Turns a box into a mask."""

    name: str

    def segment(self, picture_HWC: U8, proposal: Proposal) -> Region | None:
        """The subject inside the proposal's box, or None when nothing stands out from what surrounds it."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Follows a subject through a clip."""

    name: str

    def track(self, frames_FHWC: U8, at: int, mask_HW: U8) -> list[U8]:
        """The subject's mask (H, W) in every frame, given its mask in frame ``at``; all zero where it is out of sight."""
        ...


@runtime_checkable
class IdentityEncoder(Protocol):
    """Maps a masked subject to a vector whose cosine says whether two pictures show the same one."""

    name: str
    width: int

    def encode(self, pictures: Sequence[U8], masks: Sequence[U8]) -> F32:
        """Unit-norm float32 vectors (N, width) for RGB crops (H, W, 3) and their masks (H, W), 255 inside."""
        ...


@runtime_checkable
class FaceDetector(Protocol):
    """Finds faces."""

    name: str

    def faces(self, picture_HWC: U8) -> list[Proposal]:
        """Boxes of the faces of an RGB picture as shares of it, surest first."""
        ...


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes in the same unit, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return float(inter / union) if union > 0 else 0.0


def area(box: Box) -> float:
    """Area in the square of the box's unit; a share of the frame when the box is in shares."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
