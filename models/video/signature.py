"""What is kept of a clip to compare it closely: a short sequence of small frames without black bars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SIDE = 48  # px; the grid every frame's luma is averaged to, whatever its shape
HALF = SIDE // 2  # px; the grid of its chroma
SIGNATURE_VERSION = "2"  # raise it when signatures would differ
RATE = 8.0  # frames per second of a signature
SECONDS = 20.0  # the most of a clip that is compared, from its start
_FINE = 96  # px; bars are cut off at this grid, then it is averaged to SIDE
_BLACK = 24  # of 255: as bright as a bar may be anywhere, black with the noise of compression
_MOST_BAR = 0.3  # share of a side; what is dark for longer is a dark picture


@dataclass(frozen=True)
class Signature:
    """One frame for each 1 / ``RATE`` seconds.

    ``luma`` uint8 (T, SIDE, SIDE), ``chroma`` uint8 (T, 2, HALF, HALF), ``damaged`` bool (T,): the decoder made it up.
    """

    luma: np.ndarray
    chroma: np.ndarray
    damaged: np.ndarray

    def __len__(self) -> int:
        return len(self.luma)

    @property
    def mirrored(self) -> Signature:
        return Signature(self.luma[..., ::-1], self.chroma[..., ::-1], self.damaged)

    def to_bytes(self) -> bytes:
        return b"".join(np.ascontiguousarray(part).tobytes() for part in (self.luma, self.chroma, self.damaged))

    @staticmethod
    def from_bytes(data: bytes) -> Signature:
        count = len(data) // (SIDE * SIDE + 2 * HALF * HALF + 1)
        luma, chroma = count * SIDE * SIDE, count * 2 * HALF * HALF
        values = np.frombuffer(data, np.uint8)
        return Signature(
            values[:luma].reshape(count, SIDE, SIDE),
            values[luma : luma + chroma].reshape(count, 2, HALF, HALF),
            values[luma + chroma :].astype(bool),
        )

    @property
    def damage(self) -> float:
        """Share of the clip that is damaged."""
        return float(self.damaged.mean()) if len(self.damaged) else 0.0


class SignatureBuilder:
    """Makes a signature from a clip's frames as they are decoded; ask ``wants`` first and scale only what it takes.

    Each slot of 1 / ``RATE`` seconds takes the first frame at or after its instant, so that a source with dropped frames or
    another rate fills the same slots with nearly the same pictures.
    """

    size = (_FINE, _FINE)

    def __init__(self) -> None:
        self._taken: list[np.ndarray] = []
        self._damaged: list[bool] = []

    def wants(self, seconds: float) -> bool:
        """Whether the frame at this instant, relative to the clip's first frame, fills a slot."""
        return seconds < SECONDS and seconds + 1e-6 >= len(self._taken) / RATE

    def add(self, seconds: float, bgr_HWC: np.ndarray, damaged: bool = False) -> None:
        """Take a wanted frame: BGR uint8, of any size, best of ``size``."""
        import cv2

        small = bgr_HWC
        if bgr_HWC.shape[:2] != self.size:
            small = cv2.resize(np.ascontiguousarray(bgr_HWC), self.size, interpolation=cv2.INTER_AREA)
        small = cv2.cvtColor(small, cv2.COLOR_BGR2YCrCb)
        # a gap in the source repeats the picture that a player would still be showing
        while self._taken and (len(self._taken) + 1) / RATE <= seconds:
            self._taken.append(self._taken[-1])
            self._damaged.append(damaged)
        self._taken.append(small)
        self._damaged.append(damaged)

    def finish(self) -> Signature:
        """The signature; of length 0 for a clip without frames."""
        import cv2

        if not self._taken:
            return Signature.from_bytes(b"")
        rows, columns = content_box(np.max([frame[..., 0] for frame in self._taken], axis=0))
        inner = [frame[rows, columns] for frame in self._taken]
        luma = [cv2.resize(frame[..., 0], (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in inner]
        chroma = [cv2.resize(frame[..., 1:], (HALF, HALF), interpolation=cv2.INTER_AREA) for frame in inner]
        return Signature(
            np.stack(luma), np.ascontiguousarray(np.stack(chroma).transpose(0, 3, 1, 2)), np.asarray(self._damaged)
        )


def signature(frames: Iterable[tuple[float, np.ndarray]]) -> Signature:
    """The signature of a stream of (seconds since the clip's start, BGR uint8 frame)."""
    builder = SignatureBuilder()
    for seconds, bgr in frames:
        if builder.wants(seconds):
            builder.add(seconds, bgr)
    return builder.finish()


def content_box(grey_HW: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a picture without black bars; the whole of it where what is dark is more than a bar."""
    rows = _inside(np.percentile(grey_HW, 98, axis=1))
    return rows, _inside(np.percentile(grey_HW[rows], 98, axis=0))


def _inside(brightness: np.ndarray) -> slice:
    bright = np.flatnonzero(brightness > _BLACK)
    count = len(brightness)
    if not len(bright):
        return slice(0, count)
    start, end = int(bright[0]), int(bright[-1]) + 1
    # one more than the bar: its last row is half picture
    first = 0 if not 0 < start <= _MOST_BAR * count else start + 1
    last = count if not 0 < count - end <= _MOST_BAR * count else end - 1
    return slice(first, last)
