"""What a running stage is given: its inputs, places to write, records, progress; and the commit of what it wrote."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from data_schemas.schema import TableSchema
from data_schemas.tables import LEDGER
from pipelines.dag.artifacts import Committed, open_table
from pipelines.dag.digest import files_digest, table_digest
from pipelines.dag.engine import Engine
from pipelines.dag.fingerprint import record_recipe
from pipelines.dag.kept_work import KeptWork
from pipelines.dag.ledger import LedgerWriter
from pipelines.dag.logs import EventLog
from pipelines.dag.nodes import Worker
from pipelines.dag.progress import Kept, Tally, progress
from pipelines.dag.records import RecordStore
from pipelines.dag.room import Room
from pipelines.dag.runs import now, progress_path
from pipelines.dag.store import Store, sha256_file
from stages.contract import Files, Progress, Resources, Stage, StageError, Table, World

ROWS_PER_FILE = 1_000_000


class StageContext:
    """One attempt at one stage. See ``stages.contract.Context`` for what each method promises."""

    def __init__(
        self,
        *,
        store: Store,
        name: str,
        stage: Stage,
        inputs: Mapping[str, Committed],
        fingerprint: str,
        run_id: str,
        seed: int,
        world: World,
        engine: Engine,
        local: Path,
        room: Room | None = None,
        retry_failed: bool = False,
        quiet: bool = False,
        on_event: Callable[[str, Mapping[str, object]], None] = lambda kind, fields: None,
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
        log: EventLog | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.labels = dict(labels or {})
        self.store, self.name, self.stage = store, name, stage
        self.fingerprint, self.run_id, self.seed, self.world = fingerprint, run_id, seed, world
        self.retry_failed = retry_failed
        self.store_uri = store.uri
        self._inputs, self._engine, self._quiet, self._on_event = inputs, engine, quiet, on_event
        self._on_progress = on_progress
        self._room, self._log = room or Room(None), log
        self._told: set[str] = set()  # records whose failure was told while the stage ran
        self._attempt = f"data/{name}/{fingerprint[:16]}-{uuid.uuid4().hex[:8]}"
        self._local = local
        self._records: RecordStore | None = None
        self._parts: dict[str, int] = {}
        self._folders: dict[str, Path] = {}
        self._ledger = LedgerWriter(store, f"{self._attempt}/ledger.parquet")
        self._metrics: dict[tuple[str, int], float] = {}
        self._scratch: Path | None = None

    # -- inputs ------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return name in self._inputs

    def _input(self, name: str) -> Committed:
        try:
            return self._inputs[name]
        except KeyError:
            raise KeyError(f"stage {self.stage.name} asked for input {name}, which is not wired") from None

    def dataset(self, name: str) -> pads.Dataset:
        artifact = self.stage.inputs[name]
        if not isinstance(artifact, Table):
            raise TypeError(f"input {name} of stage {self.stage.name} is a folder of files, not a table")
        return open_table(self.store, self._input(name).path, artifact.schema)

    def table(self, name: str) -> pa.Table:
        return self.dataset(name).to_table()

    def path(self, name: str) -> Path:
        committed = self._input(name)
        if self.store.is_local:
            return Path(self.store.full(committed.path))
        local = self.scratch / "inputs" / name
        if not local.exists():
            local.mkdir(parents=True)
            self.store.download(committed.path, local)
        return local

    def uri(self, name: str) -> str:
        return self.store.uri_of(self._input(name).path)

    def digest(self, name: str) -> tuple[str, int | None]:
        committed = self._input(name)
        return committed.digest, committed.rows

    # -- places ------------------------------------------------------------------------------------------------

    @property
    def workdir(self) -> Path:
        folder = self._local / "work" / self.fingerprint[:32]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def scratch(self) -> Path:
        if self._scratch is None:
            base = self._local / "scratch"
            base.mkdir(parents=True, exist_ok=True)
            self._scratch = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=base))
        return self._scratch

    def keep_work(self, step: int, files: Mapping[str, Path]) -> None:
        KeptWork(self.store, self.fingerprint).put(step, files)

    def take_work(self, folder: Path, beyond: int) -> int | None:
        return KeptWork(self.store, self.fingerprint).take(folder, beyond)

    # -- outputs -----------------------------------------------------------------------------------------------

    def _schema(self, name: str) -> TableSchema:
        artifact = self.stage.outputs.get(name)
        if not isinstance(artifact, Table):
            raise KeyError(f"stage {self.stage.name} declares no output table {name}")
        return artifact.schema

    def write(self, name: str, table: pa.Table | Iterable[pa.Table]) -> None:
        schema = self._schema(name)
        tables = [table] if isinstance(table, pa.Table) else table
        for part in tables:
            checked = schema.validate(part)
            for start in range(0, max(checked.num_rows, 1), ROWS_PER_FILE):
                self._put_part(name, checked.slice(start, ROWS_PER_FILE))

    def _put_part(self, name: str, table: pa.Table) -> None:
        number = self._parts.get(name, 0)
        if table.num_rows == 0 and number:
            return
        self._parts[name] = number + 1
        # Small row groups where rows are pictures, so that a worker that needs a few does not read gigabytes.
        pictures = any(pa.types.is_large_binary(f.type) for f in table.schema)
        with self.store.writer(f"{self._attempt}/{name}/part-{number:05d}.parquet") as file:
            pq.write_table(table, file, compression="zstd", row_group_size=512 if pictures else 65536)

    def folder(self, name: str) -> Path:
        if not isinstance(self.stage.outputs.get(name), Files):
            raise KeyError(f"stage {self.stage.name} declares no output folder {name}")
        if name not in self._folders:
            target = (
                Path(self.store.full(f"{self._attempt}/{name}")) if self.store.is_local else self.scratch / "out" / name
            )
            target.mkdir(parents=True, exist_ok=True)
            self._folders[name] = target
        return self._folders[name]

    def final_uri(self, name: str) -> str:
        return self.store.uri_of(f"{self._attempt}/{name}")

    def ledger(self, rows: pa.Table | Sequence[Mapping[str, object]]) -> None:
        if isinstance(rows, pa.Table):
            table = LEDGER.complete(rows)
        else:
            table = LEDGER.table([{"stage": self.name, "attempts": 1, **row} for row in rows])
        self._ledger.add(table)

    # -- work --------------------------------------------------------------------------------------------------

    def recipe(self, part: str, version: str, params: Mapping[str, Any]) -> str:
        return record_recipe(self.stage.name, part, version, params)

    @property
    def records(self) -> RecordStore:
        if self._records is None:
            self._records = RecordStore(self.store, self.stage.name, log=self._log)
        return self._records

    def map(
        self,
        actor: Callable[..., Any],
        batches: Sequence[Any],
        *,
        init: Mapping[str, Any] | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> Iterator[Any]:
        worker = Worker(cpus, gpus, self.labels)
        size = self._engine.pool_size(len(batches), worker, self._room.share(self.name)) if batches else 0
        with self._room.pool(self.name, Resources(size * cpus, size * gpus)):
            yield from self._engine.map(actor, batches, init or {}, worker, size)

    def watch_nodes(self, workers: int, cpus: float, gpus: float) -> Callable[[], None]:
        return self._engine.watch(Worker(cpus, gpus, self.labels), workers)

    def progress(self, total: int, unit: str, weight: float = 0.0) -> Progress:
        shown = progress(self.name, total, unit, self._quiet, weight, self._on_progress)
        return Kept(shown, Tally(self.name, total, unit, weight), self._keep_progress)

    def _keep_progress(self, fields: Mapping[str, Any]) -> None:
        """For whoever watches from elsewhere: the status page reads it from the store."""
        try:
            self.store.put_json(progress_path(self.run_id, self.name), {**fields, "at": now()})
        except OSError:
            pass  # what fails the store fails the stage, with its own message

    def event(self, kind: str, **fields: object) -> None:
        if kind == "record_failed":
            self._told.add(str(fields["record_id"]))
        self._on_event(kind, fields)

    def tell_failures(self) -> None:
        """Events for the failed rows of the ledger that were not told yet."""
        for row in self._ledger.failed():
            if row["record_id"] not in self._told:
                self.event("record_failed", **row)

    def metric(self, key: str, value: float, step: int = 0) -> None:
        self._metrics[(key, step)] = float(value)

    # -- commit ------------------------------------------------------------------------------------------------

    def finish(self) -> tuple[dict[str, Committed], str | None, str | None, dict[str, int]]:
        """Digest and settle all outputs; returns them with the paths of ledger and metrics and the ledger's counts."""
        outputs = {}
        for name, artifact in self.stage.outputs.items():
            outputs[name] = (
                self._finish_table(name, artifact.schema) if isinstance(artifact, Table) else self._finish_files(name)
            )
        ledger, counts = self._ledger.close()
        metrics = None
        if self._metrics:
            metrics = f"{self._attempt}/metrics.jsonl"
            lines = [json.dumps({"key": k, "step": s, "value": v}) for (k, s), v in sorted(self._metrics.items())]
            self.store.put(metrics, ("\n".join(lines) + "\n").encode())
        return outputs, ledger, metrics, counts

    def _finish_table(self, name: str, schema: TableSchema) -> Committed:
        if name not in self._parts:
            self.write(name, schema.empty())
        path = f"{self._attempt}/{name}"
        table = open_table(self.store, path, schema)
        check_keys(table, schema, self.name)
        size = sum(size for _, size in self.store.files(path))
        return Committed("table", path, table_digest(table, schema), table.count_rows(), size)

    def _finish_files(self, name: str) -> Committed:
        local = self.folder(name)
        path = f"{self._attempt}/{name}"
        files = sorted(p for p in local.rglob("*") if p.is_file())
        digest = files_digest((p.relative_to(local).as_posix(), sha256_file(p)) for p in files)
        size = sum(p.stat().st_size for p in files)
        if not self.store.is_local:
            self.store.upload(local, path)
        return Committed("files", path, digest, None, size)

    def discard(self) -> None:
        """Forget an attempt that was not committed. A crash leaves its files to ``gc``; they name nobody's output."""
        self._ledger.discard()
        self.store.delete(self._attempt)
        self.clean_scratch()

    def clean_scratch(self) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def clean_work(self) -> None:
        shutil.rmtree(self._local / "work" / self.fingerprint[:32], ignore_errors=True)
        KeptWork(self.store, self.fingerprint).forget()


def check_keys(table: pads.Dataset, schema: TableSchema, node: str) -> None:
    """A key that names two rows is a defect of the stage, and would make every later join lie.

    Eight bytes a row are held: 64-bit hashes of the keys, sorted. Only keys whose hashes meet are compared themselves.
    """
    import duckdb

    if not schema.key:
        return
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in schema.key)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET preserve_insertion_order = false")
        connection.register("rows", table.scanner(columns=list(schema.key)).to_reader())
        hashes = connection.sql(f"SELECT hash({columns}) AS h FROM rows").fetchnumpy()["h"]
        hashes.sort()
        meeting = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        if not len(meeting):
            return
        connection.register("again", table.scanner(columns=list(schema.key)).to_reader())
        connection.register("meeting", pa.table({"h": meeting}))
        found = connection.execute(
            f"SELECT count(*), count(DISTINCT ({columns})) FROM again WHERE hash({columns}) IN (SELECT h FROM meeting)"
        ).fetchall()
    rows, distinct = found[0]
    if rows != distinct:
        raise StageError(
            f"{node} wrote {rows - distinct} rows of table {schema.name} whose key ({', '.join(schema.key)}) is not "
            "unique. This is a defect in the stage; nothing was committed."
        )


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started
