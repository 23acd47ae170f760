"""Deals key frames to workers: the driver sends which pieces of the table to read, never the pictures themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from stages.contract import Keys
from stages.curation.columns import first_of_each

_CLIPS = pa.schema([("clip_id", pa.string()), ("record_key", pa.string()), ("first", pa.int32()), ("last", pa.int32())])
SCAN_ROWS = 2048  # pictures held at once while keys are made, about 40 MB
_KEYS_AT_ONCE = 65_536


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

    Some hundred bytes a picture are held; pictures themselves are read where a wanted clip has one, and let go.
    """
    if isinstance(wanted, pa.ChunkedArray):
        wanted = wanted.combine_chunks()
    pieces: list[pads.Fragment] = []
    ids: list[pa.ChunkedArray] = []
    for fragment in dataset.get_fragments():
        for piece in fragment.split_by_row_group() if isinstance(fragment, pads.ParquetFileFragment) else [fragment]:
            pieces.append(piece)
        ids.append(fragment.to_table(schema=dataset.schema, columns=["clip_id"]).column("clip_id"))
    # one question for all rows: every question costs a hash table of all that is wanted
    asked = pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string())
    here = pc.is_in(asked, value_set=wanted).combine_chunks()
    del asked, ids
    parts: list[pa.Table] = []
    row = 0
    for number, piece in enumerate(pieces):
        count = _rows(piece)
        mask = here.slice(row, count)
        row += count
        if pc.any(mask).as_py():
            parts.append(_digests(piece, dataset.schema, mask, number))
    if not parts:
        return FrameIndex(tuple(pieces), _CLIPS.empty_table())
    frames = pa.concat_tables(parts).sort_by([("clip_id", "ascending"), ("position", "ascending")])
    del parts
    return FrameIndex(tuple(pieces), _keys(frames))


def _rows(piece: pads.Fragment) -> int:
    """Rows of one piece. ``count_rows`` of a fragment with some row groups counts those of the whole file (pyarrow 25)."""
    if isinstance(piece, pads.ParquetFileFragment):
        return sum(group.num_rows for group in piece.row_groups)
    return int(piece.count_rows())


def _digests(piece: pads.Fragment, schema: pa.Schema, mask: pa.BooleanArray, number: int) -> pa.Table:
    """clip_id, position, digest and number of the piece, for the pictures in it that are wanted."""
    parts = []
    row = 0
    columns = ["clip_id", "position", "jpeg"]
    for batch in piece.to_batches(schema=schema, columns=columns, batch_size=SCAN_ROWS, batch_readahead=1):
        picked = batch.filter(mask.slice(row, batch.num_rows))
        row += batch.num_rows
        digests = [hashlib.sha256(memoryview(raw.as_buffer())).digest() for raw in picked.column("jpeg")]
        parts.append(
            pa.table(
                {
                    "clip_id": picked.column("clip_id"),
                    "position": picked.column("position"),
                    "digest": pa.array(digests, pa.binary(32)),
                    "piece": pa.repeat(pa.scalar(number, pa.int32()), len(digests)),
                }
            )
        )
    return pa.concat_tables(parts)


def _keys(frames: pa.Table) -> pa.Table:
    """One row a clip, from its frames in order of clip and position."""
    ids = frames.column("clip_id").combine_chunks()
    changed = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.concatenate([[True], changed]))
    ends = np.append(starts[1:], len(ids))
    positions = frames.column("position").combine_chunks().to_numpy().view(np.uint8).reshape(-1, 8)
    digest = frames.column("digest").combine_chunks()
    raw = np.frombuffer(digest.buffers()[1], np.uint8)[32 * digest.offset :][: 32 * len(digest)].reshape(-1, 32)
    told = np.concatenate([positions, raw], axis=1).tobytes()
    keys = [
        pa.array([hashlib.sha256(told[40 * start : 40 * end]).hexdigest() for start, end in some], pa.string())
        for some in _spans(starts, ends)
    ]
    piece = frames.column("piece").to_numpy()
    return pa.table(
        {
            "clip_id": ids.take(pa.array(starts)),
            "record_key": pa.chunked_array(keys, pa.string()).combine_chunks(),
            "first": pa.array(np.minimum.reduceat(piece, starts)),
            "last": pa.array(np.maximum.reduceat(piece, starts)),
        }
    )


def _spans(starts: np.ndarray, ends: np.ndarray) -> Iterator[Iterator[tuple[int, int]]]:
    """(start, end) of some ten thousand clips at a time."""
    for at in range(0, len(starts), _KEYS_AT_ONCE):
        some = slice(at, at + _KEYS_AT_ONCE)
        yield zip(starts[some].tolist(), ends[some].tolist(), strict=True)


class FrameBatches(Sequence[FrameBatch]):
    """Batches that are made when they are asked for: what waits is columns."""

    def __init__(self, pieces: Sequence[pads.Fragment], clips: pa.Table, per_batch: int) -> None:
        self.pieces, self.clips, self.per_batch = pieces, clips, per_batch

    def __len__(self) -> int:
        return -(-self.clips.num_rows // self.per_batch)

    @overload
    def __getitem__(self, index: int) -> FrameBatch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[FrameBatch]: ...

    def __getitem__(self, index: int | slice) -> FrameBatch | Sequence[FrameBatch]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        part = self.clips.slice(index % len(self) * self.per_batch, self.per_batch)
        spans = zip(part.column("first").to_pylist(), part.column("last").to_pylist(), strict=True)
        used = sorted({piece for first, last in spans for piece in range(first, last + 1)})
        ids, keys = (part.column(name).to_pylist() for name in ("clip_id", "record_key"))
        return FrameBatch(tuple(self.pieces[piece] for piece in used), tuple(ids), tuple(keys))


def frame_batches(index: FrameIndex, done: Keys, per_batch: int) -> FrameBatches:
    """Batches of clips whose key is not done, one clip for each key, neighbours in the table together."""
    clips = index.clips.filter(pc.invert(done.mask(index.clips.column("record_key"))))
    clips = clips.sort_by([("first", "ascending"), ("clip_id", "ascending")])
    return FrameBatches(index.pieces, clips.take(pa.array(first_of_each(clips.column("record_key")))), per_batch)


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
