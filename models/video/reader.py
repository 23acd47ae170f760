"""Reads a local video from its first to its last frame, in presentation order, whatever its header claims."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

MAX_PIXELS = (
    64_000_000  # 8192 x 7680 and more than any camera's video; a header that asks for more is an attack or damage
)
_BACKWARDS_S = 1.0  # a step back further than this is a new time axis (a wrapped or restarted clock), not a glitch
_MAX_RATE = 960.0  # frames per second; headers that claim more state their clock, not their rate
_DEMUX_FAULTS = 64  # places at which reading may fail and go on before the rest counts as lost

av.logging.set_level(
    av.logging.FATAL
)  # damage is counted and reported by us; the libraries' lines would only flood the log


class UndecodableError(Exception):
    """No picture can be got from a file; the message is a sentence that tells a person why."""


class PixelLimitError(UndecodableError):
    """A picture is larger than the limit, so it was not decoded."""


class SeekError(Exception):
    """A jump did not land where the timestamps say; only reading from the start is right."""


@dataclass(frozen=True)
class VideoFacts:
    """What was measured while decoding. ``rotation`` is clockwise, in degrees; width and height are those shown after it.

    ``duration_s`` runs from the first frame's start to the last frame's end; ``fps`` is frames per second of it, None
    where the file gives a single frame no duration. ``decode_errors`` counts damaged packets, ``time_faults`` frames
    whose timestamp was missing or ran backwards.
    """

    codec: str
    width: int
    height: int
    rotation: int
    frames: int
    duration_s: float
    fps: float | None
    decode_errors: int = 0
    time_faults: int = 0


class Scalers:
    """Keeps one scaler for each size and format asked for, since setting one up costs as much as using it once."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, int, str, int], VideoReformatter] = {}

    def scale(self, raw: av.VideoFrame, width: int, height: int, order: str, mode: Interpolation) -> av.VideoFrame:
        key = (width, height, order, int(mode))
        if key not in self._made:
            self._made[key] = VideoReformatter()
        return self._made[key].reformat(raw, width, height, order, interpolation=mode, threads=1)


@dataclass
class Frame:
    """One decoded frame: its place in presentation order from 0 and its instant relative to the first decoded frame."""

    index: int
    time_s: float
    raw: av.VideoFrame
    rotation: int = 0
    scalers: Scalers = field(default_factory=Scalers, repr=False)
    _cache: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown, in pixels."""
        stored = (self.raw.width, self.raw.height)
        return stored if self.rotation % 180 == 0 else (stored[1], stored[0])

    def picture(self, size: tuple[int, int] | None = None, order: str = "bgr24", fast: bool = False) -> np.ndarray:
        """The frame as shown, scaled to (width, height): uint8, HWC for ``bgr24`` and ``rgb24``, HW for ``gray``.

        ``fast`` scales with two taps a direction: right for measuring change, too rough to look at.
        """
        width, height = size or self.size
        if self.rotation % 180:
            width, height = height, width
        mode = Interpolation.FAST_BILINEAR if fast else Interpolation.AREA
        scaled = self.scalers.scale(self.raw, width, height, order, mode)
        # rows are padded to a multiple of 16 bytes, which OpenCV's flow refuses
        array = np.ascontiguousarray(scaled.to_ndarray())
        return turned(array, self.rotation)

    def luma(self) -> np.ndarray:
        """Brightness at full size as shown, uint8 HW; made once however many ask."""
        if "luma" not in self._cache:
            self._cache["luma"] = self.picture(order="gray", fast=True)
        return self._cache["luma"]


def turned(array: np.ndarray, rotation: int) -> np.ndarray:
    """The picture turned clockwise by a multiple of 90 degrees."""
    code = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}.get(rotation % 360)
    return array if code is None else cv2.rotate(array, code)


def fitted(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Width and height with the long side at most this, at least 1 pixel, never enlarged."""
    scale = min(1.0, long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def open_container(path: str | Path, formats: str | None = None) -> Any:
    """Open a local media file with PyAV: no network, no playlists. Raises ``UndecodableError``.

    ``formats`` narrows the demuxers that may try (comma-separated FFmpeg names).
    """
    name = os.fspath(path)
    try:
        size = os.stat(name).st_size
    except OSError as error:
        raise UndecodableError(f"the file cannot be read: {error.strerror}") from error
    if size == 0:
        raise UndecodableError("the file is empty (0 bytes); it was never written, or a download failed")
    # "file:" keeps FFmpeg from reading a protocol out of the name; a playlist could still name other files, so none opens
    options = {"protocol_whitelist": "file", "format_whitelist": formats or _FORMATS}
    if formats == IMAGE_FORMATS:
        options["pattern_type"] = "none"  # a "%03d" in a name is part of the name, not a sequence of files
    try:
        return av.open(f"file:{name}", options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise UndecodableError(_why_unopened(name, size, error)) from error


def _why_unopened(name: str, size: int, error: Exception) -> str:
    reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
    with open(name, "rb") as file:
        head = file.read(16)
    if head[4:8] == b"ftyp":
        return (
            f"the MP4 index (moov box) is missing or damaged, so nothing in its {size:,} bytes can be located ({reason}); "
            "the recording or download probably stopped early"
        )
    if head.lstrip()[:4] in (b"#EXT", b"<?xm", b"ffco", b"v=0\r", b"v=0\n", b"[Ref"):
        return "it is a playlist or manifest, and playlists are not followed"
    return f"its {size:,} bytes are not video in a known container ({reason})"


# Containers of moving pictures that hold all they need. Of FFmpeg's 300 other demuxers some follow names to other files or
# hosts (hls, dash, concat, sdp, imf, vobsub), some open devices or filter graphs, some draw text files as pictures (tty, bin),
# and each is code that a crafted file could reach.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,flv,live_flv,kux,asf,asf_o,mpeg,mpegvideo,mpegts,mpegtsraw,ogg,mxf,gif,ivf,yuv4mpegpipe,"
    "dv,nut,rm,wtv,h264,hevc,m4v,obu"
)

IMAGE_FORMATS = "image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"


class VideoReader:
    """Iterates over the frames of one video once; ``facts`` is complete when the iteration has ended.

    Decodes with one thread: throughput comes from one process a core. Damaged packets are counted and passed over. Raises
    ``UndecodableError`` (at opening or at the first frame) when there is nothing to see.
    """

    def __init__(self, path: str | Path, *, max_pixels: int = MAX_PIXELS) -> None:
        self.path = os.fspath(path)
        self.max_pixels = max_pixels
        self.decode_errors = 0
        self.time_faults = 0
        self.frames = 0
        self._first_error = ""
        self._encrypted = False
        self._scalers = Scalers()
        self._packets = 0
        self._size = (0, 0)
        self._rotation = 0
        self._last_time = 0.0
        self._last_duration = 0.0
        self.container = open_container(path)
        try:
            self._streams = self._choose()
            self._prepare(self._streams[0])
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.container.close()

    # -- what to decode ------------------------------------------------------------------------------------------------

    def _choose(self) -> list[Any]:
        """Video streams in the order in which they are tried: the container's main one first, cover pictures never."""
        every = list(self.container.streams)
        streams = [s for s in every if s.type == "video" and s.codec_context is not None and not _is_cover(s)]
        if not streams:
            kinds = sorted({s.type for s in every})
            if any(s.type == "video" for s in every):
                raise UndecodableError(
                    "its only picture is a cover, or its video is in a format that no decoder here knows"
                )
            raise UndecodableError(
                f"it has no video stream, only {' and '.join(kinds)}" if kinds else "it has no streams at all"
            )
        best = self.container.streams.best("video")
        return sorted(streams, key=lambda s: (best is None or s.index != best.index, s.index))

    def _prepare(self, stream: Any) -> None:
        context = stream.codec_context
        if context.width * context.height > self.max_pixels:
            raise PixelLimitError(
                f"its pictures are {context.width} x {context.height} pixels; the limit is {self.max_pixels:,} pixels"
            )
        context.options = {**context.options, "max_pixels": str(self.max_pixels)}
        context.thread_count = 1
        context.thread_type = "NONE"
        self.stream = stream

    @property
    def codec(self) -> str:
        return str(self.stream.codec_context.codec.canonical_name)

    @cached_property
    def header_fps(self) -> float | None:
        """The rate the header claims: a hint for sampling, never a fact."""
        rate = self.stream.average_rate
        return float(rate) if rate and 0 < rate <= _MAX_RATE else None

    # -- decoding ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Frame]:
        for number, stream in enumerate(self._streams):
            if number:  # the main stream held no picture; another may
                try:
                    self.container.seek(0)  # not opened anew: of a damaged file FFmpeg may find other streams each time
                except (av.error.FFmpegError, OSError):
                    break
                self._prepare(stream)
            yield from self._timed(stream)
            if self.frames:
                return
        raise UndecodableError(self._why_nothing())

    def _raw_frames(self, stream: Any) -> Iterator[av.VideoFrame]:
        faults = 0
        while True:
            try:
                for packet in self.container.demux(stream):
                    if packet.size:
                        self._packets += 1
                    yield from self._decode(packet)
                break
            except av.error.EOFError:
                break
            except (av.error.FFmpegError, OSError) as error:
                self._note(error)
                faults += 1
                if faults >= _DEMUX_FAULTS:
                    break
        yield from self._decode(None)

    def _decode(self, packet: Any) -> Iterator[av.VideoFrame]:
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.error.EOFError:
            return  # the end had been reached already
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError, OSError) as error:
            self._note(error)
            self._encrypted = self._encrypted or (packet is not None and packet.has_sidedata("encryption_info"))
            return
        yield from frames

    def _note(self, error: Exception) -> None:
        self.decode_errors += 1
        if not self._first_error:
            self._first_error = (getattr(error, "strerror", None) or str(error)).rstrip(".")

    def _timed(self, stream: Any) -> Iterator[Frame]:
        """Frames with an index and an instant that always moves forward."""
        base = float(stream.time_base) if stream.time_base else 0.0
        nominal = 1.0 / self.header_fps if self.header_fps else 0.0
        origin: float | None = None
        self._origin = 0.0
        for raw in self._raw_frames(stream):
            if raw.width * raw.height > self.max_pixels:
                raise PixelLimitError(
                    f"a frame has {raw.width} x {raw.height} pixels; the limit is {self.max_pixels:,}"
                )
            duration = raw.duration * base if raw.duration else nominal
            if duration < 1 / _MAX_RATE:
                duration = nominal  # one tick of the clock stands for "unknown" in some files
            stamp = raw.pts * base if raw.pts is not None else None
            if self.frames == 0:
                origin = stamp
                self._origin = stamp or 0.0
                time_s = 0.0
                self._rotation = round(-raw.rotation / 90.0) * 90 % 360 if raw.rotation else 0
                self._size = (raw.width, raw.height) if self._rotation % 180 == 0 else (raw.height, raw.width)
            else:
                step = self._last_duration or nominal or 1e-3
                if stamp is None:
                    self.time_faults += 1
                    time_s = self._last_time + step
                else:
                    origin = stamp if origin is None else origin
                    time_s = stamp - origin
                    if time_s <= self._last_time:
                        self.time_faults += 1
                        if time_s < self._last_time - _BACKWARDS_S:
                            origin = stamp - (self._last_time + step)
                        time_s = self._last_time + step
            self._last_time, self._last_duration = time_s, duration
            self.frames += 1
            yield Frame(self.frames - 1, time_s, raw, self._rotation, self._scalers)

    def jump(self, time_s: float) -> Iterator[Frame]:
        """Frames from the last key frame at or before this instant on, with index -1 (their number is not known).

        Call it after the first frame. Raises ``SeekError`` where timestamps are missing, run backwards or lie past it.
        """
        base = float(self.stream.time_base)
        try:
            self.container.seek(int((self._origin + time_s) / base), stream=self.stream, backward=True)
        except av.error.FFmpegError as error:
            raise SeekError(str(error)) from error
        last = -1.0
        for raw in self._raw_frames(self.stream):
            if raw.pts is None:
                raise SeekError("a frame has no timestamp")
            now = raw.pts * base - self._origin
            if now <= last or (last < 0 < now - time_s):
                raise SeekError(f"asked for {time_s:.3f} s, landed at {now:.3f} s")
            last = now
            yield Frame(-1, now, raw, self._rotation, self._scalers)

    # -- what was found ------------------------------------------------------------------------------------------------

    @property
    def facts(self) -> VideoFacts:
        last = self._last_duration
        if self.frames > 1 and last <= 0:
            last = self._last_time / (self.frames - 1)
        duration = self._last_time + last
        return VideoFacts(
            codec=self.codec,
            width=self._size[0],
            height=self._size[1],
            rotation=self._rotation,
            frames=self.frames,
            duration_s=duration,
            fps=self.frames / duration if duration > 0 else None,
            decode_errors=self.decode_errors,
            time_faults=self.time_faults,
        )

    def _why_nothing(self) -> str:
        claimed = (self.container.duration or 0) / 1e6
        claim = f"the header promises {claimed:.0f} s of video" if claimed >= 1 else "the header announces a video"
        if self._encrypted:
            return "its video is encrypted, and no key is at hand"
        if not self._packets:
            return f"{claim}, but the file holds none of it; it was probably cut off"
        tried = f"none of its {self._packets} video packets could be decoded"
        return (
            f"{tried} ({self._first_error}); the {self.codec} stream is damaged"
            if self._first_error
            else f"{tried} as {self.codec}"
        )


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
