"""What workers do for near copies: hash key frames, decode signatures, compare pairs. Each commits what it has finished."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from stages.contract import RecordReader, Shards
from stages.curation.keyframes import FrameBatch, read_frames
from stages.curation.unchanged import changed
from stages.machine import folder_lost, machine_failure
from stages.spool import local_copy

if TYPE_CHECKING:
    from models.video.near import NearRule
    from models.video.reader import Frame
    from models.video.signature import Signature

Failures = dict[str, dict[str, str]]
FRAMES = 3  # key frames by which a clip is known: its first, middle and last


@dataclass(frozen=True)
class VideoSpans:
    """Clips of one video, so that one pass over it serves them all: (record key, start_frame, end_frame, start_s, end_s).

    ``sha256``, ``bytes`` and ``mtime_ns`` are those of the file that was analysed, null where not known.
    """

    uri: str
    sha256: str | None
    bytes: int
    mtime_ns: int | None
    spans: tuple[tuple[str, int, int, float, float], ...]


@dataclass(frozen=True)
class Pair:
    """Two clips to compare, by record key; ``one`` is the smaller key, so that the result is the same in any run."""

    one: str
    two: str
    mirrored: bool

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.one}|{self.two}|{int(self.mirrored)}".encode()).hexdigest()[:32]


class HashActor:
    """Hashes of each clip's key frames in all views, 0 for a flat or undecodable one."""

    def __init__(self, shards: Shards, mirrored: bool) -> None:
        self.shards, self.mirrored = shards, mirrored

    def __call__(self, batch: FrameBatch) -> int:
        from models.video.phash import VIEWS, decode_grey, view_hashes

        views = VIEWS * (2 if self.mirrored else 1)
        rows: dict[str, np.ndarray] = {}
        for key, frames in read_frames(batch).items():
            values = np.zeros((views, FRAMES), np.uint64)
            for number, at in enumerate(spread(len(frames))):
                picture = decode_grey(frames[at][1])
                if picture is not None:
                    values[:, number] = view_hashes(picture, self.mirrored)
            rows[key] = values.ravel()
        flat = pa.array(np.concatenate(list(rows.values())))
        table = pa.table({"record_key": list(rows), "hashes": pa.FixedSizeListArray.from_arrays(flat, views * FRAMES)})
        self.shards.commit({"hashes": table}, list(rows))
        return len(rows)


def spread(count: int) -> list[int]:
    """Which of ``count`` key frames stand for the clip."""
    return [round(at) for at in np.linspace(0, count - 1, FRAMES)] if count else []


class SignatureActor:
    """Signatures of clips, from one pass over each of a few videos; returns how many, and the failures by record key."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __call__(self, batch: tuple[VideoSpans, ...]) -> tuple[int, Failures]:
        pixels: dict[str, bytes] = {}
        damage: dict[str, float] = {}
        failed: Failures = {}
        for job in batch:
            self._video(job, pixels, damage, failed)
        if pixels:
            keys = list(pixels)
            made = pa.table({"record_key": keys, "pixels": pa.array(list(pixels.values()), pa.large_binary())})
            spoiled = pa.table({"record_key": keys, "share": pa.array([damage[key] for key in keys], pa.float64())})
            self.shards.commit({"signatures": made, "damage": spoiled}, keys)
        return len(pixels), failed

    def _video(self, job: VideoSpans, pixels: dict[str, bytes], damage: dict[str, float], failed: Failures) -> None:
        from models.video.analyze import file_sha256
        from models.video.reader import UndecodableError

        left = {key for key, *_ in job.spans}
        try:
            with local_copy(job.uri) as local:
                if changed(local, job.sha256, job.bytes, job.mtime_ns):
                    raise SourceChanged(f"{job.uri} changed since it was analysed; run the pipeline again")
                try:
                    self._read(local.path, job, left, pixels, damage, failed)
                except UndecodableError:
                    file_sha256(local.path)  # to a decoder a disk that fails looks like a damaged file
                    raise
        except (UndecodableError, OSError, MemoryError, SourceChanged) as error:
            stop = machine_failure(error, f"while comparing {job.uri}") or folder_lost(error, job.uri)
            if stop is not None:
                raise stop from error
            message = (
                f"{job.uri} cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            )
            for key in left:
                failed[key] = {"error_type": type(error).__name__, "error_message": message}

    def _read(
        self,
        path: Path,
        job: VideoSpans,
        left: set[str],
        pixels: dict[str, bytes],
        damage: dict[str, float],
        failed: Failures,
    ) -> None:
        from models.video.spans import SourceEndedError, Span, read_spans

        spans = [Span(first, end, start_s, end_s) for _, first, end, start_s, end_s in job.spans]
        for number, result in read_spans(path, spans, lambda reader, number: _Signing()):
            key = job.spans[number][0]
            left.discard(key)
            if isinstance(result, SourceEndedError):
                message = "the source no longer has the frames of this clip; run analyze again"
                failed[key] = {"error_type": "FramesMissing", "error_message": message}
            else:
                pixels[key], damage[key] = result.to_bytes(), result.damage


class SourceChanged(Exception):
    """The file is another than the one that was analysed."""


class _Signing:
    """The signature of one span, while its frames go by."""

    failed = False  # a damaged picture is a part of the signature

    def __init__(self) -> None:
        from models.video.signature import SignatureBuilder

        self._builder = SignatureBuilder()
        self._first_s: float | None = None

    def add(self, frame: Frame, spoiled: bool) -> None:
        self._first_s = frame.time_s if self._first_s is None else self._first_s
        seconds = frame.time_s - self._first_s
        if self._builder.wants(seconds):
            self._builder.add(seconds, frame.picture(self._builder.size), spoiled)

    def finish(self) -> Signature:
        return self._builder.finish()

    def abandon(self) -> None:
        """There is nothing to leave behind."""


class CompareActor:
    """Compares pairs by their committed signatures and commits what it found."""

    def __init__(self, shards: Shards, signatures: RecordReader, rule: NearRule) -> None:
        self.shards, self.signatures, self.rule = shards, signatures, rule

    def __call__(self, batch: tuple[Pair, ...]) -> int:
        from models.video.near import compare
        from models.video.signature import Signature

        read: dict[str, Signature] = {}
        rows: list[Mapping[str, object]] = []
        for pair in batch:
            for key in (pair.one, pair.two):
                row = None if key in read else self.signatures.get(key)
                if row is not None:
                    read[key] = Signature.from_bytes(row["pixels"])
            match = compare(read[pair.one], read[pair.two], self.rule, pair.mirrored)
            rows.append(
                {
                    "record_key": pair.key,
                    "same": match.same,
                    "difference": match.difference,
                    "variation": match.variation,
                    "start_s": match.start_s,
                    "speed": match.speed,
                }
            )
        self.shards.commit({"verdicts": pa.Table.from_pylist(rows)}, [pair.key for pair in batch])
        return len(batch)
