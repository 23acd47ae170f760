"""Where batches of records are worked on: in this process, or in a Ray Data actor pool. Nothing else calls Ray Data."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipelines.dag.nodes import Node, NodeWatch, Worker, holds, in_all, living_nodes, missing
from stages.contract import Resources, RetryableError, StageError

_STARTING = threading.Lock()  # stages that run side by side may both be the first to need it


def _for_good(start: Callable[[], None]) -> None:
    """Call in a thread that never ends: the kernel kills Ray's processes when the thread that started them is gone, not
    when its process is (PR_SET_PDEATHSIG)."""
    called = threading.Event()
    raised: list[BaseException] = []

    def hold() -> None:
        try:
            start()
        except BaseException as error:
            raised.append(error)
        called.set()
        threading.Event().wait()

    threading.Thread(target=hold, name="ray", daemon=True).start()
    called.wait()
    if raised:
        raise raised[0]


class Engine(Protocol):
    def capacity(self) -> Resources | None:
        """What stages may hold together; None where they run one at a time."""
        ...

    def pool_size(self, batches: int, worker: Worker, at_most: Resources | None) -> int:
        """How many such workers for so many batches; at least one, within ``at_most`` where that has room."""
        ...

    def map(
        self, actor: Callable[..., Any], batches: Sequence[Any], init: Mapping[str, Any], worker: Worker, size: int
    ) -> Iterator[Any]: ...

    def start(self) -> None:
        """Make sure that Ray runs, for stages that use it themselves (training)."""
        ...

    def watch(self, worker: Worker, count: int) -> Callable[[], None]:
        """To be called now and then while a stage waits for so many workers: raises when no nodes can hold them."""
        ...


class InlineEngine:
    """One actor in this process: for tests and for machines without Ray."""

    def capacity(self) -> Resources | None:
        return None

    def pool_size(self, batches: int, worker: Worker, at_most: Resources | None) -> int:
        return 1

    def map(
        self, actor: Callable[..., Any], batches: Sequence[Any], init: Mapping[str, Any], worker: Worker, size: int
    ) -> Iterator[Any]:
        if not batches:
            return
        working = actor(**init)
        try:
            for batch in batches:
                yield working(batch)
        finally:
            close = getattr(working, "close", None)
            if close:
                close()

    def start(self) -> None:
        return

    def watch(self, worker: Worker, count: int) -> Callable[[], None]:
        return lambda: None


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's C++ core announces its own log level on standard error; what goes wrong comes as an exception."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@dataclass
class RayEngine:
    """A Ray Data actor pool that fits what the cluster has, so that it cannot wait for itself.

    With an ``address`` it is a cluster of several nodes: these get our code as a wheel, and may die and come back.
    """

    address: str | None = None
    num_cpus: int | None = None
    grows_to: int | None = None
    wait_for_nodes_s: float = 300.0
    tell: Callable[[str], None] = field(default=lambda text: None)

    def start(self) -> None:
        with _STARTING:
            if threading.current_thread() is threading.main_thread():
                self._start()
            else:
                _for_good(self._start)

    def _start(self) -> None:
        import ray

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ core warns of actors that nobody restarts
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import logging

        from fulcrum.guard import RAY_SETUP_HOOK

        environment: dict[str, Any] = {"worker_process_setup_hook": RAY_SETUP_HOOK}
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address:
            with tempfile.TemporaryDirectory(prefix="fulcrum-wheel-") as folder:
                ray.init(self.address, runtime_env={**environment, **_shipped(Path(folder))}, **settings)
        else:
            with _silent_stderr():
                # "local": not the cluster that whoever last called `ray start` on this machine has left its address of
                ray.init("local", num_cpus=self.num_cpus, include_dashboard=False, runtime_env=environment, **settings)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def capacity(self) -> Resources | None:
        if self.address:
            self.start()
            return in_all(living_nodes())
        # As a local Ray will count them, without starting it for a run in which nothing is to be done.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = len([g for g in visible.split(",") if g]) if visible is not None else len(_nvidia())
        return Resources(float(self.num_cpus or os.cpu_count() or 1), float(gpus))

    def map(
        self, actor: Callable[..., Any], batches: Sequence[Any], init: Mapping[str, Any], worker: Worker, size: int
    ) -> Iterator[Any]:
        if not batches:
            return
        self.start()
        import ray

        rows = [{"batch": pickle.dumps(batch)} for batch in batches]
        # One block per batch: a block is Ray's unit of scheduling, and a batch is ours.
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=(actor, dict(init)),
            batch_size=1,
            # one batch at a time an actor: a batch that waits behind another's two-hour film could run elsewhere
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
            num_cpus=worker.cpus,
            num_gpus=worker.gpus or None,
            label_selector=dict(worker.labels) or None,
        )
        blocks = data.iter_batches(batch_size=1, prefetch_batches=0)
        for block in _watched(blocks, self.watch(worker, 1)) if self.address else blocks:
            for blob in block["result"]:
                result = pickle.loads(blob)
                if isinstance(result, _Raised):
                    raise result.error
                yield result

    def pool_size(self, batches: int, worker: Worker, at_most: Resources | None) -> int:
        self.start()
        nodes = living_nodes()
        fits = min(batches, holds(nodes, worker))
        if fits < 1 and not self.address:
            raise StageError(missing(nodes, worker))
        mine = min(fits, max(1, holds([Node(at_most.cpus, at_most.gpus)], _anywhere(worker)))) if at_most else fits
        return int(max(1, mine, min(batches, self.grows_to or 1)))

    def watch(self, worker: Worker, count: int) -> Callable[[], None]:
        self.start()
        return NodeWatch(worker, self.wait_for_nodes_s if self.address else 0.0, self.tell, count=count).look


def _anywhere(worker: Worker) -> Worker:
    return Worker(worker.cpus, worker.gpus)


def _shipped(folder: Path) -> dict[str, Any]:
    """The part of Ray's runtime environment that brings our code, unless the job that this runs in has brought it."""
    from fulcrum.guard import SHIPPED
    from fulcrum.shipping import build_wheel, wheel_version

    if SHIPPED in os.environ:
        return {}
    wheel = build_wheel(folder)
    return {"py_modules": [str(wheel)], "env_vars": {SHIPPED: wheel_version(wheel)}}


def _watched(blocks: Iterable[Any], look: Callable[[], None]) -> Iterator[Any]:
    """The blocks as they come. Between them, and while none comes, looks whether there are nodes to work on."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=2)
    over = threading.Event()

    def put(item: tuple[str, Any]) -> None:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=1.0)
                return

    def pull() -> None:
        try:
            for block in blocks:
                put(("block", block))
                if over.is_set():
                    return
            put(("end", None))
        except BaseException as error:
            put(("error", error))

    threading.Thread(target=pull, daemon=True, name="blocks").start()
    try:
        while True:
            look()
            try:
                kind, came = ready.get(timeout=1.0)
            except queue.Empty:
                continue
            if kind == "end":
                return
            if kind == "error":
                raise _lost(came) or came
            yield came
    finally:
        over.set()


def _lost(error: BaseException) -> RetryableError | None:
    """The error as one that may pass, where it says that a node or what it held is gone."""
    from ray import exceptions

    gone = (
        exceptions.ActorUnavailableError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.WorkerCrashedError,
    )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, gone):
            return RetryableError(f"a node of the cluster was lost ({type(cause).__name__})")
        cause = cause.__cause__
    return None


def _nvidia() -> list[str]:
    return [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)] if os.path.isdir("/dev") else []


class _Worker:
    """Holds the stage's actor inside a Ray Data actor; batches and results travel pickled."""

    def __init__(self, actor: Callable[..., Any], init: Mapping[str, Any]) -> None:
        self.worker = actor(**init)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"result": [pickle.dumps(self._work(pickle.loads(blob))) for blob in batch["batch"]]}

    def _work(self, batch: Any) -> Any:
        try:
            return self.worker(batch)
        except Exception as error:
            return _Raised(_portable(error))


@dataclass(frozen=True)
class _Raised:
    """An actor's exception on its way to the driver: Ray's own wrapping loses its type."""

    error: Exception


def _portable(error: Exception) -> Exception:
    """The exception itself where it survives pickling, else a plain one with its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
