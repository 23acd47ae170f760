"""Writes video: a clip cut frame-accurately out of a source, or an array of frames; and reads a short video back whole."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from models.video.reader import Frame, VideoReader, fitted

CLIP_MARK = "fulcrum clip"  # in the file's comment: written here, so its structure is known
GOP_FRAMES = (
    12  # a training loader and a reviewer both jump into the middle; half a second of decoding is the most they pay
)
_CLOCK = Fraction(
    1, 90_000
)  # divides the usual frame rates, and keeps the instants of a variable one to 11 microseconds

# Quality near the source's own: an export is encoded once and trained on, so bytes are cheap and loss is not.
_CODECS: dict[str, tuple[str, dict[str, str]]] = {
    # Without mbtree=0 x264 gives other bytes from run to run at most widths, even with one thread; digests need the same.
    "libx264": (
        "mp4",
        {"crf": "17", "preset": "veryfast", "bf": "0", "threads": "1", "x264-params": "mbtree=0:cpu-independent=1"},
    ),
    "libvpx-vp9": ("webm", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "0", "threads": "1"}),
}


class EncodeError(Exception):
    """A clip could not be written; the message says which and why."""


@dataclass(frozen=True)
class EncodedInfo:
    """The file that was written: frames, seconds from the first frame's start to the last one's end, and pixels."""

    frames: int
    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    bytes: int


def cut_clip(
    source: str | Path,
    start_frame: int,
    end_frame: int,
    out: str | Path,
    codec: str = "libx264",
    max_side: int | None = None,
) -> EncodedInfo:
    """Encode frames ``[start_frame, end_frame)`` of ``source`` (decoded frames in presentation order from 0), without sound.

    Instants are kept, so a variable frame rate stays variable; rotation is applied; sizes are even, with the long side at
    most ``max_side``. Raises ``EncodeError`` when the source ends before ``end_frame``, ``UndecodableError`` when it cannot
    be read.
    """
    if not 0 <= start_frame < end_frame:
        raise EncodeError(f"{source}: a clip from frame {start_frame} to {end_frame} holds no frame")
    with VideoReader(source) as reader:
        frames = _between(reader, start_frame, end_frame)
        info = _encode(frames, reader.header_fps, out, codec, max_side)
        if info.frames != end_frame - start_frame:
            Path(out).unlink(missing_ok=True)
            raise EncodeError(
                f"{source} ended after frame {start_frame + info.frames}, before the clip's end at frame {end_frame}; "
                "it changed since it was analysed, run the pipeline again"
            )
    return info


def _between(reader: VideoReader, start: int, end: int) -> Iterable[Frame]:
    for frame in reader:
        if frame.index >= end:
            return
        if frame.index >= start:
            yield frame


def write_video(
    frames_FHWC: np.ndarray, fps: float, out: str | Path, codec: str = "libx264", crf: int | None = None
) -> EncodedInfo:
    """Encode RGB uint8 frames ``[F, H, W, 3]`` at a constant rate. Odd sizes lose their last row or column.

    ``crf`` overrides the codec's quality (0 is best). Raises ``EncodeError`` for an array of another shape or type.
    """
    if frames_FHWC.ndim != 4 or frames_FHWC.shape[3] != 3 or frames_FHWC.dtype != np.uint8 or not len(frames_FHWC):
        raise EncodeError(
            f"{out}: frames must be uint8 [F, H, W, 3] with F >= 1, not {frames_FHWC.dtype} {list(frames_FHWC.shape)}"
        )
    height, width = frames_FHWC.shape[1] // 2 * 2, frames_FHWC.shape[2] // 2 * 2
    if not height or not width:
        raise EncodeError(f"{out}: {frames_FHWC.shape[2]} x {frames_FHWC.shape[1]} pixels are too few to encode")
    even = frames_FHWC[:, :height, :width]
    raws = (
        (n / fps, av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
        for n, picture in enumerate(even)
    )
    return _write(raws, (width, height), fps, out, codec, crf)


def _encode(
    frames: Iterable[Frame], rate: float | None, out: str | Path, codec: str, max_side: int | None
) -> EncodedInfo:
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise EncodeError(f"{out}: the source holds no frame of this clip; it changed since it was analysed")
    width, height = fitted(first.size, max_side or max(first.size))
    size = (max(2, width // 2 * 2), max(2, height // 2 * 2))
    origin = first.time_s

    def raws() -> Iterable[tuple[float, av.VideoFrame]]:
        frame: Frame | None = first
        while frame is not None:
            if frame.rotation:
                raw = av.VideoFrame.from_ndarray(frame.picture(size, "rgb24"), format="rgb24")
            else:
                raw = frame.raw
            yield frame.time_s - origin, raw
            frame = next(iterator, None)

    return _write(raws(), size, rate or 25.0, out, codec, None)


def _write(
    raws: Iterable[tuple[float, av.VideoFrame]],
    size: tuple[int, int],
    rate: float,
    out: str | Path,
    codec: str,
    crf: int | None,
) -> EncodedInfo:
    """Encode (instant in seconds, frame) pairs. The file appears under its name only when it is whole."""
    if codec not in _CODECS:
        raise EncodeError(f"codec {codec} is not offered; choose one of {', '.join(_CODECS)}")
    container_format, options = _CODECS[codec]
    options = {**options, **({} if crf is None else {"crf": str(crf)})}
    # bitexact: a WebM would otherwise carry random ids, and equal videos would have different digests.
    flags = {"fflags": "+bitexact", **({"movflags": "+faststart"} if container_format == "mp4" else {})}
    partial = f"{os.fspath(out)}.partial"
    scaler = VideoReformatter()
    count, last, step = 0, 0.0, 1.0 / rate
    try:
        with av.open(partial, "w", format=container_format, options=flags) as container:
            container.metadata["comment"] = CLIP_MARK
            stream = _stream(container, codec, rate, size, options)
            for time_s, raw in raws:
                frame = scaler.reformat(
                    raw, *size, "yuv420p", interpolation=Interpolation.AREA, dst_color_range=ColorRange.MPEG, threads=1
                )
                frame.pts, frame.time_base = round(time_s / _CLOCK), _CLOCK
                frame.pict_type = 0  # the source's own I, P and B must not steer this encoder
                container.mux(stream.encode(frame))
                if count:
                    step = time_s - last
                count, last = count + 1, time_s
            container.mux(stream.encode(None))
        os.replace(partial, out)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, OSError):
            raise  # a full disk is the machine's failure, not the clip's
        raise EncodeError(f"{out}: the encoder {codec} failed: {error}") from error
    finally:
        Path(partial).unlink(missing_ok=True)
    duration = last + step
    return EncodedInfo(count, duration, count / duration, size[0], size[1], codec, os.path.getsize(out))


def _stream(container: Any, codec: str, rate: float, size: tuple[int, int], options: dict[str, str]) -> Any:
    stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001), options=options)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = _CLOCK
    stream.codec_context.gop_size = GOP_FRAMES
    stream.codec_context.thread_count = 1
    return stream


def read_video(path: str | Path) -> tuple[np.ndarray, float]:
    """All frames of a short video as RGB uint8 ``[F, H, W, 3]``, and its frames per second (0 where a lone frame has none).

    Raises ``UndecodableError``. Every frame is held in memory: for exported clips, not for sources.
    """
    with VideoReader(path) as reader:
        frames = [frame.picture(order="rgb24") for frame in reader]
        rate = reader.facts.fps or 0.0
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        size = (frames[0].shape[1], frames[0].shape[0])
        import cv2

        frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(frames), rate
