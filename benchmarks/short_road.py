"""From footage to one small adapter: the part of the demo's road that ends at its first training, judged by a script."""

from __future__ import annotations

from pipelines.dag.graph import Node, Pipeline
from pipelines.demo import PIPELINE as DEMO

SCRIPTED = {"reviewer": "script:rules"}
STEPS = {"steps": 60, "checkpoint_every": 5}


def _params(node: Node) -> dict[str, object]:
    more = SCRIPTED if node.name == "review_clips" else STEPS if node.name == "sft_in" else {}
    return {**node.params, **more}


PIPELINE = Pipeline(
    "short_road",
    tuple(Node(n.name, n.stage, n.inputs, _params(n), n.follow, n.names) for n in DEMO.road_to("sft_in")),
    "from footage to one small adapter",
)
