"""Cuts spans out of a video at exact frames, all of them in one pass, and encodes each once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from models.video.encode import ClipWriter, EncodedInfo, EncodeError, Encoding
from models.video.reader import Frame, VideoReader, fitted, turned
from models.video.sound import Sound
from models.video.spans import SourceEndedError, Span, read_spans


class DamagedSpanError(EncodeError):
    """Part of the span could not be decoded; what a decoder makes up there must not be trained on."""


@dataclass(frozen=True)
class Cut:
    """A span (see ``spans.Span``) and the file it becomes."""

    start_frame: int
    end_frame: int
    out: Path
    start_s: float | None = None
    end_s: float | None = None


def cut_clip(
    source: str | Path,
    start_frame: int,
    end_frame: int,
    out: str | Path,
    codec: str = "libx264",
    max_side: int | None = None,
) -> EncodedInfo:
    """Encode one span without sound; see ``cut_clips``. Raises ``EncodeError`` and ``UndecodableError``."""
    encoding = Encoding(codec, max_side=max_side)
    [(_, result)] = cut_clips(source, [Cut(start_frame, end_frame, Path(out))], encoding)
    if isinstance(result, EncodeError):
        raise result
    return result


def cut_clips(
    source: str | Path, cuts: Sequence[Cut], encoding: Encoding | None = None
) -> Iterator[tuple[int, EncodedInfo | EncodeError]]:
    """Encode each span to its file and yield (its place in ``cuts``, what became of it) as soon as it is done.

    Spans may overlap. Instants are kept, so a variable frame rate stays variable; rotation is applied; sizes are even. Sound, if
    kept, begins and ends with the pictures. A span fails with ``EncodeError`` when the source ends before it, with
    ``DamagedSpanError`` when part of it cannot be decoded; the others are unharmed. The same frames give the same bytes,
    whichever spans are cut with them. Raises ``UndecodableError`` when the source cannot be read at all.
    """
    encoding = encoding or Encoding()
    places = []
    for number, cut in enumerate(cuts):
        if 0 <= cut.start_frame < cut.end_frame:
            places.append(number)
        else:
            message = f"{source}: a clip from frame {cut.start_frame} to {cut.end_frame} holds no frame"
            yield number, EncodeError(message)
    chosen = [cuts[number] for number in places]
    spans = [Span(cut.start_frame, cut.end_frame, cut.start_s, cut.end_s) for cut in chosen]
    for at, result in read_spans(source, spans, lambda reader, n: _Cutting(source, reader, chosen[n], encoding)):
        yield places[at], EncodeError(str(result)) if isinstance(result, SourceEndedError) else result


class _Cutting:
    """One span on its way into its file."""

    def __init__(self, source: str | Path, reader: VideoReader, cut: Cut, encoding: Encoding) -> None:
        self.source, self.rate, self.cut, self.encoding = source, reader.header_fps or 25.0, cut, encoding
        self._frames = 0
        self._error: EncodeError | None = None
        self._writer: ClipWriter | None = None
        self._origin = 0.0

    @property
    def failed(self) -> bool:
        return self._error is not None

    def add(self, frame: Frame, spoiled: bool) -> None:
        if spoiled:
            at = self.cut.start_frame + self._frames
            self._fail(
                DamagedSpanError(f"{self.source} is damaged at frame {at}: what is shown there is not what was filmed")
            )
            return
        try:
            if self._writer is None:
                self._origin = frame.time_s
                self._writer = self._open(frame)
            self._writer.add(frame.time_s - self._origin, _upright(frame, self._writer.size))
            self._frames += 1
        except EncodeError as error:
            self._fail(error)

    def _open(self, frame: Frame) -> ClipWriter:
        width, height = fitted(frame.size, self.encoding.long_side(frame.size))
        size = (max(2, width // 2 * 2), max(2, height // 2 * 2))
        sound = None
        if self.encoding.sound and frame.raw.pts is not None and frame.raw.time_base is not None:
            sound = Sound.of(self.source, float(frame.raw.pts * frame.raw.time_base))
        return ClipWriter(self.cut.out, size, self.rate, self.encoding, sound)

    def _fail(self, error: EncodeError) -> None:
        self.abandon()
        self._error = error

    def finish(self) -> EncodedInfo | EncodeError:
        if self._error is None:
            assert self._writer is not None
            try:
                return self._writer.finish()
            except EncodeError as error:
                self._error = error
        return self._error

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()


def _upright(frame: Frame, size: tuple[int, int]) -> av.VideoFrame:
    """The frame as shown: turned plane by plane, so that its colours are not converted on the way."""
    if not frame.rotation:
        return frame.raw
    width, height = size if frame.rotation % 180 == 0 else size[::-1]
    raw = frame.raw.reformat(
        width, height, "yuv420p", interpolation=Interpolation.AREA, dst_color_range=ColorRange.MPEG, threads=1
    )
    planes = raw.to_ndarray().ravel()
    luma, quarter = width * height, width * height // 4
    parts = [
        turned(planes[:luma].reshape(height, width), frame.rotation),
        turned(planes[luma : luma + quarter].reshape(height // 2, width // 2), frame.rotation),
        turned(planes[luma + quarter :].reshape(height // 2, width // 2), frame.rotation),
    ]
    flat = np.concatenate([part.ravel() for part in parts]).reshape(size[1] * 3 // 2, size[0])
    made = av.VideoFrame.from_ndarray(flat, format="yuv420p")
    made.colorspace, made.color_range = raw.colorspace, raw.color_range
    made.color_primaries, made.color_trc = frame.raw.color_primaries, frame.raw.color_trc
    return made
