"""LibraGen's road with both merges swept: weights are measured on held-out prompts instead of set beforehand."""

from __future__ import annotations

from dataclasses import replace

from pipelines.dag.graph import Node, Output, Pipeline
from pipelines.libragen import PIPELINE as LIBRAGEN
from stages.contract import Stage
from stages.training.sweep import sweep_final, sweep_sft

SWEPT: dict[str, Stage] = {"merge_sft": sweep_sft, "merge_final": sweep_final}
CACHE = {"cache": Output("encode", "cache"), "latents": Output("encode", "latents")}


def _swept(item: Node) -> Node:
    if item.name == "report":
        sweeps = {name.replace("merge", "sweep"): Output(name, f"sweep_{name}") for name in SWEPT}
        return replace(item, inputs={**item.inputs, **sweeps})
    if item.name not in SWEPT:
        return item
    names = {**item.names, "metrics": f"metrics_{item.name}", "sweep": f"sweep_{item.name}"}
    return replace(item, stage=SWEPT[item.name], inputs={**CACHE, **item.inputs}, names=names)


PIPELINE = Pipeline(
    "libragen_swept", tuple(_swept(item) for item in LIBRAGEN.nodes), "libragen, its merge weights found by measuring"
)
