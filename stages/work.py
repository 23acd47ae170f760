"""Work on independent items in a pool: what is committed is not done again, and a failure costs one item.

Each finished item is committed to the store's records by the worker that did it, so a stage that is killed goes on where
it was, and a later run with one more item does one more item. A failed item is reported and tried again next time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from stages.contract import Context, Group, Shards
from stages.machine import machine_failure

RECORD_KEY = "record_key"

Made = TypeVar("Made")


@dataclass(frozen=True)
class Item:
    """One piece of work. ``key`` digests everything of the item that decides the result; parameters are in the recipe."""

    key: str
    record_id: str
    payload: Any


@dataclass(frozen=True)
class Outcome:
    """What became of an item in this run."""

    key: str
    record_id: str
    seconds: float
    error_type: str | None = None
    error_message: str | None = None


@dataclass
class Work:
    """All items after a run: which are committed, and what failed now."""

    group: Group
    keys: dict[str, str]  # record_id -> key, for every item
    failed: dict[str, Outcome] = field(default_factory=dict)  # by record_id
    seconds: dict[str, float] = field(default_factory=dict)  # by record_id, of this run
    reused: int = 0

    def rows(self, ctx: Context, record_ids: Sequence[str], chunk: int = 64) -> Iterator[dict[str, Any]]:
        """Committed rows in the order asked for, a few at a time; each has ``record_id`` beside its columns."""
        for start in range(0, len(record_ids), chunk):
            ids = record_ids[start : start + chunk]
            table = ctx.records.read(self.group, sorted({self.keys[i] for i in ids}))
            by_key = {row[RECORD_KEY]: row for row in table.to_pylist()}
            for record_id in ids:
                yield {"record_id": record_id, **by_key[self.keys[record_id]]}


def content_key(*parts: object) -> str:
    """A key from strings, numbers and bytes, in order; parts cannot run together."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(f"{type(part).__name__}:{len(raw)}:".encode())
        digest.update(raw)
    return digest.hexdigest()


def attempt(item: Item, work: Callable[[Any], Made]) -> tuple[Outcome, Made | None]:
    """Do ``work(item.payload)``: how it ended, and what it made, None where it failed. Raises only for the machine's failures."""
    started = time.monotonic()
    made = error_type = message = None
    try:
        made = work(item.payload)
    except Exception as error:
        stop = machine_failure(error, f"while working on {item.record_id}")
        if stop is not None:
            raise stop from error
        error_type, message = type(error).__name__, str(error) or type(error).__name__
    return Outcome(item.key, item.record_id, time.monotonic() - started, error_type, message), made


class ItemWorker:
    """Runs ``make(**init)`` on items and commits their rows; what a pool of workers is made of."""

    def __init__(
        self,
        make: Callable[..., Callable[[Any], Mapping[str, Any]]],
        init: Mapping[str, Any],
        shards: Shards,
        group: str,
    ) -> None:
        self.work = make(**init)
        self.shards, self.group = shards, group

    def __call__(self, batch: Sequence[Item]) -> list[Outcome]:
        outcomes, rows = [], []
        for item in batch:
            outcome, row = attempt(item, lambda payload: dict(self.work(payload)))
            outcomes.append(outcome)
            if row is not None:
                rows.append({RECORD_KEY: item.key, **row})
        if rows:
            table = pa.Table.from_pylist(rows, schema=_schema(rows[0]))
            self.shards.commit({self.group: table}, [row[RECORD_KEY] for row in rows])
        return outcomes


def _schema(row: Mapping[str, Any]) -> pa.Schema:
    kinds: dict[type, pa.DataType] = {bytes: pa.large_binary(), str: pa.string(), int: pa.int64(), float: pa.float64()}
    return pa.schema([(name, kinds[type(value)]) for name, value in row.items()])


def run_items(
    ctx: Context,
    *,
    group: Group,
    items: Sequence[Item],
    make: Callable[..., Callable[[Any], Mapping[str, Any]]],
    init: Mapping[str, Any],
    unit: str,
    batch: int = 4,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Work:
    """Do every item that the records do not hold yet.

    ``make(**init)`` gives a function from a payload to a row of bytes, strings and numbers, the same columns for every
    item; it must be importable by name, for it travels to the workers.
    """
    work = Work(group, {item.record_id: item.key for item in items})
    done = ctx.records.done(group)
    open_keys: set[str] = set()
    todo = []
    for item in items:
        if item.key not in done and item.key not in open_keys:
            todo.append(item)
            open_keys.add(item.key)
    work.reused = len(items) - len(todo)
    batches = [todo[i : i + batch] for i in range(0, len(todo), batch)]
    worker = {"make": make, "init": dict(init), "shards": ctx.records.shards([group]), "group": group.name}
    broken: dict[str, Outcome] = {}
    with ctx.progress(len(todo), unit) as bar:
        for outcomes in ctx.map(ItemWorker, batches, init=worker, cpus=cpus, gpus=gpus):
            for outcome in outcomes:
                work.seconds[outcome.record_id] = outcome.seconds
                if outcome.error_type is not None:
                    broken[outcome.key] = outcome
            bar.advance(len(outcomes), failed=sum(o.error_type is not None for o in outcomes))
    work.failed = {i.record_id: broken[i.key] for i in items if i.key in broken}
    return work
