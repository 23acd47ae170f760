"""Near copies in two steps: key frame hashes name the pairs worth a look, decoded signatures decide each of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stages.contract import Context, Group, Shards
from stages.curation.keyframes import FrameBatch, frame_batches, index_frames, read_frames

if TYPE_CHECKING:
    from stages.curation.dedupe import NearParams

CLIPS_PER_BATCH = 512


@dataclass(frozen=True)
class SignatureJob:
    """Clips of one video, so that one pass over it serves them all: (record key, start_frame, end_frame)."""

    uri: str
    spans: tuple[tuple[str, int, int], ...]


class HashActor:
    """Hashes of each clip's key frames, null for a flat or undecodable one."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __call__(self, batch: FrameBatch) -> int:
        from models.video.phash import decode_grey, picture_hash

        rows = {}
        for key, frames in read_frames(batch).items():
            pictures = [decode_grey(jpeg) for _, jpeg in frames]
            rows[key] = [None if picture is None else picture_hash(picture) for picture in pictures]
        table = pa.table({"record_key": list(rows), "hashes": pa.array(list(rows.values()), pa.list_(pa.uint64()))})
        self.shards.commit({"hashes": table}, list(rows))
        return len(rows)


class SignatureActor:
    """Signatures of the clips of one video, from one pass over it; returns how many, and the failures by record key."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __call__(self, job: SignatureJob) -> tuple[int, dict[str, dict[str, str]]]:
        from models.video.near import SIDE, SignatureBuilder
        from models.video.reader import UndecodableError, VideoReader

        builders = {key: SignatureBuilder() for key, _, _ in job.spans}
        started: dict[str, float] = {}
        last = max(end for _, _, end in job.spans)
        failed: dict[str, dict[str, str]] = {}
        try:
            with VideoReader(job.uri) as reader:
                for frame in reader:
                    if frame.index >= last:
                        break
                    inside = [key for key, start, end in job.spans if start <= frame.index < end]
                    at = {key: frame.time_s - started.setdefault(key, frame.time_s) for key in inside}
                    wanting = [key for key, seconds in at.items() if builders[key].wants(seconds)]
                    if wanting:
                        grey = frame.picture((SIDE, SIDE), order="gray")
                        for key in wanting:
                            builders[key].add(at[key], grey)
        except (UndecodableError, OSError) as error:
            failed = {key: {"error_type": type(error).__name__, "error_message": str(error)} for key in builders}
        for key in [key for key in builders if key not in started and key not in failed]:
            message = "the source no longer has the frames of this clip; run analyze again"
            failed[key] = {"error_type": "FramesMissing", "error_message": message}
        done = {key: builder.finish().tobytes() for key, builder in builders.items() if key not in failed}
        table = pa.table({"record_key": list(done), "pixels": pa.array(list(done.values()), pa.large_binary())})
        self.shards.commit({"signatures": table}, list(done))
        return len(done), failed


def near_pairs(
    ctx: Context, clips: pa.Table, content: Sequence[str | None], rows: np.ndarray, params: NearParams
) -> tuple[np.ndarray, dict[str, dict[str, str]]]:
    """Pairs of rows of ``clips`` that are near copies, and by clip_id the failures of clips that could not be compared."""
    from models.video.near import NearRule, compare
    from models.video.phash import Forest, candidate_pairs

    hashes, owners = _hashes(ctx, clips, rows)
    candidates = candidate_pairs(hashes, owners, params.max_bits)
    involved = np.unique(candidates)
    signatures, failed = _signatures(ctx, clips, content, involved)
    rule = NearRule(ratio=params.ratio, floor=params.floor, overlap=params.overlap)
    forest = Forest(clips.num_rows)
    same: list[tuple[int, int]] = []
    with ctx.progress(len(candidates), "pairs") as bar:
        for one, two in candidates.tolist():
            # groups are transitive, so a pair that others already joined need not be looked at
            apart = forest.root(one) != forest.root(two)
            if (
                apart
                and one in signatures
                and two in signatures
                and compare(signatures[one], signatures[two], rule).same
            ):
                forest.join(one, two)
                same.append((one, two))
            bar.advance()
    ctx.event(
        "near_copies", clips=len(rows), pairs_looked_at=len(candidates), joined=len(same), not_comparable=len(failed)
    )
    return np.asarray(same, dtype=np.int64).reshape(-1, 2), failed


def _hashes(ctx: Context, clips: pa.Table, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all key frames (uint64) and the row of ``clips`` each belongs to (int64)."""
    group = Group("hashes", ctx.recipe("hashes", "1", {}))
    index = index_frames(ctx.dataset("keyframes"), clips.column("clip_id").take(pa.array(rows)))
    batches = frame_batches(index, ctx.records.done(group), CLIPS_PER_BATCH)
    if batches:
        with ctx.progress(sum(len(b.clip_ids) for b in batches), "clips") as bar:
            for done in ctx.map(HashActor, batches, init={"shards": ctx.records.shards([group])}):
                bar.advance(done)
    stored = ctx.records.read(group, pa.array(index.clips.column("record_key").to_pylist(), pa.string()))
    if not stored.num_rows or not index.clips.num_rows:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    by_key = dict(zip(stored.column("record_key").to_pylist(), stored.column("hashes").to_pylist(), strict=True))
    row_of = {clip_id: row for row, clip_id in enumerate(clips.column("clip_id").to_pylist())}
    values: list[int] = []
    owners: list[int] = []
    for clip_id, key in zip(*(index.clips.column(name).to_pylist() for name in ("clip_id", "record_key")), strict=True):
        for value in by_key[key]:
            if value is not None:
                values.append(value)
                owners.append(row_of[clip_id])
    return np.asarray(values, np.uint64), np.asarray(owners, np.int64)


def _signatures(
    ctx: Context, clips: pa.Table, content: Sequence[str | None], rows: np.ndarray
) -> tuple[dict[int, np.ndarray], dict[str, dict[str, str]]]:
    """Signatures by row, from earlier runs where the content is the same, and the failures by clip_id."""
    from models.video.near import RATE, SECONDS, SIDE

    group = Group("signatures", ctx.recipe("signatures", "1", {"side": SIDE, "rate": RATE, "seconds": SECONDS}))
    spans = {name: clips.column(name).to_pylist() for name in ("clip_id", "video_uri", "start_frame", "end_frame")}
    key_of = {int(row): _record_key(content[row], spans["clip_id"][row]) for row in rows}
    done = ctx.records.done(group)
    by_video: dict[str, dict[str, tuple[str, int, int]]] = {}
    for row, key in key_of.items():
        if key not in done:
            span = (key, spans["start_frame"][row], spans["end_frame"][row])
            by_video.setdefault(spans["video_uri"][row], {})[key] = span
    jobs = [SignatureJob(uri, tuple(found[key] for key in sorted(found))) for uri, found in sorted(by_video.items())]
    failed_keys: dict[str, dict[str, str]] = {}
    if jobs:
        with ctx.progress(sum(len(job.spans) for job in jobs), "clips") as bar:
            for count, errors in ctx.map(SignatureActor, jobs, init={"shards": ctx.records.shards([group])}):
                failed_keys |= errors
                bar.advance(count + len(errors), failed=len(errors))
    stored: Mapping[str, Any] = {}
    if key_of:
        table = ctx.records.read(group, pa.array(sorted(set(key_of.values())), pa.string()))
        if table.num_rows:
            stored = dict(zip(table.column("record_key").to_pylist(), table.column("pixels").to_pylist(), strict=True))
    signatures = {
        row: np.frombuffer(stored[key], np.uint8).reshape(-1, SIDE, SIDE)
        for row, key in key_of.items()
        if key in stored
    }
    failed = {spans["clip_id"][row]: failed_keys[key] for row, key in key_of.items() if key in failed_keys}
    return signatures, failed


def _record_key(content: str | None, clip_id: str) -> str:
    return hashlib.sha256((content or f"clip:{clip_id}").encode()).hexdigest()
