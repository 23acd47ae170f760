"""What metrics may use, and the shape that every metric shares.

A metric is ``(video_FHWC, prompt, references, tools) -> float | None``: an RGB uint8 video, the prompt as the model read it,
the references, and the tools; None means that it cannot be told for this video (no reference, too few frames),
which is counted as missing and never as zero. Bad input raises ``ValueError``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from models.subjects.frames import png
from models.subjects.protocols import F32, U8, Grounder, IdentityEncoder, Region, Segmenter


class ClipTower(Protocol):
    """Image and text encoder of one CLIP-like model, as ``models.scorers.clip_tower.ClipTower`` is; unit float32 rows."""

    def images(self, pictures: Sequence[bytes]) -> F32:
        """Of encoded pictures (PNG, JPEG)."""
        ...

    def texts(self, captions: Sequence[str]) -> F32: ...


class PictureEncoder(Protocol):
    """A self-supervised image encoder such as DINO; ``name`` says which, with the digest of its weights."""

    name: str

    def encode(self, pictures: Sequence[U8]) -> F32:
        """Unit float32 rows (N, D) of RGB pictures (H, W, 3) of any size."""
        ...


class FlowEstimator(Protocol):
    """Dense optical flow by a learnt model."""

    name: str

    def flow(self, before_HWC: U8, after_HWC: U8) -> F32:
        """Flow in px from the first RGB picture to the second, float32 (H, W, 2) as x, y."""
        ...


class Interpolator(Protocol):
    """Guesses the frame half way between two."""

    name: str

    def middle(self, before_HWC: U8, after_HWC: U8) -> U8 | F32:
        """The RGB picture (H, W, 3) in 0..255 in the middle of two of the same size."""
        ...


class QualityModel(Protocol):
    """A no-reference quality of a picture, such as MUSIQ."""

    name: str
    longest: int  # px: longer pictures are reduced to this side first
    best: float  # the score of a perfect picture; scores are divided by it

    def score(self, picture_HWC: U8) -> float:
        """Of one RGB picture, from 0 to ``best``."""
        ...


class FaceEncoder(Protocol):
    """Finds the largest face of a picture and describes whose it is."""

    name: str

    def largest(self, picture_HWC: U8) -> F32 | None:
        """Unit float32 (D,) of the largest face; None where there is none."""
        ...


@dataclass(frozen=True)
class Reference:
    """A reference picture (H, W, 3) RGB and its subject's mask (H, W), 255 inside; None when it is not known."""

    picture: U8
    mask: U8 | None = None


@dataclass(frozen=True)
class Tools:
    """Models that metrics share. A metric whose tool is absent returns None.

    ``aesthetic`` maps unit CLIP embeddings (N, D) to N scores of 1..10. ``fps`` is the frame rate of the video at hand;
    metrics that speak of motion per second need it. ``seen`` remembers the subjects found in the video at hand, so that
    several metrics cost one segmentation; None remembers nothing.
    """

    fps: float = 8.0
    clip: ClipTower | None = None
    aesthetic: Callable[[F32], Any] | None = None
    identity: IdentityEncoder | None = None
    grounder: Grounder | None = None
    segmenter: Segmenter | None = None
    dino: PictureEncoder | None = None
    flow: FlowEstimator | None = None
    interpolator: Interpolator | None = None
    quality: QualityModel | None = None
    faces: FaceEncoder | None = None
    seen: dict[bytes, Region | None] | None = None


FRAMES = 8  # evenly spread, of the metrics that compare frames with something else than their neighbours

Metric = Callable[[U8, str, Sequence[Reference], Tools], float | None]
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is listed: its ``key`` in tables, what it is called, which way is better and what tools it needs.

    ``version`` enters the recipe of the work: a change of the formula changes it. ``needs`` names fields of ``Tools``.
    ``group`` is what it is about: identity, prompt, motion, steadiness or looks.
    """

    key: str
    title: str
    run: Metric
    better: Better
    version: str
    needs: frozenset[str] = field(default_factory=frozenset)
    group: str = "own"


def check_video(video_FHWC: U8) -> None:
    """Raise ``ValueError`` unless this is a uint8 RGB video with at least one frame."""
    if video_FHWC.dtype != np.uint8 or video_FHWC.ndim != 4 or video_FHWC.shape[-1] != 3 or len(video_FHWC) < 1:
        raise ValueError(f"a video is uint8 (frames, height, width, 3), this is {video_FHWC.dtype} {video_FHWC.shape}")


def sampled(video_FHWC: U8, most: int) -> U8:
    """At most ``most`` frames, evenly spread, first and last among them."""
    return video_FHWC if len(video_FHWC) <= most else video_FHWC[spread_indices(video_FHWC, most)]


def frame_embeddings(video_FHWC: U8, tower: ClipTower) -> F32:
    """CLIP embeddings of ``FRAMES`` evenly spread frames; the same ones for every metric, so a tower may cache them."""
    return tower.images([png(frame) for frame in sampled(video_FHWC, FRAMES)])


class CachedTower:
    """A tower that remembers the pictures and texts of the video at hand, so that several metrics cost one pass."""

    def __init__(self, tower: ClipTower, most: int = 256) -> None:
        self.tower, self.most = tower, most
        self._known: dict[tuple[str, bytes], F32] = {}

    def images(self, pictures: Sequence[bytes]) -> F32:
        return self._all("image", list(pictures), lambda new: self.tower.images(new))

    def texts(self, captions: Sequence[str]) -> F32:
        return self._all(
            "text", [c.encode() for c in captions], lambda new: self.tower.texts([n.decode() for n in new])
        )

    def _all(self, kind: str, wanted: list[bytes], encode: Callable[[list[bytes]], F32]) -> F32:
        keys = [(kind, hashlib.sha256(w).digest()) for w in wanted]
        new = {k: w for k, w in zip(keys, wanted, strict=True) if k not in self._known}
        if len(self._known) + len(new) > self.most:
            self._known.clear()
            new = dict(zip(keys, wanted, strict=True))
        if new:
            self._known.update(zip(new, encode(list(new.values())), strict=True))
        return np.stack([self._known[k] for k in keys])


def find_subjects(video_FHWC: U8, at: Sequence[int], tools: Tools) -> list[Region | None]:
    """The best subject in each of the frames ``at``, None where none stands out (or no grounder is given)."""
    if tools.grounder is None or tools.segmenter is None:
        return [None] * len(at)
    known: dict[bytes, Region | None] = {} if tools.seen is None else tools.seen
    # What is found in a frame depends on the video around it, of which its length stands for the whole: one video at hand.
    keys = {i: hashlib.sha256(b"%d" % len(video_FHWC) + video_FHWC[i].tobytes()).digest() for i in at}
    new = [i for i in at if keys[i] not in known]
    for index, proposals in zip(new, tools.grounder.ground(video_FHWC, new, ()) if new else [], strict=True):
        regions = (tools.segmenter.segment(video_FHWC[index], p) for p in proposals[:2])
        known[keys[index]] = next((r for r in regions if r is not None), None)
    return [known[keys[i]] for i in at]


def spread_indices(video_FHWC: U8, most: int = FRAMES) -> list[int]:
    """Indices of at most ``most`` evenly spread frames, first and last among them, each once."""
    return sorted(set(np.round(np.linspace(0, len(video_FHWC) - 1, most)).astype(int).tolist()))


def steadiness(vectors_FD: F32) -> float:
    """VBench's consistency of unit rows in order of time: over the rows after the first, the mean of max(0, cosine with
    the first) and max(0, cosine with the one before). 0..1."""
    to_first = np.maximum(0.0, vectors_FD[1:] @ vectors_FD[0])
    to_previous = np.maximum(0.0, (vectors_FD[1:] * vectors_FD[:-1]).sum(1))
    return float((0.5 * (to_first + to_previous)).mean())


def reference_mask(reference: Reference, tools: Tools) -> U8 | None:
    """The reference's own mask, else the subject found in it, else None."""
    if reference.mask is not None:
        return reference.mask
    region = find_subjects(reference.picture[None], [0], tools)[0]
    return region.mask if region is not None else None
