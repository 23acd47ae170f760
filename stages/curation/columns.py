"""Rows that become columns as they come, and questions to whole columns: a million rows are never Python objects at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

CHUNK = 50_000  # rows that are Python objects at the same time


class Rows:
    """Rows gathered as Arrow columns, a chunk of Python values at a time."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._columns: list[list[Any]] = [[] for _ in schema]
        self._done: list[pa.Table] = []

    def add(self, *row: object) -> None:
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        if len(self._columns[0]) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        arrays = [pa.array(column, field.type) for column, field in zip(self._columns, self.schema, strict=True)]
        self._done.append(pa.Table.from_arrays(arrays, schema=self.schema))
        self._columns = [[] for _ in self.schema]

    def table(self) -> pa.Table:
        self._flush()
        return pa.concat_tables(self._done)


def first_of_each(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The rows at which a value appears for the first time, ascending; none for null. int64 (N,)."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    codes = array.dictionary_encode().indices
    rows = np.flatnonzero(np.asarray(codes.is_valid()))
    first: np.ndarray = np.sort(rows[np.unique(codes.drop_null().to_numpy(), return_index=True)[1]])
    return first
