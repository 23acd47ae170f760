"""What each run did: its record in the store, its ledger, and the heartbeats of what it works on."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from pipelines.dag.canonical import digest
from pipelines.dag.store import Store
from stages.contract import StageError

BEAT_S = 5.0
STALE_S = 30.0


@dataclass
class NodeRecord:
    """A node in a run. ``state`` is one of ``State``, or PENDING or RUNNING while the run lives."""

    name: str
    state: str = "PENDING"
    seconds: float = 0.0
    fingerprint: str | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    message: str | None = None
    page: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)
    """The nodes that it reads from."""
    gate: bool = False
    started: str | None = None
    """When the stage began, in this run."""


@dataclass
class RunRecord:
    pipeline: str
    run_id: str
    started: str
    state: str  # running, done, waiting, failed, interrupted
    nodes: list[NodeRecord]
    host: str
    pid: int
    code: str
    ledger: str | None = None
    tracking: dict[str, str] = field(default_factory=dict)
    submission: str | None = None
    """Id of the Ray job in which it ran, if it was submitted."""

    def node(self, name: str) -> NodeRecord:
        return next(n for n in self.nodes if n.name == name)

    def save(self, store: Store) -> None:
        store.put_json(f"runs/{self.run_id}/run.json", asdict(self))


def new_run_id() -> str:
    """Sortable by start, also within a second, and unique across machines."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S-%f") + "-" + secrets.token_hex(3)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def load_run(store: Store, run_id: str | None = None) -> RunRecord:
    """A run by id, or the latest."""
    names = store.names("runs")
    if not names:
        raise StageError(
            f"no pipeline has run on the store {store.display} yet. Start one with: fulcrum run PIPELINE --store {store.display}"
        )
    if run_id is None:
        run_id = names[-1]
    elif run_id not in names:
        raise StageError(f"there is no run {run_id} in {store.display}. The latest are: {', '.join(names[-5:])}")
    return _read(store, run_id)


def load_runs(store: Store) -> list[RunRecord]:
    """Every run, oldest first, without those that were killed before they had a record."""
    found = []
    for run_id in store.names("runs"):
        try:
            found.append(_read(store, run_id))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
    return found


def _read(store: Store, run_id: str) -> RunRecord:
    value = store.read_json(f"runs/{run_id}/run.json")
    value["nodes"] = [NodeRecord(**_known(NodeRecord, n)) for n in value["nodes"]]
    return RunRecord(**_known(RunRecord, value))


def _known(kind: type, value: dict[str, Any]) -> dict[str, Any]:
    """Without fields that a later release has added: a record is read by whoever looks at the store."""
    names = {f.name for f in fields(kind)}
    return {key: item for key, item in value.items() if key in names}


def progress_path(run_id: str, node: str) -> str:
    return f"runs/{run_id}/progress/{node}.json"


def gather_ledger(store: Store, ledgers: Mapping[str, str]) -> str | None:
    """One folder with the ledgers of all these nodes, as a table; made once per combination.

    Local files are linked, not copied.
    """
    if not ledgers:
        return None
    folder = f"ledgers/{digest(dict(ledgers))[:24]}"
    for node, path in ledgers.items():
        target = f"{folder}/{node}.parquet"
        if not store.exists(target):
            store.copy(path, target)
    return store.uri_of(folder)


def config_path(run_id: str) -> str:
    return f"runs/{run_id}/config.json"


def run_key(run_id: str) -> str:
    """Under which a run's own heartbeat lies."""
    return f"run-{run_id}"


def living(store: Store) -> set[str]:
    """Ids of the runs whose heart beats: the run's own, or that of a stage it works on."""
    found = set()
    for name in store.names("live"):
        if name.endswith(".json"):
            beat = Heartbeat(store, name.removesuffix(".json"), "").owner()
            if beat:
                found.add(str(beat["run_id"]))
    return found


def state_of(run: RunRecord, live: AbstractSet[str]) -> str:
    """Its state as it is: a run whose process was killed still says running in its record."""
    return "killed" if run.state == "running" and run.run_id not in live else run.state


class Heartbeat:
    """Says that a stage is being worked on, or that a run lives, so that a second run waits instead of doing it again.

    It saves work and is not needed for safety: two runs that do the same stage commit the same content.
    """

    def __init__(self, store: Store, key: str, run_id: str) -> None:
        self.store, self.path, self.run_id = store, f"live/{key}.json", run_id
        self.stop = threading.Event()

    def owner(self) -> dict[str, Any] | None:
        """The other living run that works on this stage, if any. A dead process of this machine owns nothing."""
        try:
            beat = self.store.read_json(self.path)
        except (FileNotFoundError, ValueError):
            return None
        if beat["run_id"] == self.run_id or time.time() - beat["at"] > STALE_S:
            return None
        if beat["host"] == socket.gethostname() and not _alive(beat["pid"], beat["born"]):
            return None
        return dict(beat)

    def _beat(self) -> None:
        pid = os.getpid()
        beat = {"run_id": self.run_id, "host": socket.gethostname(), "pid": pid, "born": _born(pid), "at": time.time()}
        self.store.put_json(self.path, beat)

    @contextmanager
    def beating(self) -> Iterator[None]:
        self._beat()

        def loop() -> None:
            while not self.stop.wait(BEAT_S):
                try:
                    self._beat()
                except OSError:
                    continue  # a full disk stops the stage itself, with its own message

        thread = threading.Thread(target=loop, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            thread.join()
            try:
                self.store.delete(self.path)
            except OSError:
                pass  # it goes stale by itself


def _born(pid: int) -> str | None:
    """Start time of a process, which tells it from a later one with the same number; None where /proc is not there."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def _alive(pid: int, born: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return born is None or _born(pid) == born
