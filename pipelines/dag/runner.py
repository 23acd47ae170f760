"""Runs a pipeline: each stage once per fingerprint, the manifest last, people awaited as data."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from fulcrum.version import __version__
from pipelines.dag.artifacts import Committed, Manifest, read_manifest, write_manifest
from pipelines.dag.context import Clock, StageContext
from pipelines.dag.engine import Engine
from pipelines.dag.fingerprint import Preimage, preimage, recipe
from pipelines.dag.graph import Node, Pipeline
from pipelines.dag.logs import EventLog
from pipelines.dag.room import Room
from pipelines.dag.runs import Heartbeat, NodeRecord, RunRecord, config_path, gather_ledger, new_run_id, now, run_key
from pipelines.dag.side_by_side import SideBySide
from pipelines.dag.state import State, exit_code
from pipelines.dag.store import Store, StoreError
from stages.contract import Params, Resources, RetryableError, StageError, Waiting, World
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
    log: EventLog | None = None
    config: Mapping[str, object] | None = None
    """The resolved configuration, without secrets, kept beside the run's record."""
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By node, the labels of the machines on which its workers may run."""
    submission: str | None = None
    """Id of the Ray job that this process is, if it is one."""


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
        nodes=[NodeRecord(n.name, after=sorted({o.node for o in n.inputs.values()}), gate=n.stage.gate) for n in order],
        host=socket.gethostname(),
        pid=os.getpid(),
        code=job.code,
        submission=job.submission,
    )
    try:
        record.save(job.store)
        if job.config is not None:
            job.store.put_json(config_path(record.run_id), job.config)
    except OSError as error:
        raise _machine(error) or error from error
    reporter.run_started(record)
    manifests: dict[str, Manifest] = {}
    try:
        with Heartbeat(job.store, run_key(record.run_id), record.run_id).beating():
            _Schedule(job, record, manifests, reporter).run(order)
            _close(job, record, manifests)
    except KeyboardInterrupt:
        for entry in record.nodes:
            if entry.state in ("RUNNING", "PENDING"):
                entry.message = "interrupted" if entry.state == "RUNNING" else None
                entry.state = State.FAILED if entry.state == "RUNNING" else State.BLOCKED
        record.state = "interrupted"
        with contextlib.suppress(OSError):  # a store that is away does not turn an interruption into a traceback
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


class _Schedule:
    """Which node runs when: each as soon as all it reads from has ended, side by side as far as there is room.

    The record, the reporter and ``on_commit`` are used by the main thread alone. A node that has the process to itself runs in
    the main thread too, where Ctrl-C reaches it; only what runs beside others runs in threads.
    """

    def __init__(self, job: Job, record: RunRecord, manifests: dict[str, Manifest], reporter: Reporter) -> None:
        self.job, self.record, self.manifests, self.reporter = job, record, manifests, reporter
        self.room = Room(job.engine.capacity())
        self.beside = SideBySide()
        self.images: dict[str, Preimage] = {}
        self.told: set[str] = set()
        self.clocks: dict[str, Clock] = {}

    def run(self, order: Sequence[Node]) -> None:
        todo = list(order)
        by_name = {node.name: node for node in order}
        try:
            while todo or self.beside:
                ready = [node for node in todo if self._ready(node, todo)]
                startable = [node for node in ready if self._open(node)]
                ended = [node for node in ready if self._has_ended(node)]
                started = [node for node in startable if self.room.admit(node.name, _needs(self.job, node))]
                todo = [node for node in todo if node not in ended and node not in started]
                if len(started) == 1 and not self.beside:
                    [node] = started
                    self._begin(node)
                    self._end(node, self._work(node))
                    continue
                for node in started:
                    self._begin(node)
                    self.beside.start(node.name, partial(self._work, node))
                if ended or started:
                    continue
                awaits = len(ready) > len(startable)  # what another run makes is looked for again
                if self.beside:
                    came = self.beside.next(self.job.wait_s if awaits else None)
                    if came:
                        self._end(by_name[came[0]], came[1])
                else:
                    time.sleep(self.job.wait_s)
        except BaseException:
            self.beside.stop()
            raise

    def _ready(self, node: Node, todo: Sequence[Node]) -> bool:
        unfinished = {n.name for n in todo} | self.clocks.keys()
        return not any(source.node in unfinished for source in node.inputs.values())

    def _has_ended(self, node: Node) -> bool:
        return self.record.node(node.name).state not in ("PENDING", "RUNNING")

    def _open(self, node: Node) -> bool:
        """Whether the node is to be started now. It ends here when it is blocked, cached or cannot be keyed."""
        entry = self.record.node(node.name)
        blocking = sorted({o.node for o in node.inputs.values() if o.node not in self.manifests})
        if blocking:
            entry.state, entry.message = State.BLOCKED, f"waits for {', '.join(blocking)}"
            self.reporter.node_ended(entry)
            return False
        clock = Clock()
        try:
            if node.name not in self.images:
                self.images[node.name] = self._image(node)
            image = self.images[node.name]
            entry.fingerprint = image.fingerprint
            manifest = self._committed(node, image.fingerprint)
            if manifest:
                # Said, then looked for again: whoever clears up deletes manifests first and then looks who uses them.
                self.record.save(self.job.store)
                manifest = self._committed(node, image.fingerprint)
            if manifest:
                self._settle(node, manifest, State.CACHED, clock)
                return False
            owner = Heartbeat(self.job.store, image.fingerprint, self.record.run_id).owner()
        except Exception as error:
            self._fail(node, error, clock)
            return False
        if owner and node.name not in self.told:
            self.told.add(node.name)
            self.reporter.note(
                f"{node.name} is being worked on by run {owner['run_id']} on {owner['host']} (pid {owner['pid']}); waiting for it"
            )
        return owner is None

    def _committed(self, node: Node, fingerprint: str) -> Manifest | None:
        manifest = read_manifest(self.job.store, node.name, fingerprint)
        return None if manifest and self.job.retry_failed and manifest.counts.get("failed") else manifest

    def _image(self, node: Node) -> Preimage:
        made = recipe(node, self.job.params[node.name], self.job.world, self.job.seed)
        inputs = {key: output.digest for key, output in _inputs(self.job.pipeline, node, self.manifests).items()}
        return preimage(node, made, inputs)

    def _begin(self, node: Node) -> None:
        entry = self.record.node(node.name)
        entry.state, entry.started = "RUNNING", now()
        self.clocks[node.name] = Clock()
        self.record.save(self.job.store)
        self.reporter.node_started(entry)

    def _work(self, node: Node) -> Manifest | Waiting | Exception:
        """In whatever thread: the stage, with its heartbeat."""
        try:
            with Heartbeat(self.job.store, self.images[node.name].fingerprint, self.record.run_id).beating():
                return _attempts(
                    self.job, node, self.images[node.name], self.record, self.manifests, self.reporter, self.room
                )
        except Exception as error:
            return error

    def _end(self, node: Node, came: Manifest | Waiting | BaseException) -> None:
        clock = self.clocks.pop(node.name)
        self.room.leave(node.name)
        if isinstance(came, Exception):
            self._fail(node, came, clock)
        elif isinstance(came, BaseException):
            raise came
        else:
            try:
                self._settle(node, came, State.SUCCEEDED, clock)
            except Exception as error:
                self._fail(node, error, clock)

    def _settle(self, node: Node, came: Manifest | Waiting, state: State, clock: Clock) -> None:
        entry = self.record.node(node.name)
        entry.seconds = round(clock.seconds, 3)
        if isinstance(came, Waiting):
            entry.state, entry.message, entry.page = State.WAITING_HUMAN, came.message, came.page
        else:
            self.manifests[node.name] = came
            entry.state = state
            entry.outputs = {name: self.job.store.uri_of(came.outputs[own].path) for name, own in node.outputs.items()}
            entry.counts = dict(came.counts)
            if self.job.on_commit:
                self.job.on_commit(self.record, came, state is State.CACHED)
        self.record.save(self.job.store)
        self.reporter.node_ended(entry)

    def _fail(self, node: Node, error: Exception, clock: Clock) -> None:
        told = _machine(error) or (
            error if isinstance(error, StageError) else _unexpected(self.job, self.record, node, error)
        )
        entry = self.record.node(node.name)
        entry.state, entry.message, entry.seconds = State.FAILED, str(told), round(clock.seconds, 3)
        self.reporter.node_ended(entry)
        if isinstance(told, MachineFailure):
            raise told
        self.record.save(self.job.store)


def _needs(job: Job, node: Node) -> Resources:
    declared = node.stage.resources
    return declared if isinstance(declared, Resources) else declared(job.params[node.name])


def _inputs(pipeline: Pipeline, node: Node, manifests: Mapping[str, Manifest]) -> dict[str, Committed]:
    found = {}
    for key, output in node.inputs.items():
        source, name = pipeline.source(output)
        found[key] = manifests[source].outputs[name]
    return found


def _sources(pipeline: Pipeline, node: Node, manifests: Mapping[str, Manifest]) -> dict[str, list[str]]:
    wired = {key: pipeline.source(output) for key, output in node.inputs.items()}
    return {key: [source, manifests[source].fingerprint, name] for key, (source, name) in wired.items()}


def _attempts(
    job: Job,
    node: Node,
    image: Preimage,
    record: RunRecord,
    manifests: Mapping[str, Manifest],
    reporter: Reporter,
    room: Room,
) -> Manifest | Waiting:
    attempt = 0
    while True:
        attempt += 1
        try:
            return _attempt(job, node, image, record, manifests, attempt, room)
        except RETRYABLE as error:
            if attempt > node.stage.retries:
                raise StageError(
                    f"{_first_line(error)} (tried {attempt} times). Run again when the cause is gone."
                ) from error
            pause = min(2.0**attempt, 30.0)
            reporter.note(f"{node.name}: {_first_line(error)}; trying again in {pause:.0f} s")
            time.sleep(pause)


def _attempt(
    job: Job,
    node: Node,
    image: Preimage,
    record: RunRecord,
    manifests: Mapping[str, Manifest],
    attempt: int,
    room: Room,
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
        room=room,
        local=job.local,
        retry_failed=job.retry_failed,
        quiet=job.quiet,
        on_event=lambda kind, fields: job.on_event(kind, {"run_id": record.run_id, "stage": node.name, **fields}),
        on_progress=job.on_progress,
        log=job.log.bind(run_id=record.run_id, stage=node.name) if job.log else None,
        labels=job.labels.get(node.name),
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
