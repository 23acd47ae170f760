"""What workers do for near copies: hash key frames, decode signatures, compare pairs. Each commits what it has finished."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stages.contract import RecordReader, Shards
from stages.curation.keyframes import FrameBatch, read_frames
from stages.spool import local_copy

if TYPE_CHECKING:
    from models.video.near import NearRule
    from models.video.reader import VideoReader

Failures = dict[str, dict[str, str]]
FRAMES = 3  # key frames by which a clip is known: its first, middle and last


@dataclass(frozen=True)
class VideoSpans:
    """Clips of one video, so that one pass over it serves them all: (record key, start_frame, end_frame)."""

    uri: str
    spans: tuple[tuple[str, int, int], ...]


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
        from models.video.reader import UndecodableError, VideoReader
        from models.video.signature import SignatureBuilder

        builders = {key: SignatureBuilder() for key, _, _ in job.spans}
        started: dict[str, float] = {}
        last = max(end for _, _, end in job.spans)
        try:
            with local_copy(job.uri) as local, VideoReader(local.path) as reader:
                damaged = Damage(reader)
                for frame in reader:
                    if frame.index >= last:
                        break
                    spoiled = damaged(frame.raw)
                    inside = [key for key, start, end in job.spans if start <= frame.index < end]
                    at = {key: frame.time_s - started.setdefault(key, frame.time_s) for key in inside}
                    wanting = [key for key, seconds in at.items() if builders[key].wants(seconds)]
                    if wanting:
                        picture = frame.picture(SignatureBuilder.size)
                        for key in wanting:
                            builders[key].add(at[key], picture, spoiled)
        except (UndecodableError, OSError) as error:
            error_row = {"error_type": type(error).__name__, "error_message": str(error)}
            failed.update(dict.fromkeys(builders, error_row))
            return
        for key, builder in builders.items():
            if key in started:
                signature = builder.finish()
                pixels[key], damage[key] = signature.to_bytes(), signature.damage
            else:
                message = "the source no longer has the frames of this clip; run analyze again"
                failed[key] = {"error_type": "FramesMissing", "error_message": message}


class Damage:
    """Whether a frame is made up: between a packet that could not be decoded and the next key frame, decoders conceal."""

    def __init__(self, reader: VideoReader) -> None:
        self._reader, self._errors, self._concealing = reader, 0, False

    def __call__(self, raw: Any) -> bool:
        if self._reader.decode_errors > self._errors:
            self._errors, self._concealing = self._reader.decode_errors, True
        elif raw.key_frame:
            self._concealing = False
        return self._concealing


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
