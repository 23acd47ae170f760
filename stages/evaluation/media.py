"""Pictures and videos small enough to live inside the page, as data URIs."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

from models.subjects.protocols import U8

MAX_INLINE_BYTES = 400_000  # a sample that is already a small WebM goes in as it is


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def thumbnail(data: bytes, name: str, side: int = 220) -> str | None:
    """A JPEG data URI of an encoded picture, long side at most ``side`` px; None when it cannot be decoded."""
    from models.subjects.frames import picture

    try:
        return jpeg(picture(data, name), side)
    except ValueError:
        return None


def jpeg(picture_HWC: U8, side: int) -> str:
    import cv2

    from models.subjects.propose import fit

    _, encoded = cv2.imencode(".jpg", fit(picture_HWC, side)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    return data_uri(encoded.tobytes(), "image/jpeg")


def cut_out(picture_HWC: U8, mask_HW: U8, side: int = 220) -> str:
    """The masked subject as a PNG data URI, its background transparent."""
    import cv2
    import numpy as np

    from models.subjects.propose import fit

    alpha = fit(mask_HW, side)
    encoded = cv2.imencode(".png", np.dstack([fit(picture_HWC, side)[..., ::-1], alpha]))[1]
    return data_uri(encoded.tobytes(), "image/png")


def frame_rate(video: str) -> float | None:
    """Frames a second of a video's data URI, as its header tells them; None when it does not."""
    import av

    with av.open(io.BytesIO(base64.b64decode(video.partition(",")[2]))) as opened:
        rate = opened.streams.video[0].average_rate
    return float(rate) if rate else None


def webm(path: Path, *, side: int = 256, seconds: float = 4.0, fps: float = 12.0) -> str | None:
    """A video as a VP9 WebM data URI, at most ``side`` px and ``seconds`` long; None when it cannot be read.

    A WebM that is small already is taken as it is, so samples are shown bit for bit.
    """
    import numpy as np

    from models.subjects.frames import clip_frames, frames_per_second
    from models.subjects.propose import fit
    from models.video.encode import EncodeError, write_video

    if path.suffix == ".webm" and path.stat().st_size <= MAX_INLINE_BYTES:
        return data_uri(path.read_bytes(), "video/webm")
    try:
        frames, times = clip_frames(path, [i / fps for i in range(round(seconds * fps))])
        small = np.stack([fit(f, side) for f in frames])
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "v.webm"
            write_video(small, min(fps, frames_per_second(times, fps)), out, codec="libvpx-vp9", crf=38)
            return data_uri(_without_marks(out), "video/webm")
    except (ValueError, EncodeError):
        return None


def _without_marks(path: Path) -> bytes:
    """The same packets in a WebM without random ids or library versions, so that equal inputs give equal pages."""
    import av

    buffer = io.BytesIO()
    with av.open(str(path)) as source, av.open(buffer, "w", format="webm", options={"fflags": "+bitexact"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return buffer.getvalue()
