"""Writes the golden files of every table version that has none: its description, and an empty table as a release wrote it.

An existing one is never overwritten.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from data_schemas.tables import TABLES

HERE = Path(__file__).resolve().parent / "schemas"

if __name__ == "__main__":
    for table in TABLES.values():
        path = HERE / f"{table.name}-{table.version}.json"
        if not path.exists():
            path.write_text(table.describe_json(), encoding="utf-8")
            pq.write_table(table.empty(), path.with_suffix(".parquet"))
            print(f"wrote {path.name}")
