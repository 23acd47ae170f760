"""The ledger of one attempt at a stage, written as it grows: ten million rows cost no more memory than ten thousand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_schemas.tables import LEDGER
from pipelines.dag.store import Store

_ROWS = 65_536  # rows gathered before they are written


class LedgerWriter:
    """Rows of the table ``ledger`` on their way into one Parquet file, which appears when it is closed."""

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._counts: Counter[str] = Counter()
        self._failed: list[pa.Table] = []
        self._open = ExitStack()
        self._file: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        """Add validated rows."""
        if not table.num_rows:
            return
        for entry in table.column("status").value_counts().to_pylist():
            self._counts[entry["values"]] += entry["counts"]
        failed = table.filter(pc.equal(table.column("status"), "failed"))
        if failed.num_rows:
            self._failed.append(failed.select(["record_id", "error_type", "error_message"]))
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._file is None:
            file = self._open.enter_context(self.store.writer(self.path))
            self._file = self._open.enter_context(pq.ParquetWriter(file, LEDGER.arrow, compression="zstd"))
        self._file.write_table(pa.concat_tables(self._waiting), row_group_size=_ROWS)
        self._waiting, self._rows = [], 0

    def close(self) -> tuple[str | None, dict[str, int]]:
        """Settle the file; its path (None for an empty ledger) and the number of rows of each status."""
        if self._waiting:
            self._flush()
        if self._file is None:
            return None, {}
        self._open.close()
        return self.path, dict(self._counts)

    def discard(self) -> None:
        """Let go of the file; whoever discards the attempt deletes it with all else."""
        self._open.close()

    def failed(self) -> Iterator[dict[str, Any]]:
        """Record, type and message of every failed row, as plain rows."""
        for table in self._failed:
            for batch in table.to_batches(max_chunksize=1024):
                yield from batch.to_pylist()
