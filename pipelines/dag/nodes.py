"""What the nodes of a Ray cluster can hold, and waiting for a node that is not there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stages.contract import Resources, StageError

_SLACK = 1e-9  # thirds of a GPU add up to one
_LOOK_S = 5.0


@dataclass(frozen=True)
class Worker:
    """What one worker of a stage needs of the node that it runs on. ``labels`` are Ray's label selectors by label."""

    cpus: float = 1.0
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        labels = ", ".join(f"{key}={value}" for key, value in self.labels.items())
        return f"{self.cpus:g} CPUs{gpus}{' on a node with ' + labels if labels else ''}"


@dataclass(frozen=True)
class Node:
    """A living node: all that it has, used or not."""

    cpus: float
    gpus: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    def holds(self, worker: Worker) -> float:
        """So many such workers at once; infinite for one that takes nothing."""
        if not all(selects(wanted, self.labels.get(key)) for key, wanted in worker.labels.items()):
            return 0
        each = [(self.cpus, worker.cpus), (self.gpus, worker.gpus)]
        return min((int(has / wants + _SLACK) for has, wants in each if wants), default=float("inf"))


def selects(selector: str, value: str | None) -> bool:
    """Whether a label's value is what Ray's selector asks for: ``v``, ``!v``, ``in(v, w)`` or ``!in(v, w)``."""
    refuses, rest = selector.startswith("!"), selector.removeprefix("!")
    among = re.fullmatch(r"in\((.*)\)", rest)
    names = [part.strip() for part in among[1].split(",")] if among else [rest]
    return (value in names) is not refuses


def holds(nodes: Sequence[Node], worker: Worker) -> float:
    """So many such workers at once on all nodes. A worker is on one node: halves of two nodes hold none."""
    return sum(node.holds(worker) for node in nodes)


def living_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to."""
    import ray

    return [
        Node(n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0), n.get("Labels") or {})
        for n in ray.nodes()
        if n["Alive"]
    ]


def in_all(nodes: Sequence[Node]) -> Resources:
    return Resources(sum(n.cpus for n in nodes), sum(n.gpus for n in nodes))


def missing(nodes: Sequence[Node], worker: Worker) -> str:
    """Why no node holds such a worker, and what to do."""
    have = [f"{n.cpus:g} CPUs{f' and {n.gpus:g} GPUs' if n.gpus else ''}{_group(n)}" for n in nodes]
    return (
        f"one worker wants {worker}, and no node of the cluster can hold it. The nodes have: {'; '.join(have) or 'none'}. "
        "Lower the stage's resources, change engine.labels, or add such a node, then run again."
    )


def _group(node: Node) -> str:
    labels = [f"{key}={value}" for key, value in sorted(node.labels.items()) if key != "ray.io/node-id"]
    return f" ({', '.join(labels)})" if labels else ""


class NodeWatch:
    """Looks now and then whether any node can hold a stage's workers; raises when none could for ``patience_s``."""

    def __init__(
        self,
        worker: Worker,
        patience_s: float,
        tell: Callable[[str], None],
        nodes: Callable[[], Sequence[Node]] = living_nodes,
        count: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.worker, self.patience_s, self.tell, self.nodes, self.count = worker, patience_s, tell, nodes, count
        self.clock = clock
        self._since: float | None = None
        self._next = clock()

    def look(self) -> None:
        """Raises ``StageError`` with what is missing and the remedy. May be called as often as one likes."""
        if self.clock() < self._next:
            return
        self._next = self.clock() + _LOOK_S
        nodes = self.nodes()
        if holds(nodes, self.worker) >= self.count:
            self._since = None
            return
        if self._since is None:
            self._since = self.clock()
            if self.patience_s:
                self.tell(f"no node can hold {self._all()}; waiting up to {self.patience_s:.0f} s for one")
        if self.clock() - self._since >= self.patience_s:
            if self.count > 1 and holds(nodes, self.worker):
                raise StageError(
                    f"{self._all()} are wanted at once, and the cluster can hold {holds(nodes, self.worker):g}. "
                    "Lower num_workers or add nodes, then run again; what was finished is kept."
                )
            raise StageError(missing(nodes, self.worker))

    def _all(self) -> str:
        return f"{self.count} workers of {self.worker}" if self.count > 1 else f"a worker of {self.worker}"
