"""Runs a pipeline: each stage once per fingerprint, the manifest last, people awaited as data."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fulcrum.version import __version__
from pipelines.dag.artifacts import Committed, Manifest, read_manifest, write_manifest
from pipelines.dag.context import Clock, StageContext
from pipelines.dag.engine import Engine
from pipelines.dag.fingerprint import Preimage, preimage, recipe
from pipelines.dag.graph import Node, Pipeline
from pipelines.dag.runs import Heartbeat, NodeRecord, RunRecord, gather_ledger, new_run_id, now
from pipelines.dag.state import State, exit_code
from pipelines.dag.store import Store, StoreError
from stages.contract import Params, RetryableError, StageError, Waiting, World
from stages.machine import MachineFailure, machine_failure

RETRYABLE = (RetryableError, ConnectionError, TimeoutError)


class Reporter(Protocol):
    """Where a run says what happens: a terminal, JSON lines, or nowhere."""

    def run_started(self, run: RunRecord) -> None: ...

    def node_started(self, node: NodeRecord) -> None: ...

    def node_ended(self, node: NodeRecord) -> None: ...

    def note(self, text: str) -> None: ...

    def run_ended(self, run: RunRecord) -> None: ...


@dataclass(frozen=True)
class Job:
    """A pipeline with everything it needs to run."""

    pipeline: Pipeline
    store: Store
    params: Mapping[str, Params]
    world: World
    seed: int
    engine: Engine
    local: Path
    code: str = f"fulcrum {__version__}"
    retry_failed: bool = False
    quiet: bool = False
    wait_s: float = 2.0
    on_commit: Callable[[RunRecord, Manifest, bool], None] | None = None
    on_event: Callable[[str, Mapping[str, object]], None] = field(default=lambda kind, fields: None)
    on_progress: Callable[[Mapping[str, object]], None] | None = None


def run(job: Job, reporter: Reporter) -> RunRecord:
    """Run every node that is not committed. Returns the record of the run; never raises for a stage's failure."""
    import os
    import socket

    order = job.pipeline.order()
    record = RunRecord(
        pipeline=job.pipeline.name,
        run_id=new_run_id(),
        started=now(),
        state="running",
        nodes=[NodeRecord(n.name) for n in order],
        host=socket.gethostname(),
        pid=os.getpid(),
        code=job.code,
    )
    try:
        record.save(job.store)
    except OSError as error:
        raise _machine(error) or error from error
    reporter.run_started(record)
    manifests: dict[str, Manifest] = {}
    try:
        for node in order:
            _run_node(job, node, record, manifests, reporter)
        _close(job, record, manifests)
    except KeyboardInterrupt:
        for entry in record.nodes:
            if entry.state in ("RUNNING", "PENDING"):
                entry.message = "interrupted" if entry.state == "RUNNING" else None
                entry.state = State.FAILED if entry.state == "RUNNING" else State.BLOCKED
        record.state = "interrupted"
        record.ledger = gather_ledger(job.store, {n: m.ledger for n, m in manifests.items() if m.ledger})
        record.save(job.store)
        raise
    except (MachineFailure, OSError) as error:
        if not isinstance(error, MachineFailure):  # not a stage's: the store does not even take the run's own record
            reporter.note(str(_machine(error) or error))
        for entry in record.nodes:
            if entry.state in ("RUNNING", "PENDING"):
                entry.state = State.FAILED if entry.state == "RUNNING" else State.BLOCKED
        record.state = "failed"
        try:
            record.save(job.store)
        except OSError:
            pass  # the store is what failed; the message has been shown
    reporter.run_ended(record)
    return record


def _close(job: Job, record: RunRecord, manifests: Mapping[str, Manifest]) -> None:
    states = [State(n.state) for n in record.nodes]
    record.state = {0: "done", 75: "waiting"}.get(exit_code(states), "failed")
    record.ledger = gather_ledger(job.store, {name: m.ledger for name, m in manifests.items() if m.ledger})
    record.save(job.store)


def _run_node(job: Job, node: Node, record: RunRecord, manifests: dict[str, Manifest], reporter: Reporter) -> None:
    entry = record.node(node.name)
    blocking = sorted({o.node for o in node.inputs.values() if o.node not in manifests})
    if blocking:
        entry.state = State.BLOCKED
        entry.message = f"waits for {', '.join(blocking)}"
        reporter.node_ended(entry)
        return
    clock = Clock()
    try:
        made = recipe(node, job.params[node.name], job.world, job.seed)
        inputs = {key: output.digest for key, output in _inputs(job.pipeline, node, manifests).items()}
        image = preimage(node, made, inputs)
        entry.fingerprint = image.fingerprint
        manifest, state = _settle(job, node, image, record, entry, manifests, reporter)
    except Exception as error:
        told = _machine(error) or (error if isinstance(error, StageError) else _unexpected(job, record, node, error))
        _fail(job, record, entry, told, clock, reporter)
        return
    entry.seconds = round(clock.seconds, 3)
    if isinstance(manifest, Waiting):
        entry.state, entry.message, entry.page = State.WAITING_HUMAN, manifest.message, manifest.page
    else:
        manifests[node.name] = manifest
        entry.state = state
        entry.outputs = {name: job.store.uri_of(manifest.outputs[own].path) for name, own in node.outputs.items()}
        entry.counts = dict(manifest.counts)
        if job.on_commit:
            job.on_commit(record, manifest, state is State.CACHED)
    record.save(job.store)
    reporter.node_ended(entry)


def _inputs(pipeline: Pipeline, node: Node, manifests: Mapping[str, Manifest]) -> dict[str, Committed]:
    found = {}
    for key, output in node.inputs.items():
        source, name = pipeline.source(output)
        found[key] = manifests[source].outputs[name]
    return found


def _sources(pipeline: Pipeline, node: Node, manifests: Mapping[str, Manifest]) -> dict[str, list[str]]:
    wired = {key: pipeline.source(output) for key, output in node.inputs.items()}
    return {key: [source, manifests[source].fingerprint, name] for key, (source, name) in wired.items()}


def _settle(
    job: Job,
    node: Node,
    image: Preimage,
    record: RunRecord,
    entry: NodeRecord,
    manifests: Mapping[str, Manifest],
    reporter: Reporter,
) -> tuple[Manifest | Waiting, State]:
    """The node's manifest: found, awaited from another run, or made."""
    beat = Heartbeat(job.store, image.fingerprint, record.run_id)
    told = False
    while True:
        manifest = read_manifest(job.store, node.name, image.fingerprint)
        if manifest and not (job.retry_failed and manifest.counts.get("failed")):
            return manifest, State.CACHED
        owner = beat.owner()
        if owner is None:
            break
        if not told:
            reporter.note(
                f"{node.name} is being worked on by run {owner['run_id']} on {owner['host']} (pid {owner['pid']}); waiting for it"
            )
            told = True
        time.sleep(job.wait_s)
    entry.state = "RUNNING"
    record.save(job.store)
    reporter.node_started(entry)
    with beat.beating():
        return _attempts(job, node, image, record, manifests, reporter)


def _attempts(
    job: Job, node: Node, image: Preimage, record: RunRecord, manifests: Mapping[str, Manifest], reporter: Reporter
) -> tuple[Manifest | Waiting, State]:
    attempt = 0
    while True:
        attempt += 1
        try:
            return _attempt(job, node, image, record, manifests, attempt), State.SUCCEEDED
        except RETRYABLE as error:
            if attempt > node.stage.retries:
                raise StageError(
                    f"{_first_line(error)} (tried {attempt} times). Run again when the cause is gone."
                ) from error
            pause = min(2.0**attempt, 30.0)
            reporter.note(f"{node.name}: {_first_line(error)}; trying again in {pause:.0f} s")
            time.sleep(pause)


def _attempt(
    job: Job, node: Node, image: Preimage, record: RunRecord, manifests: Mapping[str, Manifest], attempt: int
) -> Manifest | Waiting:
    clock, started = Clock(), now()
    context = StageContext(
        store=job.store,
        name=node.name,
        stage=node.stage,
        inputs=_inputs(job.pipeline, node, manifests),
        fingerprint=image.fingerprint,
        run_id=record.run_id,
        seed=job.seed,
        world=job.world,
        engine=job.engine,
        local=job.local,
        retry_failed=job.retry_failed,
        quiet=job.quiet,
        on_event=lambda kind, fields: job.on_event(kind, {"run_id": record.run_id, "stage": node.name, **fields}),
        on_progress=job.on_progress,
    )
    try:
        if node.stage.needs_ray:
            job.engine.start()
        answer = node.stage.run(context, job.params[node.name])
        if isinstance(answer, Waiting):
            context.discard()
            return answer
        outputs, ledger, metrics, counts = context.finish()
    except BaseException:
        try:
            context.discard()
        except OSError:
            pass  # the failure that is already under way says more
        raise
    manifest = Manifest(
        node=node.name,
        stage=node.stage.name,
        fingerprint=image.fingerprint,
        preimage=image.to_json()["key"],
        source=image.source,
        outputs=outputs,
        ledger=ledger,
        metrics=metrics,
        run_id=record.run_id,
        started=started,
        seconds=round(clock.seconds, 3),
        attempts=attempt,
        code=job.code,
        counts=counts,
        sources=_sources(job.pipeline, node, manifests),
    )
    write_manifest(job.store, manifest)
    context.tell_failures()
    context.clean_scratch()
    context.clean_work()
    return manifest


def _fail(job: Job, record: RunRecord, entry: NodeRecord, error: Exception, clock: Clock, reporter: Reporter) -> None:
    entry.state, entry.message, entry.seconds = State.FAILED, str(error), round(clock.seconds, 3)
    reporter.node_ended(entry)
    if isinstance(error, MachineFailure):
        raise error
    record.save(job.store)


def _unexpected(job: Job, record: RunRecord, node: Node, error: Exception) -> StageError:
    """A defect, told in a line; the traceback lies in the store."""
    where = f"runs/{record.run_id}/{node.name}.traceback.txt"
    job.store.put(where, "".join(traceback.format_exception(error)).encode())
    return StageError(
        f"an unexpected {type(error).__name__}: {_first_line(error)}. The full traceback is in {job.store.uri_of(where)}"
    )


def _machine(error: Exception) -> Exception | None:
    """The error as a failure of the machine, if it is one."""
    if isinstance(error, StoreError):
        return MachineFailure(str(error))
    failure = machine_failure(error)
    if failure is not None:
        return failure
    if isinstance(error, OSError):
        what = f" ({error.filename})" if error.filename else ""
        return StageError(
            f"{error.strerror or _first_line(error)}{what}. Check the path and its permissions, then run again."
        )
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
