"""A stage's context on a temporary store, without Ray: the real one, fed with tables and folders of the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.dag.artifacts import Committed, open_table
from pipelines.dag.context import StageContext
from pipelines.dag.engine import Engine, InlineEngine
from pipelines.dag.ledger import LedgerWriter
from pipelines.dag.store import Store
from stages.contract import Stage, Table, Waiting, World


class KeptLedger(LedgerWriter):
    """Writes the ledger as every stage's is written, and keeps its rows for the test to look at."""

    def __init__(self, store: Store, path: str) -> None:
        super().__init__(store, path)
        self.tables: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        self.tables.append(table)
        super().add(table)


class LocalContext(StageContext):
    """``LocalContext(tmp_path, stage, inputs={"clips": table, "media": folder})``; then ``run(params)``.

    After ``run``: ``outputs[name]`` is a table or a folder, ``ledger_rows`` the ledger as plain rows. Two contexts on
    the same ``tmp_path`` share one store, so records committed by the first are there for the second.
    """

    def __init__(
        self,
        tmp_path: Path,
        stage: Stage,
        inputs: Mapping[str, pa.Table | Path] | None = None,
        *,
        source: Path | str | None = None,
        limit: int | None = None,
        name: str | None = None,
        seed: int = 0,
        fingerprint: str = "f" * 64,
        retry_failed: bool = False,
        engine: Engine | None = None,
    ) -> None:
        store = Store(str(tmp_path / "store"))
        committed = {}
        for key, value in (inputs or {}).items():
            folder = f"data/test-inputs/{len(store.names('data/test-inputs')):04d}-{key}"
            if isinstance(value, pa.Table):
                artifact = stage.inputs[key]
                assert isinstance(artifact, Table)
                target = Path(store.full(folder))
                target.mkdir(parents=True)
                pq.write_table(artifact.schema.validate(value), target / "part-00000.parquet")
                committed[key] = Committed("table", folder, f"test-{key}", value.num_rows, 0)
            else:
                link = Path(store.full(folder))
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(value).resolve(), target_is_directory=True)
                committed[key] = Committed("files", folder, f"test-{key}", None, 0)
        self.events: list[tuple[str, dict[str, object]]] = []
        super().__init__(
            store=store,
            name=name or stage.name,
            stage=stage,
            inputs=committed,
            fingerprint=fingerprint,
            run_id="test-run",
            seed=seed,
            world=World(
                source=str(source) if source else None,
                limit=limit,
                review_database=f"sqlite:///{tmp_path / 'review' / 'review.db'}",
                review_page="http://127.0.0.1:8765",
            ),
            engine=engine or InlineEngine(),
            local=tmp_path / "local",
            retry_failed=retry_failed,
            quiet=True,
            on_event=lambda kind, fields: self.events.append((kind, dict(fields))),
        )
        self._ledger = self.kept_ledger = KeptLedger(store, self._ledger.path)
        self.outputs: dict[str, Any] = {}
        self.metrics_seen = self._metrics

    def run(self, params: Any = None) -> Waiting | None:
        """Run the stage and settle its outputs; returns what a gate returns."""
        waiting = self.stage.run(self, params if params is not None else self.stage.params())
        if waiting is None:
            outputs, _, _, _ = self.finish()
            for key, artifact in self.stage.outputs.items():
                path = outputs[key].path
                self.outputs[key] = (
                    open_table(self.store, path, artifact.schema).to_table()
                    if isinstance(artifact, Table)
                    else Path(self.store.full(path))
                )
        return waiting

    @property
    def ledger_rows(self) -> list[dict[str, Any]]:
        return [row for table in self.kept_ledger.tables for row in table.to_pylist()]
