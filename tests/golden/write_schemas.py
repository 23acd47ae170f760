"""Writes the golden description of every table version that has none yet; an existing one is never overwritten."""

from __future__ import annotations

from pathlib import Path

from data_schemas.tables import TABLES

HERE = Path(__file__).resolve().parent / "schemas"

if __name__ == "__main__":
    for table in TABLES.values():
        path = HERE / f"{table.name}-{table.version}.json"
        if not path.exists():
            path.write_text(table.describe_json(), encoding="utf-8")
            print(f"wrote {path.name}")
