"""One shard of committed records: a single object, so that it is there whole or not at all, on a disk as on S3.

Layout, read from its end like Parquet::

    blobs        Arrow IPC streams: rows of the groups, the keys, indexes
    header       JSON: where each blob lies, its crc32, and the groups with their recipes
    uint64       length of the header
    b"FULCRUM1"

Rows of a group are sorted by key and cut into blobs of some ten thousand rows, each listed with its first key, so that a
range of keys costs the blobs it touches. Rows of a group that carry bytes (pictures, encoded media) lie one blob a key: they
are read apart, and merging shards never copies them; it keeps only where they are.
"""

from __future__ import annotations

import bisect
import json
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dag.logs import EventLog
from pipelines.dag.sorted_keys import SortedKeys
from pipelines.dag.store import Store
from stages.contract import Group, StageError

KEY = "record_key"
SUFFIX = ".shard"
MERGED = "merged-"  # prefix of a shard that stands for others
_MAGIC = b"FULCRUM1"
_TAIL = 1 << 16  # read at once from the end: header and rows of a fresh shard, in most cases
_BLOB_ROWS = 32_768
_HERE = -1  # in a by-key index: the blob lies in this very shard

_PLACE_ORDER = [("object", "ascending"), ("offset", "ascending")]
_GAP = 1 << 16  # bytes between two blobs that are cheaper to read than to skip
_PLACES = pa.schema([("object", pa.int32()), ("offset", pa.int64()), ("length", pa.int64()), ("crc", pa.int64())])


@dataclass(frozen=True)
class Blob:
    """Where an Arrow stream lies within an object, and the first key of its rows."""

    offset: int
    length: int
    crc: int
    first: str = ""


@dataclass(frozen=True)
class Entry:
    """A group in a shard. Either ``blobs`` hold its rows, or ``by_key`` tells for each key of the shard where its blob is."""

    recipe: str
    rows: int
    blobs: tuple[Blob, ...] = ()
    by_key: Blob | None = None


@dataclass
class Shard:
    """A committed shard as its header describes it, with its keys (sorted, unique) in memory."""

    name: str
    size: int
    keys: pa.StringArray
    groups: Mapping[str, Entry]
    objects: pa.StringArray | None = None  # names of the shards in which by-key blobs lie
    replaces: Blob | None = None
    _tail: tuple[int, bytes] = field(default=(0, b""), repr=False)
    _places: dict[str, pa.Table] = field(default_factory=dict, repr=False)
    _sorted: SortedKeys | None = field(default=None, repr=False)

    @property
    def signature(self) -> tuple[tuple[str, str, bool], ...]:
        """What was done to its records: shards with the same signature can be merged."""
        return tuple(sorted((name, entry.recipe, entry.by_key is not None) for name, entry in self.groups.items()))

    @property
    def merged(self) -> bool:
        return self.name.startswith(MERGED)

    def find(self, keys: pa.StringArray) -> np.ndarray:
        """The place of each key among the shard's, int64 (N,); -1 for one that it does not hold."""
        if self._sorted is None or self._sorted.array is not self.keys:
            self._sorted = SortedKeys(self.keys)
        return self._sorted.find(keys)

    def places(self, store: Store, folder: str, group: str) -> pa.Table:
        """Object, offset, length and crc of each key's blob, in the order of ``keys``; length 0 for a key without rows."""
        if group not in self._places:
            at = self.groups[group].by_key
            assert at is not None
            self._places[group] = _arrow(self._bytes(store, folder, at), self.name)
        return self._places[group]

    def rows(self, store: Store, folder: str, group: str, keys: pa.StringArray) -> pa.Table | None:
        """The group's rows of these keys, which must be sorted and some of its own; None where they have none."""
        entry = self.groups[group]
        if not len(keys):
            return None
        parts = self._by_key(store, folder, group, keys) if entry.by_key else self._in_blobs(store, folder, entry, keys)
        if not parts:
            return None
        return pa.concat_tables(parts, promote_options="permissive")

    def _in_blobs(self, store: Store, folder: str, entry: Entry, keys: pa.StringArray) -> list[pa.Table]:
        firsts = [blob.first for blob in entry.blobs]
        low, high = keys[0].as_py(), keys[-1].as_py()
        start = max(0, bisect.bisect_left(firsts, low) - 1)  # a key's rows may begin at the end of the blob before
        tables = [
            _arrow(self._bytes(store, folder, blob), self.name)
            for blob in entry.blobs[start : bisect.bisect_right(firsts, high)]
        ]
        if len(keys) < len(self.keys):
            tables = [table.filter(pc.is_in(table.column(KEY), value_set=keys)) for table in tables]
        return [table for table in tables if table.num_rows]

    def as_stored(self, store: Store, folder: str, group: str, keys: pa.StringArray) -> pa.StringArray:
        """These keys, which are some of its own and sorted, in the order in which their blobs lie."""
        if self.groups[group].by_key is None:
            return keys
        order = pc.sort_indices(self._places_of(store, folder, group, keys), sort_keys=_PLACE_ORDER)
        return keys.take(order)

    def _places_of(self, store: Store, folder: str, group: str, keys: pa.StringArray) -> pa.Table:
        return self.places(store, folder, group).take(pa.array(self.find(keys)))

    def _by_key(self, store: Store, folder: str, group: str, keys: pa.StringArray) -> list[pa.Table]:
        places = self._places_of(store, folder, group, keys)
        places = places.filter(pc.greater(places.column("length"), 0)).sort_by(_PLACE_ORDER)
        parts: list[pa.Table] = []
        if not places.num_rows:
            return parts
        objects = places.column("object").to_numpy()
        starts = np.flatnonzero(np.diff(objects, prepend=-2))
        for begin, end in zip(starts, [*starts[1:], len(objects)], strict=True):
            name = self.name if objects[begin] == _HERE else self.objects[int(objects[begin])].as_py()  # type: ignore[index]
            columns = (places.column(c).slice(begin, end - begin).to_pylist() for c in _PLACES.names[1:])
            blobs = [Blob(*place) for place in zip(*columns, strict=True)]
            with store.fs.open_input_file(store.full(f"{folder}/{name}")) as file:
                parts += [_arrow(_checked(data, blob, name), name) for blob, data in _read(file, blobs)]
        return parts

    def replaced(self, store: Store, folder: str) -> pa.StringArray:
        """Names of the shards that this one stands for."""
        if self.replaces is None:
            return pa.array([], pa.string())
        return _arrow(self._bytes(store, folder, self.replaces), self.name).column("name").combine_chunks()

    def _bytes(self, store: Store, folder: str, blob: Blob) -> bytes:
        start, tail = self._tail
        if tail and blob.offset >= start:
            data = tail[blob.offset - start : blob.offset - start + blob.length]
        else:
            with store.fs.open_input_file(store.full(f"{folder}/{self.name}")) as file:
                data = file.read_at(blob.length, blob.offset)
        return _checked(data, blob, self.name)

    def forget_tail(self) -> None:
        """Let go of the bytes that were read with the header."""
        self._tail = (0, b"")


def open_shard(store: Store, folder: str, name: str) -> Shard:
    """Read a shard's header and keys. Raises ``FileNotFoundError`` where it is gone, ``StageError`` where it is damaged."""
    with store.fs.open_input_file(store.full(f"{folder}/{name}")) as file:
        size = file.size()
        start = max(0, size - _TAIL)
        tail = file.read_at(size - start, start)
        if size < 16 or tail[-8:] != _MAGIC:
            raise damaged(name)
        length = int.from_bytes(tail[-16:-8], "little")
        if length + 16 > len(tail):
            start = max(0, size - length - 16)
            tail = file.read_at(size - start, start)
    try:
        header = json.loads(tail[-16 - length : -16])
        groups = {
            group: Entry(
                entry["recipe"],
                entry["rows"],
                tuple(Blob(*blob) for blob in entry["blobs"]),
                Blob(*entry["by_key"]) if entry["by_key"] else None,
            )
            for group, entry in header["groups"].items()
        }
        replaces = Blob(*header["replaces"]) if header["replaces"] else None
        shard = Shard(name, size, pa.array([], pa.string()), groups, None, replaces, (start, tail))
        shard.keys = _arrow(shard._bytes(store, folder, Blob(*header["keys"])), name).column(KEY).combine_chunks()
        if header["objects"]:
            objects = _arrow(shard._bytes(store, folder, Blob(*header["objects"])), name)
            shard.objects = objects.column("name").combine_chunks()
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(name) from error
    return shard


def damaged(name: str) -> StageError:
    return StageError(
        f"the committed shard {name} is damaged. Delete that file below records/ in the store and run again: what it held "
        "will be done again, nothing else."
    )


# -- writing ---------------------------------------------------------------------------------------------------------


class _Object:
    """A shard while it is written: blobs first, then what says where they are."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size = file, 0

    def add(self, table: pa.Table, first: str = "") -> Blob:
        sink = pa.BufferOutputStream()
        codec = "zstd" if table.nbytes > 4096 else None
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        blob = Blob(self.size, data.size, zlib.crc32(data), first)
        self.file.write(data)
        self.size += data.size
        return blob

    def close(
        self,
        keys: pa.StringArray,
        groups: Mapping[str, Entry],
        objects: pa.StringArray | None = None,
        replaces: pa.StringArray | None = None,
    ) -> None:
        header = {
            "objects": _plain(self.add(pa.table({"name": objects}))) if objects is not None else None,
            "replaces": _plain(self.add(pa.table({"name": replaces}))) if replaces is not None else None,
            "keys": _plain(self.add(pa.table({KEY: keys}))),
            "groups": {
                group: {
                    "recipe": entry.recipe,
                    "rows": entry.rows,
                    "blobs": [_plain(blob) for blob in entry.blobs],
                    "by_key": _plain(entry.by_key) if entry.by_key else None,
                }
                for group, entry in groups.items()
            },
        }
        text = json.dumps(header).encode()
        self.file.write(text + len(text).to_bytes(8, "little") + _MAGIC)


def carries_bytes(schema: pa.Schema) -> bool:
    """Whether rows are payload: pictures or media, which are read by key and never copied."""
    return any(pa.types.is_large_binary(f.type) for f in schema)


@dataclass(frozen=True)
class ShardWriter:
    """Commits finished records; picklable, so that the worker that did the work commits it."""

    store_uri: str
    folder: str
    groups: tuple[Group, ...]
    log: EventLog | None = None

    def commit(self, rows: Mapping[str, pa.Table], keys: Sequence[str]) -> None:
        known = {g.name: g for g in self.groups}
        unknown = sorted(set(rows) - set(known))
        if unknown:
            raise ValueError(f"shard of {self.folder}: rows for groups that were not declared: {', '.join(unknown)}")
        if not keys:
            return
        ordered = sorted(set(keys))
        done = pa.array(ordered, pa.string())
        for name, table in rows.items():
            if KEY not in table.column_names:
                raise ValueError(f"shard of {self.folder}: rows of group {name} have no column {KEY}")
            stray = table.filter(pc.invert(pc.is_in(table.column(KEY), value_set=done))).column(KEY).to_pylist()
            if stray:
                raise ValueError(f"shard of {self.folder}: rows of group {name} for keys not committed: {stray[:3]}")
        entries = {}
        store = Store(self.store_uri, create=False)
        shard = uuid.uuid4().hex
        with store.writer(f"{self.folder}/{shard}{SUFFIX}") as file:
            out = _Object(file)
            # payload first, so that the end of the object holds all that a merge reads
            for name in sorted(rows, key=lambda name: not carries_bytes(rows[name].schema)):
                table, recipe = rows[name].sort_by(KEY), known[name].recipe
                if carries_bytes(table.schema):
                    places = [_place(out, table, key) for key in ordered]
                    entries[name] = Entry(recipe, table.num_rows, (), out.add(pa.Table.from_pylist(places, _PLACES)))
                else:
                    entries[name] = Entry(recipe, table.num_rows, tuple(_blobs(out, table)))
            out.close(done, entries)
        if self.log is not None:
            rows_of = {name: table.num_rows for name, table in rows.items()}
            self.log.write(
                "shard_committed", {"shard": shard, "records": len(ordered), "rows": rows_of, "bytes": out.size}
            )


def _place(out: _Object, table: pa.Table, key: str) -> dict[str, int]:
    mine = table.filter(pc.equal(table.column(KEY), key))
    if not mine.num_rows:
        return {"object": _HERE, "offset": 0, "length": 0, "crc": 0}
    blob = out.add(mine)
    return {"object": _HERE, "offset": blob.offset, "length": blob.length, "crc": blob.crc}


def _blobs(out: _Object, table: pa.Table) -> Iterator[Blob]:
    """Sorted rows as blobs; an empty group has one blob all the same, which says its columns."""
    for start in range(0, max(table.num_rows, 1), _BLOB_ROWS):
        part = table.slice(start, _BLOB_ROWS)
        yield out.add(part, part.column(KEY)[0].as_py() if part.num_rows else "")


def merge(store: Store, folder: str, shards: Sequence[Shard], replaces: Iterable[str]) -> Shard:
    """Write one shard that stands for these, which have the same signature, and for ``replaces``; returns it.

    A key that several hold is taken from the first. Nothing is deleted: whoever still reads the old ones can go on.
    """
    keys = pa.concat_arrays([shard.keys for shard in shards])
    owner = np.repeat(np.arange(len(shards)), [len(shard.keys) for shard in shards])
    order = pc.sort_indices(keys).to_numpy()  # stable: of equal keys the first shard's comes first
    keys, owner = keys.take(pa.array(order)), owner[order]
    fresh = _first_of_runs(keys)
    mine = [shard.keys for shard in shards]
    if not fresh.all():
        mine = [keys.filter(pa.array(fresh & (owner == number))) for number in range(len(shards))]
    name = f"{MERGED}{uuid.uuid4().hex}{SUFFIX}"
    with store.writer(f"{folder}/{name}") as file:
        out = _Object(file)
        entries: dict[str, Entry] = {}
        numbers: dict[str, int] = {}  # of the objects that hold payload, in order
        for group, first in sorted(shards[0].groups.items()):
            if first.by_key:
                places = pa.concat_tables([_numbered(shard, store, folder, group, numbers) for shard in shards])
                places = places.take(pa.array(order[fresh]))
                rows = sum(shard.groups[group].rows for shard in shards)
                entries[group] = Entry(first.recipe, rows, (), out.add(places))
                continue
            found = [shard.rows(store, folder, group, own) for shard, own in zip(shards, mine, strict=True)]
            parts = [part for part in found if part is not None]
            # without any rows the columns are still worth keeping
            parts = parts or [_arrow(shards[0]._bytes(store, folder, first.blobs[0]), shards[0].name)]
            table = pa.concat_tables(parts, promote_options="permissive").sort_by(KEY)
            entries[group] = Entry(first.recipe, table.num_rows, tuple(_blobs(out, table)))
            del found, parts, table
        objects = pa.array(list(numbers), pa.string()) if numbers else None
        gone = pa.array(sorted({*replaces, *(shard.name for shard in shards)}), pa.string())
        out.close(keys.filter(pa.array(fresh)), entries, objects, gone)
    return open_shard(store, folder, name)


def _numbered(shard: Shard, store: Store, folder: str, group: str, numbers: dict[str, int]) -> pa.Table:
    """The shard's places with every object under its number in ``numbers``, which grows."""
    places = shard.places(store, folder, group)
    at = places.column("object").to_numpy()
    used, where = np.unique(at, return_inverse=True)
    names = [shard.name if n == _HERE else shard.objects[int(n)].as_py() for n in used]  # type: ignore[index]
    new = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)
    return places.set_column(0, _PLACES.field(0), pa.array(new[where] if len(new) else at))


def _first_of_runs(keys: pa.StringArray) -> np.ndarray:
    """Where a value of a sorted array differs from the one before. bool (N,)."""
    if not len(keys):
        return np.zeros(0, bool)
    changed = pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1))
    return np.concatenate([[True], changed.to_numpy(zero_copy_only=False)])


# -- bytes -----------------------------------------------------------------------------------------------------------


def _plain(blob: Blob) -> list[Any]:
    return [blob.offset, blob.length, blob.crc, blob.first]


def _read(file: pa.NativeFile, blobs: Sequence[Blob]) -> Iterator[tuple[Blob, bytes]]:
    """The bytes of blobs in order of their offsets; neighbours are read in one go."""
    run: list[Blob] = []
    for blob in [*blobs, None]:
        if run and (blob is None or blob.offset > run[-1].offset + run[-1].length + _GAP):
            first = run[0].offset
            data = file.read_at(run[-1].offset + run[-1].length - first, first)
            yield from ((one, data[one.offset - first : one.offset - first + one.length]) for one in run)
            run = []
        if blob is not None:
            run.append(blob)


def _checked(data: bytes, blob: Blob, name: str) -> bytes:
    if len(data) != blob.length or zlib.crc32(data) != blob.crc:
        raise damaged(name)
    return data


def _arrow(data: bytes, name: str) -> pa.Table:
    try:
        with pa.ipc.open_stream(data) as reader:
            return reader.read_all()
    except pa.ArrowInvalid as error:
        raise damaged(name) from error
