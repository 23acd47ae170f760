"""Buckets: the few pixel shapes that all training videos are brought to. Imports no torch, for it is read at plan time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bucket:
    """The pixel shape of an encoded video."""

    frames: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Bucket:
        """From ``frames x height x width``, e.g. ``9x64x64``."""
        parts = text.lower().split("x")
        if len(parts) != 3 or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
            raise ValueError(f"bucket {text!r} is not frames x height x width, e.g. 49x480x720")
        return cls(*(int(p) for p in parts))

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


def choose_bucket(buckets: Sequence[Bucket], *, frames: int, height: int, width: int) -> Bucket | None:
    """The bucket for a video: nearest aspect ratio, then most frames, then most pixels, among those it has frames for."""
    fitting = [b for b in buckets if b.frames <= frames]
    if not fitting:
        return None
    aspect = width / height

    def distance(b: Bucket) -> tuple[float, int, int]:
        ratio = (b.width / b.height) / aspect
        return (max(ratio, 1 / ratio), -b.frames, -b.height * b.width)

    return min(fitting, key=distance)
