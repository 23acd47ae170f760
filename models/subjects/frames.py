"""Frames of exported clips and pictures for the subject and evaluation rooms: RGB uint8.

Exported clips and samples are short files that this project encoded itself; they are read in one sequential pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.subjects.protocols import U8


def clip_frames(path: Path | str, wanted: Sequence[float] | None = None, *, most: int = 4096) -> tuple[U8, list[float]]:
    """Frames (F, H, W, 3) of a video and their instants in seconds from its first frame.

    ``wanted`` asks for the frames nearest to these instants (equal frames come once); None reads all, at most ``most``.
    Raises ``ValueError`` naming the file when no frame can be decoded or more than ``most`` were asked for.
    """
    from models.video.reader import UndecodableError, VideoReader

    kept: dict[int, tuple[float, float, U8]] = {}
    frames: list[U8] = []
    times: list[float] = []
    try:
        with VideoReader(path) as reader:
            for frame in reader:
                if wanted is None:
                    if frame.index >= most:
                        raise ValueError(f"{Path(path).name} has more than {most} frames; export shorter clips")
                    frames.append(np.asarray(frame.picture(order="rgb24"), np.uint8))
                    times.append(frame.time_s)
                    continue
                closer = [k for k, w in enumerate(wanted) if k not in kept or abs(frame.time_s - w) < kept[k][0]]
                if closer:
                    shown = np.asarray(frame.picture(order="rgb24"), np.uint8)
                    for k in closer:
                        kept[k] = (abs(frame.time_s - wanted[k]), frame.time_s, shown)
    except UndecodableError as error:
        raise ValueError(f"{Path(path).name} cannot be decoded: {error}") from error
    for _, instant, shown in sorted(kept.values(), key=lambda item: item[1]):
        if not times or instant > times[-1]:
            times.append(instant)
            frames.append(shown)
    if not frames:
        raise ValueError(f"no frame could be decoded from {Path(path).name}")
    return np.stack(frames), times


def frames_per_second(times: Sequence[float], default: float = 8.0) -> float:
    """Mean rate of a list of instants; ``default`` for fewer than two."""
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else default


def picture(data: bytes, name: str) -> U8:
    """An RGB picture (H, W, 3) of an encoded image, EXIF orientation applied, transparency laid on white.

    Raises ``ValueError`` naming it when it cannot be decoded.
    """
    import cv2

    raw = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if len(raw) else None
        full = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if len(raw) else None
    except cv2.error as error:
        raise ValueError(f"{name} cannot be decoded as a picture: {error.err or 'broken data'}") from error
    if image is None:
        raise ValueError(f"{name} cannot be decoded as a picture")
    rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32)
    if full is not None and full.ndim == 3 and full.shape[2] == 4 and full.shape[:2] == image.shape[:2]:
        alpha = full[..., 3:].astype(np.float32) / np.iinfo(full.dtype).max
        rgb = rgb * alpha + 255.0 * (1.0 - alpha)
    return np.asarray(np.round(rgb), np.uint8)


def faded(picture_HWC: U8, mask_HW: U8, left: float) -> U8:
    """The picture with its background faded into light grey: ``left`` (0..1) of it shows, the subject (mask over 127) as it is."""
    ground = picture_HWC * left + 235.0 * (1.0 - left)
    return np.where((mask_HW > 127)[..., None], picture_HWC, np.round(ground)).astype(np.uint8)


def png(array: U8) -> bytes:
    """PNG bytes of an RGB (H, W, 3) or grey (H, W) uint8 array."""
    import cv2

    done, data = cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)
    if not done:
        raise ValueError(f"a picture of shape {array.shape} cannot be encoded as PNG")
    return data.tobytes()
