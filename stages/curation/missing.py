"""What ``analyze`` still has to do, as columns: a million files that wait are arrays, not objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.contract import Keys
from stages.curation.analyze_worker import FACTS, Item, Known
from stages.curation.columns import first_of_each

LARGE = (
    16 << 20
)  # bytes from which a file is worked on alone and early: a few minutes, for which no short one should wait
_AT_ONCE = 65_536  # files that are objects at the same time


@dataclass(frozen=True)
class Missing:
    """Files that lack something, large ones first. ``rows`` (int64) are rows of the sources, ``lacks`` (uint64) has bit n
    set where ``wanted[n]`` is missing, ``attempt`` (int32) is the number of this try, ``bytes`` the sum of their sizes."""

    wanted: tuple[str, ...]
    rows: np.ndarray
    lacks: np.ndarray
    attempt: np.ndarray
    bytes: int

    def __len__(self) -> int:
        return len(self.rows)

    def in_turns(self, sources: pa.Table, content: pa.StringArray) -> Iterator[tuple[list[Item], dict[str, int]]]:
        """Items, some ten thousand at a time, each time with their sizes by video_id."""
        groups = {int(bits): self._groups(int(bits)) for bits in np.unique(self.lacks)}
        for start in range(0, len(self), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            rows = pa.array(self.rows[some])
            part = sources.select(["video_id", "uri", "media_type", "identity", "bytes"]).take(rows)
            columns = [part.column(name).to_pylist() for name in part.column_names]
            told = zip(
                *columns,
                content.take(rows).to_pylist(),
                self.lacks[some].tolist(),
                self.attempt[some].tolist(),
                strict=True,
            )
            items, sizes = [], {}
            for video, uri, media, identity, size, sha, bits, attempt in told:
                items.append(Item(video, uri, media, identity, sha, groups[bits], None, attempt))
                sizes[video] = size
            yield items, sizes

    def _groups(self, bits: int) -> tuple[str, ...]:
        return tuple(name for n, name in enumerate(self.wanted) if bits >> n & 1)


@dataclass(frozen=True)
class Committed:
    """What is committed. ``done``: content keys by wanted group; ``failed``: by group that can fail, content key and the
    number of its last attempt; ``again``: whether what failed is to be tried again."""

    wanted: tuple[str, ...]
    done: Mapping[str, Keys]
    failed: Mapping[str, pa.Table]
    again: bool

    def lacking(self, content: pa.StringArray) -> np.ndarray:
        """Which groups are missing for each content key, as bits; none for null. uint64 (N,)."""
        bits = np.zeros(len(content), np.uint64)
        there = {name: _mask(keys.mask(content)) for name, keys in self.done.items()}
        gave_up = {name: self._failed(name, content) for name in self.failed}
        for n, name in enumerate(self.wanted):
            lacks = ~there[name]
            if name in gave_up and not self.again:
                lacks &= ~gave_up[name]
            bits |= lacks.astype(np.uint64) << np.uint64(n)
        nothing = _mask(content.is_null())
        if not self.again:  # a file that could not be decoded at all
            nothing |= gave_up[FACTS] & ~there[FACTS]
        bits[nothing] = 0
        return bits

    def _failed(self, name: str, content: pa.StringArray) -> np.ndarray:
        return _mask(pc.is_in(content, value_set=self.failed[name].column("sha256").combine_chunks()))

    def complete(self) -> Known:
        """Content of which nothing is missing, for a new file that turns out to be a copy."""
        failed = self.failed[FACTS].column("sha256").combine_chunks()
        keys = pc.unique(pa.concat_arrays([self.done[FACTS].array, failed]))
        keys = keys.filter(pa.array(self.lacking(keys) == 0))
        return Known(np.sort(_prefixes(keys)))

    def missing(self, sources: pa.Table, content: pa.StringArray, unread: pa.StringArray) -> Missing:
        """Rows of ``sources`` to work on; of several with one content the first. ``unread`` are not tried again."""
        new = _mask(content.is_null()) & ~_mask(pc.is_in(sources.column("video_id").combine_chunks(), value_set=unread))
        lacks = np.where(new, np.uint64((1 << len(self.wanted)) - 1), self.lacking(content))
        once = np.zeros(len(content), bool)
        once[first_of_each(content)] = True
        lacks[~new & ~once] = 0
        rows = np.flatnonzero(lacks)
        size = sources.column("bytes").to_numpy()[rows]
        # a large one at the end would leave every other worker idle; the others stay in order of their places
        order = np.argsort(np.where(size >= LARGE, -size, 0), kind="stable")
        rows = rows[order]
        attempt = np.ones(len(rows), np.int32)
        some = content.take(pa.array(rows))
        for table in self.failed.values():
            at = pc.index_in(some, value_set=table.column("sha256").combine_chunks())
            before = table.column("attempt").combine_chunks().take(at).fill_null(0).to_numpy(zero_copy_only=False)
            attempt = np.maximum(attempt, before.astype(np.int32) + 1)
        return Missing(self.wanted, rows, lacks[rows], attempt, int(size.sum()))


def last_attempts(keys: Keys) -> pa.Table:
    """Failed content with the number of its last attempt, from record keys ``<sha256>#<attempt>``: sha256, attempt."""
    parts = pc.split_pattern(keys.array, "#", max_splits=1, reverse=True)
    sha, attempt = pc.list_element(parts, 0), pc.list_element(parts, 1).cast(pa.int32())
    found = pa.table({"sha256": sha, "attempt": attempt}).group_by("sha256").aggregate([("attempt", "max")])
    return found.select(["sha256", "attempt_max"]).rename_columns(["sha256", "attempt"])


def _prefixes(keys: pa.StringArray) -> np.ndarray:
    """The first 16 hex digits of each key as a number. uint64 (N,)."""
    if not len(keys):
        return np.zeros(0, np.uint64)
    text = pc.utf8_slice_codeunits(keys, 0, 16)
    digits = np.frombuffer(text.buffers()[2], np.uint8, count=16 * len(keys)).reshape(-1, 16)
    values = np.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0")).astype(np.uint64)
    numbers = np.zeros(len(keys), np.uint64)
    for column in values.T:
        numbers = (numbers << np.uint64(4)) | column
    return numbers


def _mask(values: pa.BooleanArray) -> np.ndarray:
    return np.asarray(values.fill_null(False))
