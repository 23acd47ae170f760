"""What the status page and the metrics say, read from the store and the review database, never from a run itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from pipelines.dag.artifacts import read_manifest
from pipelines.dag.graph import WiringError
from pipelines.dag.runs import NodeRecord, RunRecord, living, load_runs, progress_path, state_of
from pipelines.dag.store import Store
from stages.contract import StageError

FRESH_S = 60.0  # progress that is older is an earlier attempt's
KILLED = "KILLED"


@dataclass(frozen=True)
class Campaign:
    """How far a campaign is."""

    id: str
    title: str
    state: str
    items: int
    done: int


@dataclass(frozen=True)
class NodeStatus:
    """A stage of a run as it is now. ``state`` is one of the record's, or KILLED."""

    name: str
    state: str
    seconds: float
    after: Sequence[str]
    gate: bool
    counts: Mapping[str, int]
    rows: Mapping[str, int]
    message: str | None
    page: str | None
    """Path of the page on which people answer, on this server."""
    progress: Mapping[str, Any] | None
    campaign: Campaign | None = None


@dataclass(frozen=True)
class Snapshot:
    """A run, and what there is beside it."""

    run: RunRecord
    state: str
    nodes: Sequence[NodeStatus]
    runs: Sequence[tuple[RunRecord, str]]
    """The newest runs with their states, newest first."""
    live: int
    campaigns: Sequence[Campaign]
    seconds: float


@dataclass
class Watcher:
    """Looks at a store at most once a second, however many look at the page."""

    store: Store
    campaigns: Callable[[], Sequence[Campaign]] = tuple
    every_s: float = 1.0
    _kept: dict[str | None, tuple[float, Snapshot | None]] = field(default_factory=dict)
    _rows: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, run_id: str | None = None) -> Snapshot | None:
        """The run, or the newest; None when none has run yet. Raises ``StageError`` for an unknown run."""
        with self._lock:
            at, found = self._kept.get(run_id, (0.0, None))
            if time.monotonic() - at >= self.every_s:
                found = self._look(run_id)
                self._kept = {k: v for k, v in self._kept.items() if time.monotonic() - v[0] < self.every_s}
                self._kept[run_id] = (time.monotonic(), found)
            return found

    def _look(self, run_id: str | None) -> Snapshot | None:
        runs, live = load_runs(self.store), living(self.store)
        if run_id is not None:
            runs_of = [run for run in runs if run.run_id == run_id]
            if not runs_of:
                raise StageError(f"there is no run {run_id} in this store")
            run = runs_of[0]
        elif runs:
            run = runs[-1]
        else:
            return None
        campaigns = list(self.campaigns())
        edges = _edges(run)
        nodes = [self._node(run, node, run.run_id in live, edges, campaigns) for node in run.nodes]
        newest = [(r, state_of(r, live)) for r in reversed(runs[-12:])]
        return Snapshot(
            run, state_of(run, live), nodes, newest, len(live), campaigns, sum(node.seconds for node in nodes)
        )

    def _node(
        self,
        run: RunRecord,
        node: NodeRecord,
        alive: bool,
        edges: Mapping[str, Sequence[str]],
        campaigns: Sequence[Campaign],
    ) -> NodeStatus:
        state, seconds, progress = node.state, node.seconds, None
        if state == "RUNNING":
            state = "RUNNING" if alive else KILLED
            seconds = _since(node.started) if node.started and alive else 0.0
            progress = self._progress(run.run_id, node.name) if alive else None
        path = urlsplit(node.page).path if node.page else None
        campaign = next((c for c in campaigns if path and path.endswith(f"/c/{c.id}")), None)
        return NodeStatus(
            node.name, state, seconds, edges[node.name], node.gate or bool(node.page), node.counts, self._rows_of(node),
            node.message, path, progress, campaign,
        )  # fmt: skip

    def _progress(self, run_id: str, node: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.store.read_json(progress_path(run_id, node))
        except (FileNotFoundError, ValueError):
            return None
        return found if _since(found["at"]) < FRESH_S else None

    def _rows_of(self, node: NodeRecord) -> dict[str, int]:
        """Rows of its tables; a commit never changes, so it is read once."""
        if not node.fingerprint or not node.outputs:
            return {}
        place = (node.name, node.fingerprint)
        if place not in self._rows:
            manifest = read_manifest(self.store, *place)
            outputs = manifest.outputs if manifest else {}
            self._rows[place] = {name: o.rows for name, o in outputs.items() if o.rows is not None}
        return self._rows[place]


def _edges(run: RunRecord) -> dict[str, Sequence[str]]:
    """By node those that it reads from; of runs by releases that did not record it, as the recipe of that name has it now."""
    edges: dict[str, Sequence[str]] = {node.name: node.after for node in run.nodes}
    if any(edges.values()):
        return edges
    from pipelines.catalog import BUILT_IN, find

    if run.pipeline in BUILT_IN:
        try:
            edges |= {
                n.name: sorted({o.node for o in n.inputs.values()} & edges.keys())
                for n in find(run.pipeline).nodes
                if n.name in edges
            }
        except WiringError:
            pass
    return edges


def _since(iso: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(iso)).total_seconds()


def campaigns_in(db: Any) -> Callable[[], Sequence[Campaign]]:
    """The campaigns of an open review database, counted when asked."""
    from stages.review.campaigns import list_campaigns, progress

    def ask() -> list[Campaign]:
        found = []
        for one in list_campaigns(db):
            at = progress(db, one.id)
            found.append(Campaign(one.id, one.spec.title, one.state, at.items, at.done))
        return found

    return ask


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """For programs: what the page shows."""
    run = snapshot.run
    return {
        "pipeline": run.pipeline,
        "run_id": run.run_id,
        "state": snapshot.state,
        "started": run.started,
        "seconds": round(snapshot.seconds, 3),
        "live_runs": snapshot.live,
        "stages": [
            {
                "name": n.name,
                "state": n.state,
                "seconds": round(n.seconds, 3),
                "after": list(n.after),
                "gate": n.gate,
                "counts": dict(n.counts),
                "rows": dict(n.rows),
                "message": n.message,
                "page": n.page,
                "progress": dict(n.progress) if n.progress else None,
            }
            for n in snapshot.nodes
        ],
        "campaigns": [vars(replace(c)) for c in snapshot.campaigns],
    }
