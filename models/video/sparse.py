"""Reads single frames of a video by instant, without decoding what lies between: for subjects, pairs and training clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from models.video.encode import CLIP_MARK
from models.video.reader import Frame, SeekError, VideoReader

_EARLY_S = 1e-3  # an instant this close before a frame's start means that frame: instants come from rounded arithmetic
_JUMP_S = (
    4.0  # a jump decodes from the last key frame, typically some seconds earlier; over less, decoding on is cheaper
)


@dataclass(frozen=True)
class Reading:
    """Which library reads a file's single frames, and, where decord was asked for and does not, why; goes into the ledger."""

    reader: Literal["decord", "pyav"]
    why: str | None = None

    def __str__(self) -> str:
        return f"read by {self.reader}" + (f": {self.why}" if self.why else "")


def frames_at(
    path: str | Path,
    times_s: Sequence[float],
    size: tuple[int, int] | None = None,
    on_reading: Callable[[Reading], None] = lambda reading: None,
) -> list[np.ndarray]:
    """The frames shown at these instants (seconds after the first decoded frame), RGB uint8 HWC, in the order asked.

    An instant before 0 gives the first frame, one after the end the last. ``size`` is (width, height); without it frames
    come as stored, turned upright. decord reads the clips that this project wrote, PyAV the rest; ``on_reading`` is told
    which and why. Raises ``UndecodableError``.
    """
    if not len(times_s):
        return []
    reading = reader_for(path)
    pictures = None
    if reading.reader == "decord":
        pictures = _with_decord(path, times_s)
        if pictures is None:
            reading = Reading("pyav", "decord failed on it or counted other frames than its timestamps say")
    if pictures is None:
        pictures = _with_pyav(path, times_s)
    on_reading(reading)
    if size is not None:
        pictures = [_fit(picture, size) for picture in pictures]
    return pictures


def _fit(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    smaller = size[0] < picture.shape[1]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


# -- decord ------------------------------------------------------------------------------------------------------------


def reader_for(path: str | Path) -> Reading:
    """decord for a clip that this project wrote, PyAV for every file from elsewhere. Raises ``UndecodableError``.

    On files from elsewhere decord 0.6 is not safe in one's own process: of the real footage it showed other frames than those
    asked for in transport streams, edit lists and some HEVC, gave nothing for others, and never returned from some damaged
    files (benchmarks/sparse_readers.py, docs/measured/sparse_readers.json). On what ``encode`` writes both readers show the
    same pictures (tests/footage/test_sparse.py).
    """
    with VideoReader(path) as reader:
        ours = reader.codec == "h264" and reader.container.metadata.get("comment") == CLIP_MARK
    if not ours:
        return Reading("pyav", "decord is trusted with this project's own clips only")
    try:
        import decord  # noqa: F401
    except (ImportError, OSError):
        return Reading("pyav", "decord is not installed")
    return Reading("decord")


def _with_decord(path: str | Path, times_s: Sequence[float]) -> list[np.ndarray] | None:
    """Frames through decord, or None where it fails or counts other frames than the header."""
    import decord

    try:
        reader = decord.VideoReader(os.fspath(path), num_threads=1)
        starts = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0].astype(np.float64)
        starts -= starts[0]
        if not len(starts) or np.any(np.diff(starts) <= 0):
            return None
        indices = np.clip(np.searchsorted(starts, np.asarray(times_s) + _EARLY_S, side="right") - 1, 0, len(starts) - 1)
        wanted, inverse = np.unique(indices, return_inverse=True)
        pictures = reader.get_batch(wanted.tolist()).asnumpy()
    except Exception:  # decord raises its own untyped errors; PyAV then says what is wrong with the file
        return None
    return [pictures[n].copy() for n in inverse]


# -- PyAV --------------------------------------------------------------------------------------------------------------


def _with_pyav(path: str | Path, times_s: Sequence[float]) -> list[np.ndarray]:
    """Frames through PyAV, with jumps over long gaps; where a jump lands wrongly, by decoding from the start."""
    try:
        return _walk(path, times_s, jump=True)
    except SeekError:
        return _walk(path, times_s, jump=False)


def _walk(path: str | Path, times_s: Sequence[float], jump: bool) -> list[np.ndarray]:
    waiting = sorted(range(len(times_s)), key=lambda n: times_s[n], reverse=True)  # the next one last
    found: dict[int, np.ndarray] = {}
    with VideoReader(path) as reader:
        frames = iter(reader)
        previous: Frame | None = None
        jumped_to = -1.0
        while waiting:
            frame = next(frames, None)
            if frame is None:
                break
            if previous is not None:
                while waiting and times_s[waiting[-1]] + _EARLY_S < frame.time_s:
                    found[waiting.pop()] = previous.picture(order="rgb24")
            previous = frame
            # once for each instant: the last key frame may itself lie far before it
            if jump and waiting and times_s[waiting[-1]] - frame.time_s > _JUMP_S and times_s[waiting[-1]] != jumped_to:
                jumped_to = times_s[waiting[-1]]
                frames, previous = reader.jump(jumped_to), None
        for number in waiting:
            if previous is None:  # the jump was past the last frame
                raise SeekError
            found[number] = previous.picture(order="rgb24")
    return [found[n] for n in range(len(times_s))]
