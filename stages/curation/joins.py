"""Joins of clip tables that stream through DuckDB, so that ten million rows need no more memory than thousands."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as pads

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ROWS = 131_072
MEMORY = "2GB"  # what a join may hold before it goes to the disk


@contextmanager
def connect() -> Iterator[DuckDBPyConnection]:
    """A DuckDB connection of bounded memory that spills to a temporary folder."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="fulcrum-join-") as folder, duckdb.connect(":memory:") as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute("SET temp_directory = $folder", {"folder": folder})
        # row order carries no meaning in any table, and keeping it would buffer whole inputs
        connection.execute("SET preserve_insertion_order = false")
        yield connection


def join_stream(sql: str, tables: Mapping[str, pads.Dataset | pa.Table], like: pa.Schema) -> Iterator[pa.Table]:
    """Run a constant SQL text over the named tables and stream its rows with the fields (types, metadata) of ``like``.

    The SQL is written by this project; nothing a user types becomes part of it.
    """
    with connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        # a fetched batch may be empty or tiny after a join; parts on disk should be neither
        pending: list[pa.Table] = []
        count = 0
        for batch in connection.sql(sql).to_arrow_reader(ROWS):
            part = pa.Table.from_batches([batch]).cast(like) if batch.num_rows else None
            if part is None:
                continue
            pending.append(part)
            count += part.num_rows
            if count >= ROWS:
                yield pa.concat_tables(pending)
                pending, count = [], 0
        yield pa.concat_tables(pending) if pending else like.empty_table()


def quoted(name: str) -> str:
    """A column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
