"""Writes video, frame by frame or from an array, the same bytes for the same frames; and reads a short video back whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from models.video.reader import VideoReader
from models.video.sound import RATE, Sound

CLIP_MARK = "fulcrum clip"  # in the file's comment: written here, so its structure is known
GOP_FRAMES = (
    12  # a training loader and a reviewer both jump into the middle; half a second of decoding is the most they pay
)
_CLOCK = Fraction(
    1, 90_000
)  # divides the usual frame rates, and keeps the instants of a variable one to 11 microseconds

SOUND_BITS = {"mono": 96_000, "stereo": 160_000}  # bits a second; above where people hear a difference

_MATRIX_OF_RGB = Colorspace.ITU601  # by which the scaler turns RGB into the planes of a video


@dataclass(frozen=True)
class _Codec:
    container: str
    sound: str
    options: dict[str, str]
    preset: str  # the option that trades time for size


# Quality near the source's own: an export is encoded once and trained on, so bytes are cheap and loss is not. At the same crf
# superfast loses no more than veryfast, in two thirds of its time, for a sixth more bytes (docs/measured/encoder_presets.json).
_CODECS = {
    # Without mbtree=0 x264 gives other bytes from run to run at most widths, even with one thread; digests need the same.
    "libx264": _Codec(
        "mp4",
        "aac",
        {"crf": "17", "preset": "superfast", "bf": "0", "threads": "1", "x264-params": "mbtree=0:cpu-independent=1"},
        "preset",
    ),
    "libvpx-vp9": _Codec(
        "webm",
        "libopus",
        {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "0", "threads": "1"},
        "cpu-used",
    ),
}


@dataclass(frozen=True)
class Encoding:
    """How a clip is encoded. Raises ``EncodeError`` for a codec that is not offered.

    ``crf`` is the codec's constant quality (0 is best; None: 17 for H.264, 24 for VP9), ``preset`` x264's preset by name or VP9's
    ``cpu-used`` 0 to 8 (None: superfast, 4), ``max_side`` and ``short_side`` the most pixels of the long and of the short side
    (None: the source's own), ``sound`` whether the source's sound is kept.
    """

    codec: str = "libx264"
    crf: int | None = None
    preset: str | None = None
    max_side: int | None = None
    sound: bool = False
    short_side: int | None = None

    def __post_init__(self) -> None:
        if self.codec not in _CODECS:
            raise EncodeError(f"codec {self.codec} is not offered; choose one of {', '.join(_CODECS)}")

    @property
    def suffix(self) -> str:
        return f".{_CODECS[self.codec].container}"

    def long_side(self, size: tuple[int, int]) -> int:
        """The most pixels of the long side for a source of this (width, height)."""
        long, short = max(size), min(size)
        most = min(long, self.max_side or long)
        return most if self.short_side is None else min(most, self.short_side * long // short)

    def options(self) -> dict[str, str]:
        codec = _CODECS[self.codec]
        given = {"crf": None if self.crf is None else str(self.crf), codec.preset: self.preset}
        return codec.options | {name: value for name, value in given.items() if value is not None}


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
    sound: bool = False


def write_video(
    frames_FHWC: np.ndarray,
    fps: float,
    out: str | Path,
    codec: str = "libx264",
    crf: int | None = None,
    preset: str | None = None,
) -> EncodedInfo:
    """Encode RGB uint8 frames ``[F, H, W, 3]`` at a constant rate. Odd sizes lose their last row or column.

    ``crf`` (0 is best) and ``preset`` override the codec's own. Raises ``EncodeError`` for an array of another shape or type.
    """
    if frames_FHWC.ndim != 4 or frames_FHWC.shape[3] != 3 or frames_FHWC.dtype != np.uint8 or not len(frames_FHWC):
        raise EncodeError(
            f"{out}: frames must be uint8 [F, H, W, 3] with F >= 1, not {frames_FHWC.dtype} {list(frames_FHWC.shape)}"
        )
    height, width = frames_FHWC.shape[1] // 2 * 2, frames_FHWC.shape[2] // 2 * 2
    if not height or not width:
        raise EncodeError(f"{out}: {frames_FHWC.shape[2]} x {frames_FHWC.shape[1]} pixels are too few to encode")
    even = frames_FHWC[:, :height, :width]
    writer = ClipWriter(out, (width, height), fps, Encoding(codec, crf, preset))
    try:
        for n, picture in enumerate(even):
            writer.add(n / fps, av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
        return writer.finish()
    finally:
        writer.abandon()


class ClipWriter:
    """Encodes frames as they come; the file appears under its name when ``finish`` is called, and only then.

    ``size`` is (width, height) in pixels, both even; ``rate`` a hint for the encoder in frames per second, the frames' own
    instants are what is kept. ``sound`` is encoded beside them as far as the pictures go (AAC in MP4, Opus in WebM).
    """

    def __init__(
        self, out: str | Path, size: tuple[int, int], rate: float, encoding: Encoding, sound: Sound | None = None
    ) -> None:
        self.out, self.size, self.encoding, self.sound = os.fspath(out), size, encoding, sound
        self._partial = f"{self.out}.partial"
        self._scaler = VideoReformatter()
        self._count, self._last, self._step = 0, 0.0, 1.0 / rate
        codec = _CODECS[encoding.codec]
        # bitexact: a WebM would otherwise carry random ids, and equal videos would have different digests.
        flags = {"fflags": "+bitexact", **({"movflags": "+faststart"} if codec.container == "mp4" else {})}
        with self._named():
            self._container = av.open(self._partial, "w", format=codec.container, options=flags)
            self._container.metadata["comment"] = CLIP_MARK
            self._stream = self._video(rate, encoding.options())
            self._audio = self._sound_stream(codec.sound) if sound is not None else None

    def _video(self, rate: float, options: dict[str, str]) -> Any:
        stream: Any = self._container.add_stream(
            self.encoding.codec, rate=Fraction(rate).limit_denominator(1001), options=options
        )
        stream.width, stream.height = self.size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = _CLOCK
        stream.codec_context.gop_size = GOP_FRAMES
        stream.codec_context.thread_count = 1
        return stream

    def _sound_stream(self, codec: str) -> Any:
        assert self.sound is not None
        stream: Any = self._container.add_stream(codec, rate=RATE)
        stream.codec_context.layout = self.sound.layout
        stream.codec_context.bit_rate = SOUND_BITS[self.sound.layout]
        return stream

    def add(self, time_s: float, raw: av.VideoFrame) -> None:
        """The next frame and its instant in seconds from the first. Raises ``EncodeError``."""
        with self._named():
            if not self._count:
                self._tell_colours(raw)
            frame = self._scaler.reformat(
                raw, *self.size, "yuv420p", interpolation=Interpolation.AREA, dst_color_range=_range(raw), threads=1
            )
            frame.pts, frame.time_base = round(time_s / _CLOCK), _CLOCK
            frame.pict_type = 0  # the source's own I, P and B must not steer this encoder
            self._container.mux(self._stream.encode(frame))
            if self._audio is not None and self.sound is not None:
                for piece in self.sound.until(time_s):
                    self._container.mux(self._audio.encode(piece))
            if self._count:
                self._step = time_s - self._last
            self._count, self._last = self._count + 1, time_s

    def _tell_colours(self, raw: av.VideoFrame) -> None:
        """What the numbers mean is not changed by encoding, so it is said as the source said it."""
        context = self._stream.codec_context
        context.color_range = ColorRange.MPEG
        context.colorspace = _MATRIX_OF_RGB if raw.format.is_rgb else raw.colorspace
        context.color_primaries, context.color_trc = raw.color_primaries, raw.color_trc

    def finish(self) -> EncodedInfo:
        """Write what is left and put the file in its place. Raises ``EncodeError``; without a frame there is no file."""
        try:
            if not self._count:
                raise EncodeError(f"{self.out}: there is no frame to encode")
            duration = self._last + self._step
            with self._named():
                if self._audio is not None and self.sound is not None:
                    for piece in self.sound.rest(duration):
                        self._container.mux(self._audio.encode(piece))
                    self._container.mux(self._audio.encode(None))
                self._container.mux(self._stream.encode(None))
                self._container.close()
            os.replace(self._partial, self.out)
        finally:
            self.abandon()
        return EncodedInfo(
            self._count, duration, self._count / duration, *self.size, self.encoding.codec, os.path.getsize(self.out),
            self._audio is not None,
        )  # fmt: skip

    def abandon(self) -> None:
        """Leave nothing behind."""
        try:
            self._container.close()
        except (av.error.FFmpegError, ValueError, OSError):
            pass  # a file that is thrown away need not be whole
        if self.sound is not None:
            self.sound.close()
        Path(self._partial).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """The encoder's failure as ``EncodeError``; the machine's (a full disk) as it is."""
        try:
            yield
        except (av.error.FFmpegError, ValueError) as error:
            if hasattr(self, "_container"):
                self.abandon()
            if isinstance(error, OSError):
                raise
            raise EncodeError(f"{self.out}: the encoder {self.encoding.codec} failed: {error}") from error


def _range(raw: av.VideoFrame) -> ColorRange:
    """The range to ask the scaler for. Where a source of 4:2:0 says none it is the limited one, and asking for that by name would
    have the scaler copy every picture."""
    said = ColorRange(raw.color_range)
    return said if said == ColorRange.UNSPECIFIED and raw.format.name == "yuv420p" else ColorRange.MPEG


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
