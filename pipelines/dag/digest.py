"""Digests of artifacts: of tables by their rows, of folders by their files; never of anything that merely happened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from data_schemas.schema import TableSchema

_ROWS = 16_384  # rows whose bytes are laid out at once; a wide clip has some 400 bytes
_PAYLOAD_ROWS = 256  # the same where rows hold pictures
_MODULUS = 1 << 256


def table_digest(table: pa.Table | pads.Dataset, schema: TableSchema) -> str:
    """sha256 over the columns (names and types), the number of rows, and the sum of all rows' sha256 modulo 2^256.

    The table is a multiset of rows, so a sum is all that is needed: nothing is sorted, memory is one batch however long the
    table is, and the digest depends neither on row order, nor on chunks and files, nor on what lies in null slots. Columns
    marked ``telemetry`` are left out; those of an open schema come after the declared ones, by name.

    A row's bytes are one-to-one with its values (each is self-delimiting), -0.0 is 0.0 and every NaN is the same NaN. Take
    two tables with unique keys that differ: some row is in one alone, its sha256 enters one sum alone, and with sha256 as
    a random function the two sums agree with probability 2^-256, whatever the other rows are. (A forger who may choose
    many rows can do better, as for any sum of hashes, about 2^32 steps; whoever may write to a store can also write its
    manifests, so a digest is a guard against accident and change, not a signature.)

    Raises ``TypeError`` for a column whose type has no canonical bytes.
    """
    fields = {field.name: field.type for field in table.schema}
    declared = [f.name for f in schema.fields if f.name in fields]
    extra = sorted(set(fields) - {f.name for f in schema.fields})
    names = [n for n in (*declared, *extra) if n not in schema.telemetry]
    hasher = hashlib.sha256()
    for name in names:
        hasher.update(f"{name}\0{_type_name(fields[name])}\0".encode())
    rows, total = 0, 0
    for batch in _batches(table, names):
        rows += batch.num_rows
        total += _sum(_Bytes.of_columns([batch.column(name) for name in names], batch.num_rows).joined())
    hasher.update(rows.to_bytes(8, "little") + (total % _MODULUS).to_bytes(32, "little"))
    return hasher.hexdigest()


def files_digest(files: Iterable[tuple[str, str]]) -> str:
    """sha256 over (path relative to the folder, sha256 of content), sorted by path."""
    hasher = hashlib.sha256()
    for path, sha in sorted(files):
        hasher.update(f"{path}\0{sha}\n".encode())
    return hasher.hexdigest()


def _batches(table: pa.Table | pads.Dataset, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    payload = any(pa.types.is_large_binary(table.schema.field(name).type) for name in names)
    most = _PAYLOAD_ROWS if payload else _ROWS
    if isinstance(table, pa.Table):
        yield from table.select(names).to_batches(max_chunksize=most)
        return
    # read ahead little: a batch that waits is memory
    scanner = table.scanner(columns=list(names), batch_size=most, batch_readahead=2, fragment_readahead=1)
    yield from scanner.to_batches()


def _type_name(kind: pa.DataType) -> str:
    """Name of a logical type: the same for 32- and 64-bit offsets, and whatever a file calls the items of a list."""
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {_type_name(field.type)}' for field in kind)}>"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pa.types.is_fixed_size_list(kind):
        return f"list<{_type_name(kind.value_type)}, {kind.list_size}>"
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    return str(kind).removeprefix("large_")


def _sum(rows: pa.LargeBinaryArray) -> int:
    """Sum of the sha256 of every row's bytes, as little-endian 256-bit numbers."""
    offsets = _offsets(rows).tolist()
    data = rows.buffers()[2]
    view = memoryview(data if data is not None else b"")
    sha256 = hashlib.sha256
    digests = b"".join([sha256(view[a:b]).digest() for a, b in pairwise(offsets)])
    # eight 32-bit lanes summed apart in 64 bits cannot overflow within a batch; Python's integers then carry
    lanes = np.frombuffer(digests, "<u4").reshape(-1, 8).sum(axis=0, dtype=np.uint64)
    return sum(int(lane) << (32 * n) for n, lane in enumerate(lanes))


# -- values as bytes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bytes:
    """Each of N values as bytes: first ``fixed`` (uint8, N x width), then its part of each ``variable``.

    The fixed part holds validity and the lengths of the variable parts, which makes the whole self-delimiting.
    """

    fixed: np.ndarray
    variable: tuple[pa.LargeBinaryArray, ...] = ()

    @staticmethod
    def of_columns(columns: Sequence[pa.Array], rows: int) -> _Bytes:
        parts = [_of(column) for column in columns]
        fixed = np.concatenate([np.zeros((rows, 0), np.uint8), *(part.fixed for part in parts)], axis=1)
        return _Bytes(fixed, tuple(array for part in parts for array in part.variable))

    def joined(self) -> pa.LargeBinaryArray:
        """One array of bytes a value."""
        rows, width = self.fixed.shape
        fixed = _binary(np.arange(rows + 1, dtype=np.int64) * width, pa.py_buffer(np.ascontiguousarray(self.fixed)))
        return (
            pc.binary_join_element_wise(fixed, *self.variable, pa.scalar(b"", pa.large_binary()))
            if self.variable
            else fixed
        )


def _of(array: pa.Array) -> _Bytes:
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _of(array.dictionary_decode())
    valid = np.asarray(array.is_valid()).astype(np.uint8)[:, None]
    if pa.types.is_null(kind):
        return _Bytes(valid)
    if pa.types.is_boolean(kind):
        return _Bytes(_beside(valid, np.asarray(array.fill_null(False)).astype(np.uint8)))
    if pa.types.is_floating(kind):
        values = np.asarray(array.cast(pa.float64()).fill_null(0.0)).copy()
        values[np.isnan(values)] = np.nan
        values[values == 0] = 0.0  # -0.0 and 0.0 are one number
        return _Bytes(_beside(valid, values))
    if pa.types.is_integer(kind):
        return _Bytes(_beside(valid, np.asarray(array.fill_null(0))))
    if pa.types.is_temporal(kind):
        whole = pa.int32() if kind.bit_width == 32 else pa.int64()
        return _Bytes(_beside(valid, np.asarray(array.cast(whole).fill_null(0))))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        data = array.cast(pa.large_string()).fill_null("").cast(pa.large_binary())
        return _Bytes(_beside(valid, np.diff(_offsets(data))), (data,))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        data = array.cast(pa.large_binary()).fill_null(b"")
        return _Bytes(_beside(valid, np.diff(_offsets(data))), (data,))
    if pa.types.is_struct(kind):
        inner = _Bytes.of_columns(array.flatten(), len(array))
        return _Bytes(np.concatenate([valid, inner.fixed], axis=1), inner.variable)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = np.asarray(pc.list_value_length(array).fill_null(0)).astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        items = _of(array.flatten()).joined()
        data = _binary(_offsets(items)[ends], items.buffers()[2])
        return _Bytes(_beside(valid, lengths), (data,))
    raise TypeError(f"no digest is defined for a column of type {kind}")


def _beside(valid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Validity and value side by side, little-endian. uint8 (N, 1 + width)."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return np.concatenate([valid, little.view(np.uint8).reshape(len(valid), values.dtype.itemsize)], axis=1)


def _offsets(array: pa.LargeBinaryArray) -> np.ndarray:
    """Where each value starts in the data buffer, and the end of the last. int64 (N + 1,)."""
    if not len(array):
        return np.zeros(1, np.int64)
    return np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1]


def _binary(offsets: np.ndarray, data: pa.Buffer | None) -> pa.LargeBinaryArray:
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), data if data is not None else pa.py_buffer(b"")]
    return pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
