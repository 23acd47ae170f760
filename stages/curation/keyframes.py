"""Deals key frames to workers: the driver sends which pieces of the table to read, never the pictures themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

_CLIPS = pa.schema([("clip_id", pa.string()), ("record_key", pa.string()), ("first", pa.int32()), ("last", pa.int32())])
SCAN_ROWS = 2048  # pictures held at once while keys are made, about 40 MB


@dataclass(frozen=True)
class FrameBatch:
    """Clips for one call of an actor. ``pieces`` are fragments of the key frame table that hold their pictures."""

    pieces: tuple[pads.Fragment, ...]
    clip_ids: tuple[str, ...]
    record_keys: tuple[str, ...]


@dataclass(frozen=True)
class FrameIndex:
    """Where each clip's key frames lie. ``clips``: clip_id, record_key, first and last piece."""

    pieces: tuple[pads.Fragment, ...]
    clips: pa.Table


def index_frames(dataset: pads.Dataset, wanted: pa.Array | pa.ChunkedArray) -> FrameIndex:
    """Content keys of the wanted clips: sha256 over their pictures in order of position.

    The pictures are what the record's work depends on, so a source that changed under the same clip_id gets a new key, and
    a clip whose pictures did not change keeps its key whatever happened around it.
    """
    if isinstance(wanted, pa.ChunkedArray):
        wanted = wanted.combine_chunks()
    pieces: list[pads.Fragment] = []
    parts: list[pa.Table] = []
    for fragment in dataset.get_fragments():
        for piece in fragment.split_by_row_group() if isinstance(fragment, pads.ParquetFileFragment) else [fragment]:
            number = len(pieces)
            pieces.append(piece)
            for batch in piece.to_batches(
                schema=dataset.schema, columns=["clip_id", "position", "jpeg"], batch_size=SCAN_ROWS, batch_readahead=1
            ):
                batch = batch.filter(pc.is_in(batch.column("clip_id"), value_set=wanted))
                digests = [hashlib.sha256(memoryview(raw.as_buffer())).digest() for raw in batch.column("jpeg")]
                parts.append(
                    pa.table(
                        {
                            "clip_id": batch.column("clip_id"),
                            "position": batch.column("position"),
                            "digest": pa.array(digests, pa.binary(32)),
                            "piece": pa.repeat(pa.scalar(number, pa.int32()), len(digests)),
                        }
                    )
                )
    if not sum(part.num_rows for part in parts):
        return FrameIndex(tuple(pieces), _CLIPS.empty_table())
    frames = pa.concat_tables(parts).sort_by([("clip_id", "ascending"), ("position", "ascending")]).combine_chunks()
    return FrameIndex(tuple(pieces), _keys(frames))


def _keys(frames: pa.Table) -> pa.Table:
    ids = frames.column("clip_id").combine_chunks()
    changed = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.concatenate([[True], changed]))
    ends = np.append(starts[1:], len(ids))
    digests = frames.column("digest").to_pylist()
    positions = frames.column("position").to_numpy()
    piece = frames.column("piece").to_numpy()
    keys = []
    for start, end in zip(starts, ends, strict=True):
        digest = hashlib.sha256()
        for row in range(start, end):
            digest.update(positions[row].tobytes() + digests[row])
        keys.append(digest.hexdigest())
    return pa.table(
        {
            "clip_id": ids.take(pa.array(starts)),
            "record_key": pa.array(keys, pa.string()),
            "first": pa.array(np.minimum.reduceat(piece, starts)),
            "last": pa.array(np.maximum.reduceat(piece, starts)),
        }
    )


def frame_batches(index: FrameIndex, done: Iterable[str], per_batch: int) -> list[FrameBatch]:
    """Batches of clips whose key is not done, one clip for each key, neighbours in the table together."""
    skip = set(done)
    waiting: list[tuple[int, int, str, str]] = []
    for row in index.clips.sort_by([("first", "ascending"), ("clip_id", "ascending")]).to_batches(
        max_chunksize=100_000
    ):
        for clip_id, key, first, last in zip(*(c.to_pylist() for c in row.columns), strict=True):
            if key not in skip:
                skip.add(key)
                waiting.append((first, last, clip_id, key))
    batches = []
    for start in range(0, len(waiting), per_batch):
        part = waiting[start : start + per_batch]
        used = sorted({piece for first, last, _, _ in part for piece in range(first, last + 1)})
        batches.append(
            FrameBatch(
                tuple(index.pieces[piece] for piece in used),
                tuple(clip_id for _, _, clip_id, _ in part),
                tuple(key for _, _, _, key in part),
            )
        )
    return batches


def read_frames(batch: FrameBatch) -> dict[str, list[tuple[float, bytes]]]:
    """Position and picture of each key frame, by record key, in order of position."""
    key_of = dict(zip(batch.clip_ids, batch.record_keys, strict=True))
    frames: dict[str, list[tuple[float, bytes]]] = {key: [] for key in batch.record_keys}
    for piece in batch.pieces:
        wanted = pc.field("clip_id").isin(list(batch.clip_ids))
        table = piece.to_table(columns=["clip_id", "position", "jpeg"], filter=wanted)
        for clip_id, position, jpeg in zip(*(column.to_pylist() for column in table.columns), strict=True):
            frames[key_of[clip_id]].append((position, jpeg))
    for found in frames.values():
        found.sort(key=lambda frame: frame[0])
    return frames
