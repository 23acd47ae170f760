"""What a run would do, and why, without doing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pipelines.dag.artifacts import Manifest, latest_manifest, read_manifest
from pipelines.dag.fingerprint import preimage, reasons, recipe, source_hash
from pipelines.dag.graph import Pipeline
from pipelines.dag.store import Store
from stages.contract import Params, World


class Action(StrEnum):
    CACHED = "cached"
    RUN = "run"
    MAYBE = "maybe"  # an input will be made anew; if it comes out the same, this is not redone


@dataclass(frozen=True)
class Planned:
    node: str
    action: Action
    why: list[str] = field(default_factory=list)
    warning: str | None = None
    gate: bool = False


def plan(
    pipeline: Pipeline, store: Store | None, params: Mapping[str, Params], world: World, seed: int
) -> list[Planned]:
    """One entry a node, in the order in which they would run. Reads manifests only; ``store`` may not exist yet."""
    digests: dict[str, dict[str, str] | None] = {}
    planned = []
    for node in pipeline.order():
        uncertain = sorted({str(o) for o in node.inputs.values() if digests.get(o.node) is None})
        if uncertain:
            digests[node.name] = None
            planned.append(
                Planned(node.name, Action.MAYBE, [f"waits for {', '.join(uncertain)}"], gate=node.stage.gate)
            )
            continue
        inputs = {}
        for key, output in node.inputs.items():
            source, name = pipeline.source(output)
            inputs[key] = _of(digests, source)[name]
        image = preimage(node, recipe(node, params[node.name], world, seed), inputs)
        manifest = read_manifest(store, node.name, image.fingerprint) if store else None
        if manifest:
            digests[node.name] = manifest.digests
            planned.append(
                Planned(
                    node.name,
                    Action.CACHED,
                    warning=_stale_source(manifest, source_hash(node.stage)),
                    gate=node.stage.gate,
                )
            )
            continue
        digests[node.name] = None
        before = latest_manifest(store, node.name) if store else None
        why = reasons(before.preimage, image.key) if before else ["it has never been done on this store"]
        planned.append(Planned(node.name, Action.RUN, why or ["its last commit is gone"], gate=node.stage.gate))
    return planned


def _of(digests: Mapping[str, dict[str, str] | None], node: str) -> dict[str, str]:
    found = digests[node]
    assert found is not None
    return found


def _stale_source(manifest: Manifest, source: str) -> str | None:
    if manifest.source in (source, "unknown"):
        return None
    return (
        f"the source of stage {manifest.stage} changed since this was made, its version did not; "
        "raise the version if its results would differ"
    )
