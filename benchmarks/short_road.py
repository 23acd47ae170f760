"""From footage to one small adapter: the part of the demo's road that ends at its first training, judged by a script."""

from __future__ import annotations

from pipelines.dag.graph import Node, Pipeline
from pipelines.demo import PIPELINE as DEMO

SCRIPTED = {"reviewer": "script:rules"}
STEPS = {"steps": 60, "checkpoint_every": 5}


def _road_to(name: str) -> tuple[Node, ...]:
    """The nodes of the demo that ``name`` hangs on, and itself."""
    by_name = {node.name: node for node in DEMO.nodes}
    wanted, todo = set[str](), [name]
    while todo:
        here = todo.pop()
        wanted.add(here)
        todo += [DEMO.source(output)[0] for output in by_name[here].inputs.values()]
    return tuple(node for node in DEMO.nodes if node.name in wanted)


def _params(node: Node) -> dict[str, object]:
    more = SCRIPTED if node.name == "review_clips" else STEPS if node.name == "sft_in" else {}
    return {**node.params, **more}


PIPELINE = Pipeline(
    "short_road",
    tuple(Node(n.name, n.stage, n.inputs, _params(n), n.follow, n.names) for n in _road_to("sft_in")),
    "from footage to one small adapter",
)
