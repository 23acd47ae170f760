"""Small arithmetic stages whose results and work can be predicted exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from data_schemas.schema import Field, TableSchema
from pipelines.dag.engine import InlineEngine
from pipelines.dag.graph import Node, Output, Pipeline
from pipelines.dag.runner import Job, run
from pipelines.dag.runs import NodeRecord, RunRecord
from pipelines.dag.store import Store
from stages.contract import Context, Params, RetryableError, Stage, Table, Waiting, World, stage

NUMBERS = TableSchema(
    "numbers",
    "1.0",
    ("key",),
    (
        Field("key", pa.string(), "name", nullable=False),
        Field("value", pa.int64(), "number", nullable=False),
        Field("seconds", pa.float64(), "time spent", "s", telemetry=True),
    ),
    "Named numbers.",
)
DONE: Counter[str] = Counter()
"""How often each node's function really ran."""


class ToyParams(Params):
    add: int = 0
    divide: int = 1
    """Integer division makes different inputs give equal outputs, which is what early cutoff is about."""
    wait: bool = False
    fail: bool = False
    lose: int = 0
    """How often the connection is lost before it holds."""


def make_stage(name: str, inputs: list[str], version: str = "1") -> Stage:
    def work(ctx: Context, params: ToyParams) -> Waiting | None:
        DONE[ctx.name] += 1
        if DONE[ctx.name] <= params.lose:
            raise RetryableError("the connection was lost")
        if params.fail:
            raise ValueError("asked to fail")
        if params.wait:
            return Waiting("http://page", 3, "3 items left")
        total: Counter[str] = Counter()
        for key in inputs:
            for row in ctx.table(key).to_pylist():
                total[row["key"]] += row["value"]
        total = total or Counter({"a": 7, "b": 20})
        rows = [
            {"key": k, "value": (v + params.add) // params.divide, "seconds": float(DONE[ctx.name])}
            for k, v in total.items()
        ]
        ctx.write("out", NUMBERS.table(rows))
        ctx.ledger([{"record_id": k, "status": "accepted"} for k in total])
        return None

    return stage(
        name=name,
        version=version,
        params=ToyParams,
        inputs={key: Table(NUMBERS) for key in inputs},
        outputs={"out": Table(NUMBERS)},
        gate=False,
    )(work)


def make_pipeline(edges: Mapping[str, list[str]], versions: Mapping[str, str] | None = None) -> Pipeline:
    """``edges`` maps a node to the nodes it reads from."""
    nodes = []
    for name, sources in edges.items():
        made = make_stage(f"toy_{name}", [f"from_{s}" for s in sources], (versions or {}).get(name, "1"))
        nodes.append(Node(name, made, {f"from_{s}": Output(s, "out") for s in sources}, {}))
    return Pipeline("toy", tuple(nodes))


class Quiet:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def run_started(self, run: RunRecord) -> None:
        return

    def node_started(self, node: NodeRecord) -> None:
        return

    def node_ended(self, node: NodeRecord) -> None:
        return

    def note(self, text: str) -> None:
        self.notes.append(text)

    def run_ended(self, run: RunRecord) -> None:
        return


def world() -> World:
    return World(None, None, "sqlite:///none", "http://127.0.0.1:8765")


def run_toy(
    root: Path, pipeline: Pipeline, params: Mapping[str, ToyParams] | None = None, reporter: Quiet | None = None
) -> RunRecord:
    given = {n.name: (params or {}).get(n.name, ToyParams()) for n in pipeline.nodes}
    job = Job(
        pipeline=pipeline,
        store=Store(str(root / "store")),
        params=given,
        world=world(),
        seed=0,
        engine=InlineEngine(),
        local=root / "local",
        quiet=True,
        wait_s=0.01,
    )
    return run(job, reporter or Quiet())


def states(record: RunRecord) -> dict[str, str]:
    return {n.name: n.state for n in record.nodes}
