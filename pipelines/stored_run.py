"""A committed run as its tables: each found by name, read and never changed."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.dataset as pads

from data_schemas.schema import TableSchema
from data_schemas.tables import (
    BALANCE,
    CLIPS,
    DECISIONS,
    DEDUPE,
    KEYFRAMES,
    LEDGER,
    SELECTION,
    SUBSET,
    VERDICTS,
    VIDEOS,
)
from pipelines.dag.artifacts import Manifest, open_table, read_manifest
from pipelines.dag.runs import RunRecord
from pipelines.dag.store import Store
from stages.contract import StageError
from stages.curation.rules import Rule

# By name: the stage that makes it, its output, its schema.
_TABLES: dict[str, tuple[str, str, TableSchema]] = {
    "videos": ("analyze", "videos", VIDEOS),
    "keyframes": ("analyze", "keyframes", KEYFRAMES),
    "clips": ("clips", "clips", CLIPS),
    "selection": ("select", "selection", SELECTION),
    "dedupe": ("dedupe", "dedupe", DEDUPE),
    "balance": ("balance", "balance", BALANCE),
    "verdicts": ("review_clips", "verdicts", VERDICTS),
    "decisions": ("review_clips", "decisions", DECISIONS),
    "subset": ("export", "subset", SUBSET),
}


class StoredRun:
    """The curation of one run. Satisfies ``stages.curation.road.Tables``."""

    def __init__(self, store: Store, record: RunRecord) -> None:
        self.store, self.record = store, record
        self.manifests: dict[str, Manifest] = {}
        for node in record.nodes:
            manifest = read_manifest(store, node.name, node.fingerprint) if node.fingerprint else None
            if manifest is not None:
                self.manifests.setdefault(manifest.stage, manifest)

    def has(self, name: str) -> bool:
        stage, output, _ = _TABLES.get(name, ("", "", CLIPS))
        return stage in self.manifests and output in self.manifests[stage].outputs

    def dataset(self, name: str) -> pads.Dataset:
        stage, output, schema = _TABLES[name]
        if stage not in self.manifests:
            known = ", ".join(node.name for node in self.record.nodes)
            raise StageError(
                f"run {self.record.run_id} of {self.record.pipeline} has no table {name}: its stage {stage} has not been "
                f"done (stages of this run: {known}). Run the pipeline further, or name another run with --run."
            )
        return open_table(self.store, self.manifests[stage].outputs[output].path, schema)

    def rules(self) -> list[Rule]:
        """The rules that the run selected by."""
        if "select" not in self.manifests:
            self.dataset("selection")  # says what is missing
        return [Rule.model_validate(rule) for rule in self.manifests["select"].preimage["params"]["rules"]]

    @property
    def select_node(self) -> str:
        """The name of the node that selects, as a configuration calls it."""
        return self.manifests["select"].node

    def ledger(self) -> pads.Dataset | None:
        """All ledgers of the run's committed stages."""
        paths = [self.store.full(m.ledger) for m in self.manifests.values() if m.ledger]
        if not paths:
            return None
        return pads.dataset(paths, schema=LEDGER.arrow, filesystem=self.store.fs, format="parquet")

    def digests(self, names: Sequence[str]) -> list[tuple[str, int, str]]:
        """Name, rows and content digest of each of these tables that the run has."""
        found = []
        for name in names:
            if self.has(name):
                stage, output, _ = _TABLES[name]
                committed = self.manifests[stage].outputs[output]
                found.append((name, committed.rows or 0, committed.digest))
        return found

    def reviewers(self) -> list[str]:
        if not self.has("decisions"):
            return []
        names = self.dataset("decisions").to_table(columns=["reviewer"]).column("reviewer")
        return sorted(set(names.unique().to_pylist()))
