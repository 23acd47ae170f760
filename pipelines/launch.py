"""Puts a run together: store, engine, tracker, reporter, signals; and ends it with the right exit code."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from fulcrum.version import __version__
from pipelines.config import Config
from pipelines.dag.artifacts import Manifest
from pipelines.dag.engine import Engine, InlineEngine, RayEngine
from pipelines.dag.graph import Pipeline
from pipelines.dag.logs import NAME, EventLog
from pipelines.dag.runner import Job, run
from pipelines.dag.runs import RunRecord
from pipelines.dag.state import EXIT_DONE, EXIT_WAITING, State, exit_code
from pipelines.dag.store import Store
from pipelines.report_run import JsonLines, Logged, Terminal
from pipelines.tracking import Tracker
from stages.training.previews import PREVIEWS
from stages.training.watch import CHECKPOINT

INSIDE_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the entry point of a submitted job


def submission_of(environment: Mapping[str, str]) -> str | None:
    """The id of the Ray job whose entry point this process is."""
    try:
        metadata = json.loads(environment.get(INSIDE_RAY_JOB, "{}"))["metadata"]
        return str(metadata["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return None


def launch(pipeline: Pipeline, config: Config, *, again: str, as_json: bool, retry_failed: bool) -> int:
    """Run a pipeline under a checked configuration; returns the exit code.

    Inside a job of a Ray cluster it works on that cluster, unless the configuration names another.
    """
    pipeline.order()
    settings = config.settings
    store = Store(settings.store)
    local = config.local_beside_store
    local.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(config.tracking_uri, settings.tracking.experiment, store) if settings.tracking.enabled else None
    publisher = _Publisher(tracker) if tracker else None
    serve = f"fulcrum review serve --store {shlex.quote(settings.store)}"
    shown: Terminal | JsonLines = JsonLines() if as_json else Terminal(again, serve)

    log = EventLog(str((local / NAME).absolute()))
    reporter = Logged(shown, log)
    engine: Engine = (
        InlineEngine()
        if settings.engine.kind == "inline"
        else RayEngine(
            settings.engine.address or (os.environ.get("RAY_ADDRESS") if INSIDE_RAY_JOB in os.environ else None),
            settings.engine.num_cpus,
            settings.engine.grows_to,
            settings.engine.wait_for_nodes_s,
            reporter.note,
        )
    )

    def on_commit(record: RunRecord, manifest: Manifest, cached: bool) -> None:
        if tracker and publisher:
            publisher.wait()
            try:
                tracker.publish(record, manifest, cached)
            except Exception as error:  # a tracking server that is away must not cost a training run
                reporter.note(
                    f"MLflow: {manifest.node} was not published ({type(error).__name__}); the next run publishes it"
                )

    def on_event(kind: str, fields: Mapping[str, object]) -> None:
        log.write(kind, fields)
        if publisher and kind == CHECKPOINT:
            publisher.checkpoint(pipeline.name, job.code, fields)
        if publisher and kind == PREVIEWS:
            publisher.previews(fields)
        shown.event(kind, fields)

    job = Job(
        pipeline=pipeline,
        store=store,
        params=config.params,
        world=config.world(again),
        seed=settings.seed,
        engine=engine,
        local=local,
        code=code_revision(),
        retry_failed=retry_failed,
        quiet=as_json,
        on_commit=on_commit,
        on_event=on_event,
        on_progress=shown.progress if isinstance(shown, JsonLines) else None,
        log=log,
        config=config.shown(),
        labels=settings.engine.labels,
        submission=submission_of(os.environ),
    )
    with _terminated_as_interrupt():
        try:
            record = run(job, reporter)
        except KeyboardInterrupt:
            if tracker and publisher:
                publisher.wait()
                with contextlib.suppress(Exception):
                    tracker.interrupted()
            raise
        if tracker and publisher:
            publisher.wait()
            with contextlib.suppress(Exception):
                tracker.close(record)
                record.save(store)
    code = exit_code([State(n.state) for n in record.nodes])
    # Ray calls every code but 0 a failed job; that it waits for people is in the store.
    return EXIT_DONE if code == EXIT_WAITING and INSIDE_RAY_JOB in os.environ else code


class _Publisher:
    """Publishes checkpoints beside the run: neither training nor its progress bar waits for a tracking server."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self.last: Future[None] | None = None

    def checkpoint(self, pipeline: str, code: str, fields: Mapping[str, object]) -> None:
        """Unless the one before is still under way: the next one, or the commit, publishes what this one would have."""
        if self.last is None or self.last.done():
            self.last = self.pool.submit(self.tracker.checkpoint, pipeline, code, dict(fields))

    def previews(self, fields: Mapping[str, object]) -> None:
        self.last = self.pool.submit(self.tracker.previews, dict(fields))

    def wait(self) -> None:
        """Until what is under way is done, whether it worked or not."""
        if self.last is not None:
            self.last.exception()


def code_revision() -> str:
    """Release, and the git revision when this is a checkout."""
    home = Path(__file__).resolve().parent.parent
    if not (home / ".git").exists():
        return f"fulcrum {__version__}"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["git", "-C", str(home), "rev-parse", "--short=12", "HEAD"]
        revision = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(home), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
        return f"fulcrum {__version__} {revision}{' with changes' if changed else ''}"
    return f"fulcrum {__version__}"


@contextlib.contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Let a polite kill (SIGTERM) end a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
