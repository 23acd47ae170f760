"""Finds some keys among many, again and again, without looking at all of them each time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FEW = 8  # times fewer than all: a hash table of all keys then costs more than a search


class SortedKeys:
    """Sorted, unique strings. ``find`` searches their first eight bytes as numbers, then compares what these leave open."""

    def __init__(self, array: pa.StringArray) -> None:
        self.array = array
        self._prefixes: np.ndarray | None = None

    def find(self, wanted: pa.StringArray) -> np.ndarray:
        """The place of each wanted key, int64 (N,); -1 for one that is not among them, and for null."""
        if len(wanted) * _FEW >= len(self.array):
            return self._by_hash(wanted)
        if self._prefixes is None:
            self._prefixes = _prefixes(self.array)
        sought = _prefixes(wanted)
        first = np.searchsorted(self._prefixes, sought, side="left")
        count = np.searchsorted(self._prefixes, sought, side="right") - first
        if count.sum() > len(self.array):  # keys that begin alike, many of them
            return self._by_hash(wanted)
        which = np.repeat(np.arange(len(wanted)), count)
        place = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(len(which))
        same = pc.equal(self.array.take(pa.array(place)), wanted.take(pa.array(which)))
        hit = pc.fill_null(same, False).to_numpy(zero_copy_only=False)
        found = np.full(len(wanted), -1, np.int64)
        found[which[hit]] = place[hit]
        return found

    def _by_hash(self, wanted: pa.StringArray) -> np.ndarray:
        found = pc.index_in(wanted, value_set=self.array, skip_nulls=True)
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), np.int64)


def _prefixes(keys: pa.StringArray) -> np.ndarray:
    """The first eight bytes of each, filled up with zeros: uint64 (N,), in the order of the strings."""
    if not len(keys):
        return np.zeros(0, np.uint64)
    _, offsets, data = keys.buffers()
    ends = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1].astype(np.int64)
    text = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    result = np.zeros(len(keys), np.uint64)
    for byte in range(8):
        at = ends[:-1] + byte
        value = np.where(at < ends[1:], text[np.minimum(at, len(text) - 1)], 0)
        result = (result << np.uint64(8)) | value.astype(np.uint64)
    return result
