"""Where batches of records are worked on: in this process, or in a Ray Data actor pool. Nothing else calls Ray Data."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stages.contract import Resources, StageError

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

    def pool_size(self, batches: int, cpus: float, gpus: float, at_most: Resources | None) -> int:
        """Workers for this many batches, of ``cpus`` and ``gpus`` each; at least one, within ``at_most`` where that has room."""
        ...

    def map(
        self,
        actor: Callable[..., Any],
        batches: Sequence[Any],
        init: Mapping[str, Any],
        cpus: float,
        gpus: float,
        size: int,
    ) -> Iterator[Any]: ...

    def start(self) -> None:
        """Make sure that Ray runs, for stages that use it themselves (training)."""
        ...


class InlineEngine:
    """One actor in this process: for tests and for machines without Ray."""

    def capacity(self) -> Resources | None:
        return None

    def pool_size(self, batches: int, cpus: float, gpus: float, at_most: Resources | None) -> int:
        return 1

    def map(
        self,
        actor: Callable[..., Any],
        batches: Sequence[Any],
        init: Mapping[str, Any],
        cpus: float,
        gpus: float,
        size: int,
    ) -> Iterator[Any]:
        if not batches:
            return
        worker = actor(**init)
        try:
            for batch in batches:
                yield worker(batch)
        finally:
            close = getattr(worker, "close", None)
            if close:
                close()

    def start(self) -> None:
        return


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
    """A Ray Data actor pool that fits what the cluster has, so that it cannot wait for itself."""

    address: str | None = None
    num_cpus: int | None = None

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

        settings: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "include_dashboard": False,
            "runtime_env": {"worker_process_setup_hook": RAY_SETUP_HOOK},
        }
        if self.address:
            ray.init(address=self.address, **{k: v for k, v in settings.items() if k != "include_dashboard"})
        else:
            with _silent_stderr():
                ray.init(num_cpus=self.num_cpus, **settings)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def capacity(self) -> Resources | None:
        if self.address:
            self.start()
            import ray

            have = ray.cluster_resources()
            return Resources(have.get("CPU", 0.0), have.get("GPU", 0.0))
        # As a local Ray will count them, without starting it for a run in which nothing is to be done.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = len([g for g in visible.split(",") if g]) if visible is not None else len(_nvidia())
        return Resources(float(self.num_cpus or os.cpu_count() or 1), float(gpus))

    def map(
        self,
        actor: Callable[..., Any],
        batches: Sequence[Any],
        init: Mapping[str, Any],
        cpus: float,
        gpus: float,
        size: int,
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
            num_cpus=cpus,
            num_gpus=gpus or None,
        )
        for block in data.iter_batches(batch_size=1, prefetch_batches=0):
            for blob in block["result"]:
                result = pickle.loads(blob)
                if isinstance(result, _Raised):
                    raise result.error
                yield result

    def pool_size(self, batches: int, cpus: float, gpus: float, at_most: Resources | None) -> int:
        self.start()
        import ray

        have = ray.cluster_resources()
        fits = fitting(batches, cpus, gpus, Resources(have.get("CPU", 0.0), have.get("GPU", 0.0)))
        if fits < 1:
            raise StageError(
                f"one worker wants {cpus:g} CPUs and {gpus:g} GPUs, but the cluster has {have.get('CPU', 0):g} CPUs "
                f"and {have.get('GPU', 0):g} GPUs. Lower the stage's resources or add a node."
            )
        return min(fits, max(1, fitting(batches, cpus, gpus, at_most))) if at_most else fits


def fitting(batches: int, cpus: float, gpus: float, room: Resources) -> int:
    """Workers of ``cpus`` and ``gpus`` each that find room and a batch."""
    fits = int(room.cpus // cpus) if cpus else batches
    return min(batches, fits, int(room.gpus // gpus)) if gpus else min(batches, fits)


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
