"""Joins of clip tables that stream through DuckDB, so that ten million rows need no more memory than thousands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.dataset as pads

ROWS = 131_072


def join_stream(sql: str, tables: Mapping[str, pads.Dataset | pa.Table], like: pa.Schema) -> Iterator[pa.Table]:
    """Run a constant SQL text over the named tables and stream its rows with the fields (types, metadata) of ``like``.

    The SQL is written by this project; nothing a user types becomes part of it.
    """
    import duckdb

    with duckdb.connect(":memory:") as connection:
        # row order carries no meaning in any table, and keeping it would buffer whole inputs
        connection.execute("SET preserve_insertion_order = false")
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
