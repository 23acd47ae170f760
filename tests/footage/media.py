"""Small videos with known content, made with the project's own encoder or with PyAV, for the tests of this room."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from models.video.encode import write_video


def texture(height: int, width: int, seed: int = 0, cell: int = 12) -> np.ndarray:
    """A smooth random pattern, uint8 RGB, that optical flow can hold on to."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def still(seed: int, frames: int, height: int = 180, width: int = 320) -> np.ndarray:
    """The same picture again and again."""
    return np.repeat(texture(height, width, seed)[None], frames, axis=0)


def pan(dx: float, dy: float, frames: int, height: int = 180, width: int = 320, seed: int = 0) -> np.ndarray:
    """A camera that moves by (dx, dy) pixels a frame over a large still picture."""
    margin = int(max(abs(dx), abs(dy)) * frames) + 8
    ground = texture(height + 2 * margin, width + 2 * margin, seed)
    out = []
    for n in range(frames):
        shift = np.float32([[1, 0, -(margin / 2 + dx * n)], [0, 1, -(margin / 2 + dy * n)]])
        out.append(cv2.warpAffine(ground, shift, (width, height), flags=cv2.INTER_LINEAR))
    return np.stack(out)


def write(path: Path, frames: np.ndarray, fps: float = 25.0, crf: int = 12) -> Path:
    # what others film has an encoder that looks ahead: a still shot after a cut is coded still from its first frame on
    write_video(frames, fps, path, crf=crf, preset="veryfast")
    return path


def write_timed(
    path: Path, frames: Sequence[np.ndarray], times_s: Sequence[float], *, second: Sequence[np.ndarray] | None = None
) -> Path:
    """Frames at given instants (a variable rate, a start offset), lossless enough; ``second`` adds a video stream in front."""
    clock = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        streams = []
        for pictures in [p for p in (second, frames) if p is not None]:
            stream = container.add_stream("libx264", rate=25, options={"crf": "10", "bf": "0"})
            stream.width, stream.height = pictures[0].shape[1], pictures[0].shape[0]
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = clock
            streams.append((stream, pictures))
        for stream, pictures in streams:
            for picture, time_s in zip(pictures, times_s, strict=False):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = round(time_s / clock), clock
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def write_grey(path: Path, levels: Sequence[int], fps: float = 25.0) -> Path:
    """Frames of one grey each: a frame's level tells which one it is."""
    frames = np.stack([np.full((64, 96, 3), level, np.uint8) for level in levels])
    return write(path, frames, fps, crf=4)
