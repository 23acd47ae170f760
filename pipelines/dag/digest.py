"""Digests of artifacts: of tables by their rows, of folders by their files; never of anything that merely happened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.schema import TableSchema


def table_digest(table: pa.Table, schema: TableSchema) -> str:
    """sha256 over the rows sorted by key, in declared column order and without telemetry columns.

    Independent of row order, chunking, file layout and of what lies in null slots. Columns of an open schema come
    after the declared ones, by name. Equal keys keep their rows' relative order fixed by sorting on every sortable
    column.
    """
    declared = [f.name for f in schema.fields if f.name in table.column_names]
    extra = sorted(set(table.column_names) - {f.name for f in schema.fields})
    names = [n for n in (*declared, *extra) if n not in schema.telemetry]
    order = [(k, "ascending") for k in schema.key if k in table.column_names]
    if order and table.num_rows:
        table = table.take(pc.sort_indices(table, sort_keys=order))
    hasher = hashlib.sha256()
    for name in names:
        column = table.column(name).combine_chunks()
        hasher.update(f"{name}\0{_type_name(column.type)}\0{len(column)}\0".encode())
        _update(hasher, column)
    return hasher.hexdigest()


def files_digest(files: Iterable[tuple[str, str]]) -> str:
    """sha256 over (path relative to the folder, sha256 of content), sorted by path."""
    hasher = hashlib.sha256()
    for path, sha in sorted(files):
        hasher.update(f"{path}\0{sha}\n".encode())
    return hasher.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    """Type name in which the 32- and 64-bit offset forms of one logical type are the same."""
    return str(kind).replace("large_", "")


def _update(hasher: Any, array: pa.Array) -> None:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    kind = array.type
    valid = np.asarray(array.is_valid())
    hasher.update(np.packbits(valid).tobytes())
    if pa.types.is_null(kind):
        return
    if pa.types.is_boolean(kind):
        hasher.update(np.packbits(np.asarray(array.fill_null(False))).tobytes())
    elif pa.types.is_floating(kind):
        values = np.asarray(array.cast(pa.float64()).fill_null(0.0)).copy()
        values[np.isnan(values)] = np.nan
        values[values == 0] = 0.0  # -0.0 and 0.0 are one number
        hasher.update(values.tobytes())
    elif pa.types.is_integer(kind):
        hasher.update(np.asarray(array.fill_null(0)).tobytes())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _update_bytes(hasher, array.fill_null("").cast(pa.large_string()).cast(pa.large_binary()))
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        _update_bytes(hasher, array.fill_null(b"").cast(pa.large_binary()))
    elif pa.types.is_struct(kind):
        for field, child in zip(kind, array.flatten(), strict=True):
            hasher.update(field.name.encode())
            _update(hasher, child)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        hasher.update(np.asarray(pc.list_value_length(array).fill_null(0).cast(pa.int64())).tobytes())
        _update(hasher, array.flatten())
    else:
        raise TypeError(f"no digest is defined for a column of type {kind}")


def _update_bytes(hasher: Any, array: pa.Array) -> None:
    """Lengths, then the concatenated bytes; ``array`` is large_binary without nulls."""
    hasher.update(np.asarray(pc.binary_length(array)).astype(np.int64).tobytes())
    if not len(array):
        return
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    if data is not None:
        hasher.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])
