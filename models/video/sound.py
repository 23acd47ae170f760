"""The sound of a span of a file: 48 kHz samples that begin at a given instant, silence where the file has none."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from models.video.reader import open_container

SOUND_VERSION = "2"  # raise it when the same track would give other samples
RATE = 48_000
CHUNK = 1024  # samples of a frame given out

_BASE = Fraction(1, RATE)
_FAULTS = 1000  # errors after which the rest of a damaged track is silent
_LEAD_S = 1.0  # read before the span: a decoder that was dropped into a stream needs a few frames to be right
_JITTER = (
    RATE // 100
)  # samples by which a timestamp may err (Matroska rounds to milliseconds) before it counts as a gap


class Sound:
    """Samples of a file's main sound track from ``start_s`` on (seconds of the file's own clock), one or two channels.

    Damaged parts and gaps are silent, so that what comes after them stays in its place. Close it after use.
    """

    def __init__(self, container: Any, stream: Any, start_s: float) -> None:
        self._container, self._stream, self._start_s = container, stream, start_s
        self.layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        self._resampler = self._fresh_resampler()
        self._form: tuple[str, str, int] | None = None
        self._pieces = self._decoded()
        self._waiting = np.zeros((1 if self.layout == "mono" else 2, 0), np.float32)
        self._given = 0

    @staticmethod
    def of(source: str | Path, start_s: float) -> Sound | None:
        """The sound of ``source``, None where it has no track that can be decoded. Raises ``UndecodableError``."""
        container = open_container(source)
        stream = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            container.close()
            return None
        if start_s > _LEAD_S and stream.time_base:
            try:
                container.seek(int((start_s - _LEAD_S) / stream.time_base), stream=stream, backward=True)
            except av.error.FFmpegError:
                container.seek(0)  # no index: read from the beginning
        return Sound(container, stream, start_s)

    def close(self) -> None:
        self._container.close()

    def until(self, seconds: float) -> Iterator[av.AudioFrame]:
        """The frames that are not given out yet, up to ``seconds`` after the start; whole ones of ``CHUNK`` samples."""
        yield from self._give(round(seconds * RATE) // CHUNK * CHUNK)

    def rest(self, seconds: float) -> Iterator[av.AudioFrame]:
        """What is left up to exactly ``seconds`` after the start."""
        yield from self._give(round(seconds * RATE))

    def _give(self, end: int) -> Iterator[av.AudioFrame]:
        while self._given < end:
            count = min(CHUNK, end - self._given)
            while self._waiting.shape[1] < count:
                piece = next(self._pieces, None)
                if piece is None:
                    piece = np.zeros((self._waiting.shape[0], count - self._waiting.shape[1]), np.float32)
                self._waiting = np.concatenate([self._waiting, piece], axis=1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(self._waiting[:, :count]), "fltp", self.layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, self._given, _BASE
            self._waiting = self._waiting[:, count:]
            self._given += count
            yield frame

    def _decoded(self) -> Iterator[np.ndarray]:
        """Samples (channels, samples) without gap or overlap from the start on."""
        at = 0  # samples from the start to the next one due
        for frame in self._frames():
            samples = frame.to_ndarray()
            due = at
            if frame.pts is not None and frame.time_base is not None:
                due = round((float(frame.pts * frame.time_base) - self._start_s) * RATE)
            if due - at > _JITTER:
                yield np.zeros((samples.shape[0], due - at), np.float32)
                at = due
            elif at - due > _JITTER or at == 0:
                samples = samples[:, max(0, at - due) :]
            if samples.shape[1]:
                yield samples
                at += samples.shape[1]

    def _fresh_resampler(self) -> av.AudioResampler:
        return av.AudioResampler(format="fltp", layout=self.layout, rate=RATE)

    def _resampled(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
        """The frame at our rate. A track may change its own in the middle (broadcasts do); a resampler goes by its first frame."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        before: list[av.AudioFrame] = []
        if self._form not in (None, form):
            before = self._resampler.resample(None)
            self._resampler = self._fresh_resampler()
        self._form = form
        return [*before, *self._resampler.resample(frame)]

    def _frames(self) -> Iterator[av.AudioFrame]:
        packets = self._container.demux(self._stream)
        faults = 0
        while faults < _FAULTS:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                decoded = [piece for frame in packet.decode() for piece in self._resampled(frame)]
            except av.error.EOFError:
                break
            except (av.error.FFmpegError, ValueError):
                faults += 1
                continue
            yield from decoded
        yield from self._resampler.resample(None)
