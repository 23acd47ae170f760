"""Ledger rows made from columns, so that a stage over a million clips states where each ended without a Python row each."""

from __future__ import annotations

from typing import TypeAlias

import pyarrow as pa

from data_schemas.tables import LEDGER

Column: TypeAlias = pa.Array | pa.ChunkedArray


def ledger_table(
    stage: str,
    record_id: Column,
    status: Column | str,
    *,
    video_id: Column | None = None,
    reason: Column | None = None,
) -> pa.Table:
    """A validated ledger table. ``status`` is one word for all rows or a column; absent columns are null."""
    rows = len(record_id)
    nothing = pa.nulls(rows, pa.string())
    return LEDGER.complete(
        pa.table(
            {
                "record_id": record_id,
                "video_id": nothing if video_id is None else video_id,
                "stage": pa.repeat(stage, rows),
                "status": pa.repeat(status, rows) if isinstance(status, str) else status,
                "reason": nothing if reason is None else reason,
                "attempts": pa.repeat(pa.scalar(1, pa.int32()), rows),
            }
        )
    )
