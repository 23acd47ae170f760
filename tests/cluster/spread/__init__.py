"""A pipeline of a user's own, for clusters: it squares numbers slowly on many nodes, says where, does so again, and asks people.

The last number can be held back until a file exists, so that a stage is still at work however late a node joins in. One stage
runs after the other: side by side, an unlabelled stage may take the one place that a labelled one waits for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from data_schemas.schema import Field, TableSchema
from pipelines.dag.graph import Pipeline, node
from stages.contract import Context, Params, Table, Waiting, stage

SQUARES = TableSchema(
    "squares",
    "1.0",
    ("number",),
    (
        Field("number", pa.int64(), "number", nullable=False),
        Field("square", pa.int64(), "its square", nullable=False),
        Field("group", pa.string(), "group of the node", telemetry=True),
        Field("code", pa.string(), "folder that Fulcrum was imported from", telemetry=True),
    ),
    "Squares of numbers.",
)


HOLD_S = 300.0


class Slow:
    def __init__(self, pause_s: float, held: int, until: str) -> None:
        self.pause_s, self.held, self.until = pause_s, held, Path(until)

    def __call__(self, batch: Sequence[int]) -> list[dict[str, object]]:
        import fulcrum

        group = "inline"
        if "RAY_RAYLET_PID" in os.environ:
            import ray

            context = ray.get_runtime_context()
            group = context.get_node_labels()["fulcrum/group"]
        time.sleep(self.pause_s)
        deadline = time.monotonic() + HOLD_S
        while self.held in batch and not self.until.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        code = os.path.dirname(os.path.dirname(fulcrum.__file__))
        return [{"number": n, "square": n * n, "group": group, "code": code} for n in batch]


class SpreadParams(Params):
    numbers: int = 6
    pause_s: float = 0.0
    hold_until: str = "/"


class AskParams(Params):
    pass


def _squares(ctx: Context, params: SpreadParams, numbers: Sequence[int]) -> None:
    init = {"pause_s": params.pause_s, "held": params.numbers - 1, "until": params.hold_until}
    for rows in ctx.map(Slow, [[n] for n in numbers], init=init):
        ctx.write("squares", SQUARES.table(rows))


@stage(name="spread", version="1", params=SpreadParams, outputs={"squares": Table(SQUARES)})
def spread(ctx: Context, params: SpreadParams) -> None:
    """Squares the numbers from zero on, one a batch."""
    _squares(ctx, params, range(params.numbers))


@stage(
    name="pinned",
    version="1",
    params=SpreadParams,
    inputs={"squares": Table(SQUARES)},
    outputs={"squares": Table(SQUARES)},
)
def pinned(ctx: Context, params: SpreadParams) -> None:
    """Squares the same numbers again."""
    _squares(ctx, params, ctx.table("squares")["number"].to_pylist())


@stage(
    name="ask",
    version="1",
    params=AskParams,
    inputs={"squares": Table(SQUARES)},
    outputs={"answers": Table(SQUARES)},
    gate=True,
)
def ask(ctx: Context, params: AskParams) -> Waiting:
    """Waits for ever."""
    return Waiting("http://page", 3, "3 items left")


PIPELINE = Pipeline(
    "spread",
    (
        node("spread", spread),
        node("pinned", pinned, squares="spread.squares"),
        node("ask", ask, squares="pinned.squares"),
    ),
)
