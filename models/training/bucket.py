"""Buckets: the few pixel shapes that all training videos are brought to. Imports no torch, for it is read at plan time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Self

WARN_DROPPED = 0.02
"""A plan that leaves out more than this share of what was offered is worth a warning."""


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

    def at_aspect(self, aspect: str, multiple: int) -> Bucket:
        """The bucket of about the same area whose width to height is ``aspect``, e.g. ``9:16``, in whole ``multiple``s."""
        ratio = parse_aspect(aspect)
        height = (self.height * self.width / ratio) ** 0.5
        sides = (max(1, round(side / multiple)) * multiple for side in (height, height * ratio))
        return Bucket(self.frames, *sides)


def parse_aspect(text: str) -> float:
    """Width over height, from ``16:9``."""
    width, _, height = text.partition(":")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ValueError(f"aspect {text!r} is not width:height, e.g. 16:9")
    return int(width) / int(height)


def spread(buckets: Sequence[Bucket], aspects: Sequence[str], multiple: int) -> list[Bucket]:
    """``buckets`` themselves, and each again at every aspect; nothing twice."""
    shapes = [*buckets, *(bucket.at_aspect(aspect, multiple) for bucket in buckets for aspect in aspects)]
    return list(dict.fromkeys(shapes))


def choose_bucket(
    buckets: Sequence[Bucket], *, frames: int, height: int, width: int, padding: float = 0.0
) -> Bucket | None:
    """The bucket for a video: nearest aspect ratio, then most frames, then most pixels, among those it has frames for.

    A video too short for all of them goes into one that it fills but for at most the share ``padding`` of its frames,
    and None says that there is none.
    """
    fitting = [b for b in buckets if b.frames <= frames]
    if not fitting:
        reach = min((b.frames for b in buckets if frames >= b.frames * (1.0 - padding)), default=None)
        fitting = [b for b in buckets if b.frames == reach]
    if not fitting:
        return None
    aspect = width / height

    def distance(b: Bucket) -> tuple[float, int, int]:
        ratio = (b.width / b.height) / aspect
        return (max(ratio, 1 / ratio), -b.frames, -b.height * b.width)

    return min(fitting, key=distance)


@dataclass(frozen=True)
class Fit:
    """How one video lies in its bucket: frames it has and lacks, and the shares of frames and picture it loses."""

    bucket: Bucket
    padded: int
    frames_unused: float
    picture_cut: float
    enlarged: float
    """By what factor its picture grows to fill the bucket; 1 or less where it shrinks."""

    @classmethod
    def of(cls, bucket: Bucket, *, frames: int, height: int, width: int) -> Self:
        scale = max(bucket.height / height, bucket.width / width)
        return cls(
            bucket,
            padded=max(bucket.frames - frames, 0),
            frames_unused=max(frames - bucket.frames, 0) / frames,
            picture_cut=1.0 - bucket.height * bucket.width / (height * width * scale * scale),
            enlarged=scale,
        )


@dataclass(frozen=True)
class BucketPlan:
    """Where all the videos that were offered go: ``dropped`` counts the others by reason."""

    fits: dict[Bucket, tuple[Fit, ...]]
    dropped: dict[str, int]

    @classmethod
    def of(cls, fits: Iterable[Fit], dropped: dict[str, int]) -> Self:
        found: dict[Bucket, list[Fit]] = defaultdict(list)
        for fit in fits:
            found[fit.bucket].append(fit)
        return cls({bucket: tuple(found[bucket]) for bucket in sorted(found, key=astuple)}, dropped)

    @property
    def kept(self) -> int:
        return sum(len(fits) for fits in self.fits.values())

    @property
    def dropped_share(self) -> float:
        lost = sum(self.dropped.values())
        return lost / (self.kept + lost) if lost else 0.0

    @property
    def warns(self) -> bool:
        return self.dropped_share > WARN_DROPPED

    def describe(self, batch: int) -> str:
        """For people: a line in all, one per bucket with its steps of ``batch`` an epoch, one per reason to drop."""
        padded = sum(fit.padded > 0 for fits in self.fits.values() for fit in fits)
        steps = sum(-(-len(fits) // batch) for fits in self.fits.values())
        lost = sum(self.dropped.values())
        lines = [
            f"{self.kept + lost} samples: {self.kept} kept, {padded} of them padded, {lost} dropped "
            f"({self.dropped_share:.1%}); about {steps} steps of {batch} an epoch"
        ]
        for bucket, fits in self.fits.items():
            lines.append(
                f"  {bucket}: {len(fits)} kept, {sum(f.padded > 0 for f in fits)} padded, "
                f"{-(-len(fits) // batch)} steps; on average {_mean(f.frames_unused for f in fits):.0%} of the frames "
                f"unused, {_mean(f.picture_cut for f in fits):.0%} of the picture cut, "
                f"{sum(f.enlarged > 1 for f in fits)} enlarged"
            )
        lines += [f"  dropped, {reason}: {count}" for reason, count in sorted(self.dropped.items())]
        return "\n".join(lines)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
