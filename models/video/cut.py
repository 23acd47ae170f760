"""Cuts spans out of a video at exact frames, all of them in one pass, and encodes each once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation

from models.video.encode import ClipWriter, EncodedInfo, EncodeError, Encoding
from models.video.reader import Frame, SeekError, VideoReader, fitted, turned
from models.video.sound import Sound

_FAR_S = 4.0  # a gap worth jumping over: a jump costs a few frames, and a fallback costs them all
_LEAD_S = 1.0  # jump to a key frame this far ahead: an index by decoding time may land after the frame that is shown
_SAME_S = 1e-6  # an instant read twice from one file is the same number
_REORDER = 16  # frames by which a decoder may hold back what it shows
# Containers whose timestamps and index can be trusted as far as the checks below verify.
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


class DamagedSpanError(EncodeError):
    """Part of the span could not be decoded; what a decoder makes up there must not be trained on."""


@dataclass(frozen=True)
class Cut:
    """Frames ``[start_frame, end_frame)`` of a source (decoded frames in presentation order from 0), and the file they become.

    ``start_s`` and ``end_s`` are the instants of ``start_frame`` and ``end_frame`` in the same reading that counted the frames;
    with them the reader may jump, and a jump counts only if it finds frames at exactly these instants, and as many between them.
    """

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
    order = sorted(range(len(cuts)), key=lambda n: cuts[n].start_frame)
    for number in order:
        cut = cuts[number]
        if not 0 <= cut.start_frame < cut.end_frame:
            message = f"{source}: a clip from frame {cut.start_frame} to {cut.end_frame} holds no frame"
            yield number, EncodeError(message)
    order = [n for n in order if 0 <= cuts[n].start_frame < cuts[n].end_frame]
    done: set[int] = set()
    for run in _far_runs(cuts, order):
        try:
            for number, info in _cut_after_jump(source, [(n, cuts[n]) for n in run], encoding):
                done.add(number)
                yield number, info
        except SeekError:
            break  # what does not jump once does not jump: all that is left is read from the start
    left = [(n, cuts[n]) for n in order if n not in done]
    if left:
        yield from _cut_from_start(source, left, encoding)


# -- from the first frame on -------------------------------------------------------------------------------------------


def _cut_from_start(
    source: str | Path, cuts: Sequence[tuple[int, Cut]], encoding: Encoding
) -> Iterator[tuple[int, EncodedInfo | EncodeError]]:
    waiting = list(cuts)
    open_: dict[int, _Span] = {}
    last = max(cut.end_frame for _, cut in cuts)
    with VideoReader(source) as reader:
        damage = _Damage(reader)
        try:
            for frame in reader:
                spoiled = damage(frame)
                for number in [n for n, span in open_.items() if span.cut.end_frame <= frame.index]:
                    yield number, open_.pop(number).finish()
                if frame.index >= last:
                    break
                while waiting and waiting[0][1].start_frame <= frame.index:
                    number, cut = waiting.pop(0)
                    open_[number] = _Span(source, reader, cut, encoding)
                for span in open_.values():
                    span.add(frame, spoiled)
            for number in list(open_):
                yield number, open_.pop(number).finish()
        finally:
            for span in open_.values():
                span.abandon()
        ended = reader.frames
    for number, cut in waiting:
        yield number, _too_short(source, cut, ended)


class _Span:
    """One span while its frames go by."""

    def __init__(self, source: str | Path, reader: VideoReader, cut: Cut, encoding: Encoding) -> None:
        self.source, self.rate, self.cut, self.encoding = source, reader.header_fps or 25.0, cut, encoding
        self.frames = 0
        self.error: EncodeError | None = None
        self._writer: ClipWriter | None = None
        self._origin = 0.0

    def add(self, frame: Frame, spoiled: bool) -> None:
        """Take the next frame; a failure is kept for ``finish``."""
        if self.error is not None:
            return
        if spoiled:
            at = self.cut.start_frame + self.frames
            self._fail(
                DamagedSpanError(f"{self.source} is damaged at frame {at}: what is shown there is not what was filmed")
            )
            return
        try:
            if self._writer is None:
                self._origin = frame.time_s
                self._writer = self._open(frame)
            self._writer.add(frame.time_s - self._origin, _upright(frame, self._writer.size))
            self.frames += 1
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
        self.error = error

    def finish(self) -> EncodedInfo | EncodeError:
        if self.error is None and self.frames != self.cut.end_frame - self.cut.start_frame:
            self._fail(_too_short(self.source, self.cut, self.cut.start_frame + self.frames))
        if self.error is not None:
            return self.error
        assert self._writer is not None
        try:
            return self._writer.finish()
        except EncodeError as error:
            return error

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()


def _too_short(source: str | Path, cut: Cut, ended: int) -> EncodeError:
    return EncodeError(
        f"{source} ended after frame {ended}, before the clip's end at frame {cut.end_frame}; "
        "it changed since it was analysed, run the pipeline again"
    )


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


class _Damage:
    """Whether a frame is made up: from a packet that cannot be decoded to the next key frame, decoders conceal."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader, self._errors, self._until = reader, 0, -1
        self._number = -1
        self._concealing = False
        self.any = False

    def __call__(self, frame: Frame) -> bool:
        self._number += 1
        if self._reader.decode_errors > self._errors:
            # errors before anything was shown (a stream joined in its middle) spoil nothing that is shown
            first = self._number == 0
            self._errors = self._reader.decode_errors
            held_back = _REORDER if self._reader.stream.codec_context.has_b_frames else 0
            self._concealing, self._until = not first, self._number + held_back
        elif frame.raw.key_frame and self._number > self._until:
            self._concealing = False
        spoiled = self._concealing or frame.raw.is_corrupt
        self.any = self.any or spoiled
        return spoiled


# -- after a jump ------------------------------------------------------------------------------------------------------


def _far_runs(cuts: Sequence[Cut], order: Sequence[int]) -> Iterator[list[int]]:
    """Spans that lie close together, as one run; those near the start of the video are not worth a jump."""
    reached = 0.0
    run: list[int] = []
    for number in order:
        cut = cuts[number]
        if cut.start_s is None or cut.end_s is None:
            return
        if cut.start_s - reached > _FAR_S:
            if run:
                yield run
            run = [number]
        elif run:
            run.append(number)
        reached = max(reached, cut.end_s)
    if run:
        yield run


def _cut_after_jump(
    source: str | Path, cuts: Sequence[tuple[int, Cut]], encoding: Encoding
) -> Iterator[tuple[int, EncodedInfo]]:
    """Those of the spans that a jump certainly hit: the first and the next frame are at the instants that were measured, the
    number of frames between them is right, and nothing since the jump was damaged. The others are left out.

    Raises ``SeekError`` where this file cannot be jumped in.
    """
    waiting = list(cuts)
    open_: dict[int, _Span] = {}
    with VideoReader(source) as reader:
        if reader.container.format.name not in _INDEXED:
            raise SeekError(f"{reader.container.format.name} has no index that can be trusted")
        next(iter(reader))  # its instant is what all others are relative to
        first_s = waiting[0][1].start_s or 0.0
        damage = _Damage(reader)
        keyed = False
        try:
            for frame in reader.jump(max(0.0, first_s - _LEAD_S)):
                # what is shown before the key frame rests on pictures that were jumped over
                keyed = keyed or frame.raw.key_frame
                if not keyed:
                    continue
                if damage(frame):
                    break
                for number in [n for n, span in open_.items() if _is_whole(span)]:
                    span = open_.pop(number)
                    if abs(frame.time_s - (span.cut.end_s or 0.0)) <= _SAME_S:
                        yield from _kept(number, span)
                    else:
                        span.abandon()
                while waiting and (waiting[0][1].start_s or 0.0) <= frame.time_s + _SAME_S:
                    number, cut = waiting.pop(0)
                    if abs(frame.time_s - (cut.start_s or 0.0)) <= _SAME_S:
                        open_[number] = _Span(source, reader, cut, encoding)
                if not waiting and not open_:
                    break
                for span in open_.values():
                    span.add(frame, False)
            else:
                for number in [n for n, span in open_.items() if _is_whole(span)]:
                    yield from _kept(number, open_.pop(number))
        finally:
            for span in open_.values():
                span.abandon()


def _is_whole(span: _Span) -> bool:
    return span.error is None and span.frames == span.cut.end_frame - span.cut.start_frame


def _kept(number: int, span: _Span) -> Iterator[tuple[int, EncodedInfo]]:
    info = span.finish()
    if isinstance(info, EncodedInfo):
        yield number, info
