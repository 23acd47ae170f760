"""What metrics may use, and the shape that every metric shares.

A metric is ``(video_FHWC, prompt, references, tools) -> float | None``: an RGB uint8 video, the prompt as the model read it,
the references, and the tools; None means that it cannot be told for this video (no reference, too few frames, no
subject found), which is counted as missing and never as zero. Bad input raises ``ValueError``.
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


@dataclass(frozen=True)
class Reference:
    """A reference picture (H, W, 3) RGB and its subject's mask (H, W), 255 inside; None when it is not known."""

    picture: U8
    mask: U8 | None = None


@dataclass(frozen=True)
class Tools:
    """Models that metrics share. A metric whose tool is absent returns None.

    ``aesthetic`` maps unit CLIP embeddings (N, D) to N scores of 1..10. ``fps`` is the frame rate of the video at hand;
    metrics that speak of motion per second need it.
    """

    fps: float = 8.0
    clip: ClipTower | None = None
    aesthetic: Callable[[F32], Any] | None = None
    identity: IdentityEncoder | None = None
    grounder: Grounder | None = None
    segmenter: Segmenter | None = None


CLIP_FRAMES = 8

Metric = Callable[[U8, str, Sequence[Reference], Tools], float | None]
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is listed: its ``key`` in tables, what it is called, which way is better and what tool it needs.

    ``version`` enters the recipe of the work: a change of the formula changes it.
    """

    key: str
    title: str
    run: Metric
    better: Better
    version: str
    needs: frozenset[str] = field(default_factory=frozenset)


def check_video(video_FHWC: U8) -> None:
    """Raise ``ValueError`` unless this is a uint8 RGB video with at least one frame."""
    if video_FHWC.dtype != np.uint8 or video_FHWC.ndim != 4 or video_FHWC.shape[-1] != 3 or len(video_FHWC) < 1:
        raise ValueError(f"a video is uint8 (frames, height, width, 3), this is {video_FHWC.dtype} {video_FHWC.shape}")


def sampled(video_FHWC: U8, most: int) -> U8:
    """At most ``most`` frames, evenly spread, first and last among them."""
    if len(video_FHWC) <= most:
        return video_FHWC
    return video_FHWC[np.round(np.linspace(0, len(video_FHWC) - 1, most)).astype(int)]


def frame_embeddings(video_FHWC: U8, tower: ClipTower) -> F32:
    """CLIP embeddings of ``CLIP_FRAMES`` evenly spread frames; the same ones for every metric, so a tower may cache them."""
    return tower.images([png(frame) for frame in sampled(video_FHWC, CLIP_FRAMES)])


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
    found: list[Region | None] = []
    for index, proposals in zip(at, tools.grounder.ground(video_FHWC, at, ()), strict=True):
        regions = (tools.segmenter.segment(video_FHWC[index], p) for p in proposals[:2])
        found.append(next((r for r in regions if r is not None), None))
    return found


def reference_mask(reference: Reference, tools: Tools) -> U8 | None:
    """The reference's own mask, else the subject found in it, else None."""
    if reference.mask is not None:
        return reference.mask
    region = find_subjects(reference.picture[None], [0], tools)[0]
    return region.mask if region is not None else None
