"""Reads spans of a video, all of them in one pass: by jumps where the file allows them and they pay, from the start elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from models.video.reader import Frame, SeekError, VideoReader

_FAR_S = 4.0  # a gap worth jumping over: a jump costs a few frames, and a fallback costs them all
_LEAD_S = 1.0  # jump to a key frame this far ahead: an index by decoding time may land after the frame that is shown
_SAME_S = 1e-6  # an instant read twice from one file is the same number
_REORDER = 16  # frames by which a decoder may hold back what it shows
# Containers whose timestamps and index can be trusted as far as the checks below verify.
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")

Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)


@dataclass(frozen=True)
class Span:
    """Frames ``[start_frame, end_frame)`` of a source: decoded frames in presentation order from 0.

    ``start_s`` and ``end_s`` are the instants of ``start_frame`` and ``end_frame`` in the same reading that counted the frames;
    with them the reader may jump, and a jump counts only if it finds frames at exactly these instants, and as many between them.
    """

    start_frame: int
    end_frame: int
    start_s: float | None = None
    end_s: float | None = None


class SourceEndedError(Exception):
    """The source ends before a span does; the message says where."""


class Sink(Protocol[Made]):
    """Takes the frames of one span in order."""

    @property
    def failed(self) -> bool:
        """Whether it wants no more; ``finish`` then returns the failure."""

    def add(self, frame: Frame, spoiled: bool) -> None:
        """The next frame; ``spoiled``: damage before it may show in it."""

    def finish(self) -> Made:
        """What became of the span; called once, after its last frame or a failure."""

    def abandon(self) -> None:
        """Leave nothing behind."""


def read_spans(
    source: str | Path, spans: Sequence[Span], sink: Callable[[VideoReader, int], Sink[Result]]
) -> Iterator[tuple[int, Result | SourceEndedError]]:
    """Give each span's frames to the sink made for its place in ``spans``, and yield (place, result) as soon as it is done.

    Spans may overlap, and each holds a frame at least. A span may be given to a second sink, after the first was abandoned,
    when a jump turns out to have missed. Raises ``UndecodableError`` when the source cannot be read at all.
    """
    order = sorted(range(len(spans)), key=lambda n: spans[n].start_frame)
    done: set[int] = set()
    for run in _far_runs(spans, order):
        try:
            for number, result in _read_after_jump(source, [(n, spans[n]) for n in run], sink):
                done.add(number)
                yield number, result
        except SeekError:
            break  # what does not jump once does not jump: all that is left is read from the start
    left = [(n, spans[n]) for n in order if n not in done]
    if left:
        yield from _read_from_start(source, left, sink)


class _Open(Generic[Result]):
    """A span while its frames go by."""

    def __init__(self, span: Span, sink: Sink[Result]) -> None:
        self.span, self.sink, self.frames = span, sink, 0

    def add(self, frame: Frame, spoiled: bool) -> None:
        if not self.sink.failed:
            self.sink.add(frame, spoiled)
        self.frames += 1

    @property
    def whole(self) -> bool:
        return self.frames == self.span.end_frame - self.span.start_frame


# -- from the first frame on -------------------------------------------------------------------------------------------


def _read_from_start(
    source: str | Path, spans: Sequence[tuple[int, Span]], sink: Callable[[VideoReader, int], Sink[Result]]
) -> Iterator[tuple[int, Result | SourceEndedError]]:
    waiting = list(spans)
    open_: dict[int, _Open[Result]] = {}
    last = max(span.end_frame for _, span in spans)
    with VideoReader(source) as reader:
        damage = Damage(reader)
        try:
            for frame in reader:
                spoiled = damage(frame)
                for number in [n for n, one in open_.items() if one.span.end_frame <= frame.index]:
                    yield number, open_.pop(number).sink.finish()
                if frame.index >= last:
                    break
                while waiting and waiting[0][1].start_frame <= frame.index:
                    number, span = waiting.pop(0)
                    open_[number] = _Open(span, sink(reader, number))
                for one in open_.values():
                    one.add(frame, spoiled)
            for number in list(open_):
                one = open_[number]
                if one.whole or one.sink.failed:
                    yield number, open_.pop(number).sink.finish()
        finally:
            for one in open_.values():
                one.sink.abandon()
        ended = reader.frames
    for number, span in [*((n, one.span) for n, one in open_.items()), *waiting]:
        yield (
            number,
            SourceEndedError(
                f"{source} ended after frame {ended}, before the clip's end at frame {span.end_frame}; "
                "it changed since it was analysed, run the pipeline again"
            ),
        )


class Damage:
    """Whether a frame is made up: from a packet that cannot be decoded to the next key frame, decoders conceal."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader, self._errors, self._until = reader, 0, -1
        self._number = -1
        self._concealing = False

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
        return self._concealing or bool(frame.raw.is_corrupt)


# -- after a jump ------------------------------------------------------------------------------------------------------


def _far_runs(spans: Sequence[Span], order: Sequence[int]) -> Iterator[list[int]]:
    """Spans that lie close together, as one run; those near the start of the video are not worth a jump."""
    reached = 0.0
    run: list[int] = []
    for number in order:
        span = spans[number]
        if span.start_s is None or span.end_s is None:
            return
        if span.start_s - reached > _FAR_S:
            if run:
                yield run
            run = [number]
        elif run:
            run.append(number)
        reached = max(reached, span.end_s)
    if run:
        yield run


def _read_after_jump(
    source: str | Path, spans: Sequence[tuple[int, Span]], sink: Callable[[VideoReader, int], Sink[Result]]
) -> Iterator[tuple[int, Result]]:
    """Those of the spans that a jump certainly hit: the first and the next frame are at the instants that were measured, the
    number of frames between them is right, and nothing since the jump was damaged. The others are left out.

    Raises ``SeekError`` where this file cannot be jumped in.
    """
    waiting = list(spans)
    open_: dict[int, _Open[Result]] = {}
    with VideoReader(source) as reader:
        if reader.container.format.name not in _INDEXED:
            raise SeekError(f"{reader.container.format.name} has no index that can be trusted")
        next(iter(reader))  # its instant is what all others are relative to
        first_s = waiting[0][1].start_s or 0.0
        damage = Damage(reader)
        keyed = False
        try:
            for frame in reader.jump(max(0.0, first_s - _LEAD_S)):
                # what is shown before the key frame rests on pictures that were jumped over
                keyed = keyed or frame.raw.key_frame
                if not keyed:
                    continue
                if damage(frame):
                    break
                for number in [n for n, one in open_.items() if one.whole]:
                    one = open_.pop(number)
                    if abs(frame.time_s - (one.span.end_s or 0.0)) <= _SAME_S:
                        yield from _kept(number, one)
                    else:
                        one.sink.abandon()
                while waiting and (waiting[0][1].start_s or 0.0) <= frame.time_s + _SAME_S:
                    number, span = waiting.pop(0)
                    if abs(frame.time_s - (span.start_s or 0.0)) <= _SAME_S:
                        open_[number] = _Open(span, sink(reader, number))
                if not waiting and not open_:
                    break
                for one in open_.values():
                    one.add(frame, False)
            else:
                for number in [n for n, one in open_.items() if one.whole]:
                    yield from _kept(number, open_.pop(number))
        finally:
            for one in open_.values():
                one.sink.abandon()


def _kept(number: int, one: _Open[Result]) -> Iterator[tuple[int, Result]]:
    if one.sink.failed:
        one.sink.abandon()
        return
    result = one.sink.finish()
    if not one.sink.failed:
        yield number, result
