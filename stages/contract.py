"""What a stage is, and all it may ask of the machinery that runs it.

A stage is a typed function. It names its input and output artifacts, the pydantic model of its parameters, the
resources it needs and an explicit version; the DAG layer does the rest (wiring checks, fingerprints, commit, resume).
Importing a stage module must import neither torch nor ray: heavy imports belong inside the function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from data_schemas.schema import TableSchema

if TYPE_CHECKING:
    import pyarrow.dataset as pads


class Params(BaseModel):
    """Base of every stage's parameters: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class StageError(Exception):
    """A failure that a user can act on: the message says what happened, to which input, and what to do next."""


class NotEnoughRows(StageError):
    """A stage needs more rows than it was given; the pipeline stops here, by name."""

    def __init__(self, what: str, needs: int, has: int, remedy: str) -> None:
        super().__init__(f"needs {needs} {what}, has {has}. {remedy}")


class RetryableError(Exception):
    """A failure of the machine that may pass (a timed-out endpoint, a lost worker); the runner tries again."""


@dataclass(frozen=True)
class Table:
    """An artifact that is a folder of Parquet files with one schema."""

    schema: TableSchema

    def accepts(self, other: Table | Files) -> bool:
        return isinstance(other, Table) and other.schema.name == self.schema.name


@dataclass(frozen=True)
class Files:
    """An artifact that is a folder of files of one kind (an adapter, a report, latent shards)."""

    kind: str

    def accepts(self, other: Table | Files) -> bool:
        return isinstance(other, Files) and other.kind == self.kind


Artifact = Table | Files


@dataclass(frozen=True)
class Resources:
    """What must be free before the stage starts beside others; its driver takes no CPU. A pool takes more where more is free."""

    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Waiting:
    """What a gate returns while people still have to answer. It commits nothing; ``run`` asks again."""

    page: str
    remaining: int
    message: str


@dataclass(frozen=True)
class Stage:
    """One kind of node.

    ``resources`` may be a function of the parameters.
    ``optional`` names inputs that a pipeline may leave unwired. ``models`` maps the parameters to the digests of every
    model the stage loads; ``world`` digests whatever the stage reads from outside the store (a source listing, the
    answers of a campaign). Both are called at plan time, must be cheap and must not import torch or ray.
    """

    name: str
    version: str
    run: Callable[[Context, Any], Waiting | None]
    params: type[Params]
    inputs: Mapping[str, Artifact]
    outputs: Mapping[str, Artifact]
    optional: frozenset[str] = frozenset()
    resources: Resources | Callable[[Any], Resources] = field(default_factory=Resources)
    gate: bool = False
    models: Callable[[Any], Mapping[str, str]] | None = None
    world: Callable[[Any, World], Mapping[str, str]] | None = None
    retries: int = 1
    needs_ray: bool = False
    doc: str = ""


@dataclass(frozen=True)
class World:
    """What lies outside the store, from the run's settings: where sources are and where people answer."""

    source: str | None
    limit: int | None
    review_database: str
    review_page: str
    command: str = "fulcrum run"
    """What to type to go on, for the page that people see when they have answered everything."""
    taken_down: frozenset[str] = frozenset()
    """Videos (by video_id) that nobody may use any more, wherever their files still lie."""
    records: Callable[[str], Records] | None = None
    """Committed records by stage, for what a stage's output depends on of its own past; None before there is a store."""


def stage(
    *,
    name: str,
    version: str,
    params: type[Params],
    outputs: Mapping[str, Artifact],
    inputs: Mapping[str, Artifact] | None = None,
    optional: Iterable[str] = (),
    resources: Resources | Callable[[Any], Resources] | None = None,
    gate: bool = False,
    models: Callable[[Any], Mapping[str, str]] | None = None,
    world: Callable[[Any, World], Mapping[str, str]] | None = None,
    retries: int = 1,
    needs_ray: bool = False,
) -> Callable[[Callable[[Context, Any], Waiting | None]], Stage]:
    """Make a stage of a function ``(context, params) -> None``, or ``-> Waiting | None`` for a gate."""

    def wrap(run: Callable[[Context, Any], Waiting | None]) -> Stage:
        return Stage(
            name=name,
            version=version,
            run=run,
            params=params,
            inputs=dict(inputs or {}),
            outputs=dict(outputs),
            optional=frozenset(optional),
            resources=resources or Resources(),
            gate=gate,
            models=models,
            world=world,
            retries=retries,
            needs_ray=needs_ray,
            doc=(run.__doc__ or "").strip(),
        )

    return wrap


class Progress(Protocol):
    """A bar with rate and remaining time; outside a terminal, a line every few seconds, or events for machines.

    ``footage_s`` are seconds of footage that were worked through, ``weight`` the part of the step's whole weight.
    """

    def advance(self, n: int = 1, failed: int = 0, *, footage_s: float = 0.0, weight: float = 0.0) -> None: ...

    def __enter__(self) -> Progress: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True)
class Group:
    """A column group of a record stage: rows that one recipe computes for a record, e.g. one scorer's columns.

    ``recipe`` is the key of the work, from ``Context.recipe``. Rows carry the record's content key in ``record_key``.
    """

    name: str
    recipe: str


class Shards(Protocol):
    """Commits finished records from any process, whole or not at all. Picklable: it travels to workers."""

    def commit(self, rows: Mapping[str, pa.Table], keys: Sequence[str]) -> None:
        """Commit one shard: for each group its rows, and the record keys that are now done in exactly the given groups.

        A key without rows is done too (a video with no shots, a failed file whose failure is a row of its own group).
        """
        ...


class Keys(Protocol):
    """A set of record keys that may be millions: asked for one at a time, or for a whole column at once."""

    array: pa.StringArray

    def __contains__(self, key: object) -> bool: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...

    def mask(self, keys: pa.Array | pa.ChunkedArray) -> pa.BooleanArray:
        """For each of ``keys`` whether it is one of these; false for null."""
        ...


class Records(Protocol):
    """The committed work of a record stage, kept across runs and shared by all of them."""

    def done(self, group: Group) -> Keys:
        """Record keys committed under the group's recipe, as of now."""
        ...

    def done_each(self, groups: Sequence[Group]) -> Sequence[Keys]:
        """The same for several groups, by one look at the store."""
        ...

    def shards(self, groups: Sequence[Group]) -> Shards: ...

    def read(self, group: Group, keys: pa.Array | Sequence[str] | None = None) -> pa.Table:
        """The group's rows for these keys, one commit per key even if two runs committed the same key.

        Cheapest for keys that are neighbours in sorted order: walk a large table by ranges of its keys.
        """
        ...

    def as_stored(self, group: Group, keys: pa.StringArray) -> pa.StringArray:
        """Those of the keys that are committed, in the order in which their rows lie: for reading pictures of all records."""
        ...

    def reader(self, group: Group, keys: Sequence[str]) -> RecordReader:
        """A reader of these records that travels to workers."""
        ...


class RecordReader(Protocol):
    """Reads single committed records in any process. Picklable; workers that go through neighbours together read little."""

    def __contains__(self, key: str) -> bool: ...

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The record's row, or None where none was committed."""
        ...


class Context(Protocol):
    """All that a running stage may use."""

    name: str  # the node's name in the pipeline
    run_id: str
    seed: int
    world: World
    fingerprint: str
    store_uri: str

    @property
    def workdir(self) -> Path:
        """A local folder kept across attempts of this very work (same fingerprint): checkpoints, partial samples."""
        ...

    def keep_work(self, step: int, files: Mapping[str, Path]) -> None:
        """Keep these files of the work folder where another machine finds them; a store on this machine's disk needs no copy."""
        ...

    def take_work(self, folder: Path, beyond: int) -> int | None:
        """Replace a local folder by what was kept last, if that is of a step beyond this one; returns its step."""
        ...

    @property
    def scratch(self) -> Path:
        """A local folder that is gone after this attempt."""
        ...

    def has(self, name: str) -> bool:
        """Whether an optional input is wired."""
        ...

    def table(self, name: str) -> pa.Table:
        """An input table in memory; for small tables only."""
        ...

    def dataset(self, name: str) -> pads.Dataset:
        """An input table as a dataset, for streaming and push-down."""
        ...

    def path(self, name: str) -> Path:
        """An input folder of files, on this machine."""
        ...

    def uri(self, name: str) -> str:
        """The absolute URI of an input artifact."""
        ...

    def digest(self, name: str) -> tuple[str, int | None]:
        """Digest of an input as committed (a table's leaves telemetry out), and its rows, None for a folder of files."""
        ...

    def write(self, name: str, table: pa.Table | Iterable[pa.Table]) -> None:
        """Validate and write rows of an output table; may be called many times."""
        ...

    def folder(self, name: str) -> Path:
        """A local folder whose content becomes the output ``name`` on commit."""
        ...

    def final_uri(self, name: str) -> str:
        """The URI under which the content of ``folder(name)`` can be read after commit, for use in table rows."""
        ...

    def ledger(self, rows: pa.Table | Sequence[Mapping[str, object]]) -> None:
        """Say where records ended: accepted, rejected with a reason, failed with an error, or in_review."""
        ...

    def recipe(self, part: str, version: str, params: Mapping[str, Any]) -> str:
        """The key of the work that one column group does."""
        ...

    @property
    def records(self) -> Records: ...

    @property
    def retry_failed(self) -> bool:
        """Whether the user asked for records that failed before to be tried again."""
        ...

    def map(
        self,
        actor: Callable[..., Any],
        batches: Sequence[Any],
        *,
        init: Mapping[str, Any] | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> Iterator[Any]:
        """Run ``actor(**init)(batch)`` for every batch in a pool that fits the machine, yielding results as they come.

        With Ray this is a Ray Data actor pool; without, a loop in this process. Order is not kept. An exception in
        an actor ends the stage: catch per record.
        """
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """Label selectors of the nodes on which this stage's workers may run; empty where any will do."""
        ...

    def watch_nodes(self, workers: int, cpus: float, gpus: float) -> Callable[[], None]:
        """For a stage that starts workers of its own, all at once: what it must call now and then while it waits.

        The call raises ``StageError`` when for too long no nodes could hold so many workers of this size.
        """
        ...

    def progress(self, total: int, unit: str, weight: float = 0.0) -> Progress:
        """Progress over ``total`` items; ``weight`` is their whole work (bytes), by which the time left is then judged."""
        ...

    def event(self, kind: str, **fields: object) -> None:
        """Write one structured line to the run's log, and to a machine that reads along.

        ``record_failed`` with ``record_id``, ``error_type`` and ``error_message`` tells of a failure while the stage runs;
        failures that only the ledger knows are told when the stage is committed.
        """
        ...

    def metric(self, key: str, value: float, step: int = 0) -> None:
        """Record a training or evaluation metric; the run's one writer publishes it after commit."""
        ...
