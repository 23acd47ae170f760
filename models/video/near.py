"""Decides whether two clips are the same footage: re-encoded, rescaled, slightly cropped or trimmed, at the same speed.

Key frames alone cannot tell a copy from another take of the same scene: two people before one static background differ
less in a picture's hash than a clip and its own crop. Time can. Both clips become short sequences of small grey frames;
after registration (scale, position, offset in time) a copy differs from the original much less than the original differs
from itself a moment later, and another take differs about as much or more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SIDE = 48  # px; the grid every frame is averaged to, whatever its shape
RATE = 8.0  # frames per second of a signature
SECONDS = 20.0  # the most of a clip that is compared, from its start
_SCALES = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76, 0.72)  # side of the crop as a share of the original's side
_STRONGEST = 0.1  # share of pixels, those that differ most: a moving subject is small, coding noise is everywhere
_REGISTERED = 0.995  # correlation above which whole pixels are good enough
_BLUR = 1.0  # px of the grid
_FLAT = 4.0  # grey levels; a frame with less contrast is not amplified into pure noise


@dataclass(frozen=True)
class NearRule:
    """When two registered clips count as the same footage.

    ``ratio``: the difference between them, over the difference of the clip from itself at other instants. ``floor``: a
    difference (in standard deviations of a frame) that is coding noise even where nothing moves. ``overlap``: share of the
    shorter clip that must be compared.
    """

    ratio: float = 0.45
    floor: float = 0.05
    overlap: float = 0.8


@dataclass(frozen=True)
class Match:
    """How two clips compare: ``difference`` between them and ``variation`` within, offset in frames at ``RATE``."""

    same: bool
    difference: float
    variation: float
    scale: float
    offset: int


class SignatureBuilder:
    """Makes a signature from a clip's frames as they are decoded; ask ``wants`` first and scale only what it takes.

    Each slot of 1 / ``RATE`` seconds takes the first frame at or after its instant, so that a source with dropped frames or
    another rate fills the same slots with nearly the same pictures.
    """

    def __init__(self) -> None:
        self._taken: list[np.ndarray] = []

    def wants(self, seconds: float) -> bool:
        """Whether the frame at this instant, relative to the clip's first frame, fills a slot."""
        return seconds < SECONDS and seconds + 1e-6 >= len(self._taken) / RATE

    def add(self, seconds: float, grey_HW: np.ndarray) -> None:
        """Take a wanted frame: grey uint8 of any size."""
        import cv2

        small = grey_HW
        if grey_HW.shape != (SIDE, SIDE):
            small = cv2.resize(np.ascontiguousarray(grey_HW), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        # a gap in the source repeats the picture that a player would still be showing
        while self._taken and (len(self._taken) + 1) / RATE <= seconds:
            self._taken.append(self._taken[-1])
        self._taken.append(small)

    def finish(self) -> np.ndarray:
        """uint8 (T, SIDE, SIDE); T is 0 for a clip without frames."""
        return np.stack(self._taken) if self._taken else np.zeros((0, SIDE, SIDE), np.uint8)


def signature(frames: Iterable[tuple[float, np.ndarray]]) -> np.ndarray:
    """The signature of a stream of (seconds since the clip's start, grey uint8 frame)."""
    builder = SignatureBuilder()
    for seconds, grey in frames:
        if builder.wants(seconds):
            builder.add(seconds, grey)
    return builder.finish()


def is_flat(signature_THW: np.ndarray) -> bool:
    """Whether a clip shows next to nothing (black, a blank slide): everything would match it."""
    return len(signature_THW) < 2 or float(np.median(signature_THW.std(axis=(1, 2)))) < _FLAT


def compare(one_THW: np.ndarray, two_THW: np.ndarray, rule: NearRule | None = None) -> Match:
    """Register two signatures and judge whether they are the same footage. Symmetric up to rounding."""
    rule = rule or NearRule()
    if is_flat(one_THW) or is_flat(two_THW):
        return Match(False, float("inf"), 0.0, 1.0, 0)
    first, second = _register(two_THW, one_THW), _register(one_THW, two_THW)
    if first.correlation > second.correlation:
        whole, part, place = two_THW, one_THW, first
    else:
        whole, part, place = one_THW, two_THW, second
    a, b = _standard(_warp(whole, _refine(whole, part, place))), _standard(part)
    need = max(2, int(np.ceil(rule.overlap * min(len(a), len(b)))))
    best: tuple[float, int, int, int] | None = None
    for offset in range(need - len(b), len(a) - need + 1):
        start, end = max(0, -offset), min(len(b), len(a) - offset)
        if end - start < need:
            continue
        difference = float(np.median(_differences(a[start + offset : end + offset], b[start:end])))
        if best is None or difference < best[0]:
            best = (difference, offset, start, end)
    if best is None:
        return Match(False, float("inf"), 0.0, place.side / SIDE, 0)
    difference, offset, start, end = best
    variation = _variation(b[start:end])
    same = difference <= max(rule.floor, rule.ratio * variation)
    return Match(same, difference, variation, place.side / SIDE, offset)


@dataclass(frozen=True)
class _Place:
    """Where the part's middle frame fits best: in which frame of the whole, and on which square of it."""

    correlation: float
    frame: int
    side: int
    top: int
    left: int


def _register(whole_THW: np.ndarray, part_THW: np.ndarray) -> _Place:
    """Search for the part's middle frame inside the frames of the whole, at every scale and whole pixel."""
    import cv2

    middle = part_THW[len(part_THW) // 2]
    best = _Place(-2.0, 0, SIDE, 0, 0)
    for scale in _SCALES:
        side = round(SIDE * scale)
        template = cv2.resize(middle, (side, side), interpolation=cv2.INTER_AREA)
        for number, frame in enumerate(whole_THW):
            _, value, _, (left, top) = cv2.minMaxLoc(cv2.matchTemplate(frame, template, cv2.TM_CCOEFF_NORMED))
            # a smaller square always fits a little better, since it has fewer pixels to explain
            if value > best.correlation + 1e-3:
                best = _Place(float(value), number, side, top, left)
    return best


def _refine(whole_THW: np.ndarray, part_THW: np.ndarray, place: _Place) -> np.ndarray:
    """Affine map (2, 3) from the part's pixels to the whole's, to a fraction of a pixel, starting from the square found.

    Enhanced correlation (Evangelidis and Psarakis, PAMI 2008). Where it does not converge the square itself is the answer.
    """
    import cv2

    scale = place.side / SIDE
    shift = (scale - 1) / 2  # pixel centres: the part's pixel 0 covers the square's first ``scale`` pixels
    start = np.array([[scale, 0, place.left + shift], [0, scale, place.top + shift]], np.float32)
    if place.side == SIDE and place.correlation > _REGISTERED:
        return start
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
    middle = part_THW[len(part_THW) // 2]
    try:
        _, found = cv2.findTransformECC(middle, whole_THW[place.frame], start.copy(), cv2.MOTION_AFFINE, stop, None, 3)
    except cv2.error:
        return start
    return np.asarray(found, np.float32)


def _warp(frames_THW: np.ndarray, into_whole: np.ndarray) -> np.ndarray:
    import cv2

    if np.array_equal(into_whole, np.eye(2, 3)):
        return frames_THW
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.stack(
        [cv2.warpAffine(f, into_whole, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE) for f in frames_THW]
    )


def _standard(frames_THW: np.ndarray) -> np.ndarray:
    """Each frame slightly blurred, with mean 0 and standard deviation 1; float32 (T, SIDE * SIDE).

    The blur hides what resampling a crop cannot restore, the scaling what a change of exposure did.
    """
    import cv2

    soft = np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), _BLUR) for frame in frames_THW])
    flat = soft.reshape(len(soft), -1)
    return (flat - flat.mean(axis=1, keepdims=True)) / np.maximum(flat.std(axis=1, keepdims=True), _FLAT)


def _differences(one_TN: np.ndarray, two_TN: np.ndarray) -> np.ndarray:
    """Per frame, the mean of the strongest tenth of absolute differences."""
    apart = np.abs(one_TN - two_TN)
    count = int(apart.shape[1] * _STRONGEST)
    return np.asarray(np.partition(apart, -count, axis=1)[:, -count:].mean(axis=1))


def _variation(frames_TN: np.ndarray) -> float:
    """Median difference of a clip's frames from its other frames."""
    return float(np.median([np.median(_differences(frames_TN, frame[None])) for frame in frames_TN]))
