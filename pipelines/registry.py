"""MLflow's registry with two aliases: ``candidate`` for an adapter that was evaluated, ``champion`` for the best so far.

Nothing gets an alias without the evaluation that speaks for it, and no champion is replaced by one that is clearly worse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_schemas.tables import METRICS, SAMPLES
from pipelines.dag.artifacts import Manifest, open_table, read_manifest
from pipelines.dag.canonical import digest
from pipelines.dag.runs import RunRecord
from pipelines.dag.store import Store
from pipelines.gates import held_back
from pipelines.tracking import Tracker
from stages.contract import StageError
from stages.evaluation.systems import MEANINGLESS

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CANDIDATE, CHAMPION = "candidate", "champion"
METRICS_TAG, COMPARABLE_TAG, ADAPTER_TAG = "fulcrum.metrics", "fulcrum.evaluation", "fulcrum.adapter"


@dataclass(frozen=True)
class Evaluated:
    """An adapter of a run with the numbers that speak for it, and the base's beside them.

    ``comparable`` is equal where two evaluations asked the same.
    """

    uri: str
    digest: str
    node: str
    system: str
    comparable: str
    metrics: Mapping[str, Mapping[str, Any]]
    base: Mapping[str, Mapping[str, Any]]


def evaluated(store: Store, record: RunRecord, output: str) -> Evaluated:
    """The run's adapter ``output`` and its evaluation; ``StageError`` says what is missing."""
    manifests = _manifests(store, record)
    made = next((n for n in record.nodes if output in n.outputs and n.name in manifests), None)
    if made is None:
        known = sorted(o for n in record.nodes for o in n.outputs if o.startswith("adapter"))
        raise StageError(f"run {record.run_id} has no committed {output}; it has {', '.join(known) or 'no adapters'}")
    evaluate = next((m for m in manifests.values() if m.stage == "evaluate"), None)
    sample = next((m for m in manifests.values() if m.stage == "sample"), None)
    if evaluate is None or sample is None:
        raise StageError(
            f"{output} of run {record.run_id} has no evaluation, and none is promoted without one. Let the pipeline run to its "
            "evaluate stage first."
        )
    adapter = next(iter(manifests[made.name].outputs.values())).digest
    system = _system(sample, adapter)
    whole = evaluate.preimage["inputs"]["samples"] == sample.outputs["samples"].digest
    rows = open_table(store, evaluate.outputs["metrics"].path, METRICS).to_table().to_pylist()
    mine = {row["metric"]: row for row in rows if row["system"] == system}
    if system is None or not whole or not mine:
        raise StageError(
            f"the evaluation of run {record.run_id} did not measure {output}: its samples were made with other adapters. Run "
            "the pipeline again, so that sample and evaluate see it."
        )
    columns = ["system", "prompt_id", "seed", "prompt"]
    samples = open_table(store, sample.outputs["samples"].path, SAMPLES).to_table(columns=columns).to_pylist()
    asked = {
        "evaluate": [evaluate.preimage["params"], evaluate.preimage["models"]],
        "sampling": sample.preimage["params"].get("sampling"),
        "videos": sorted([r["prompt_id"], r["seed"], r["prompt"]] for r in samples if r["system"] == system),
    }
    base = {row["metric"]: row for row in rows if row["system"] == "base"}
    return Evaluated(made.outputs[output], adapter, made.name, str(system), digest(asked), mine, base)


def make_candidate(
    tracker: Tracker, record: RunRecord, found: Evaluated, model: str, gates: Mapping[str, float] | None = None
) -> str:
    """Registers the adapter, unless it is, and points ``candidate`` at it; returns the version.

    ``StageError`` when one of the ``gates`` holds it back (``pipelines/gates.py``); nothing is registered then.
    """
    stops = held_back(found.metrics, found.base, gates or {})
    if stops:
        raise StageError(
            f"the {found.system} adapter of run {record.run_id} is held back by its gates: {'; '.join(stops)}"
        )
    client = tracker.client
    _registered(client, model)
    known = next((v for v in _versions(client, model) if _identity(v) == (found.digest, found.comparable)), None)
    version = known or client.create_model_version(
        model,
        source=found.uri,
        run_id=record.tracking.get(found.node),
        tags={
            ADAPTER_TAG: found.digest,
            COMPARABLE_TAG: found.comparable,
            METRICS_TAG: json.dumps({m: _number(row) for m, row in found.metrics.items()}),
            "fulcrum.run_id": record.run_id,
            "fulcrum.system": found.system,
            "fulcrum.code": record.code,
        },
    )
    client.set_registered_model_alias(model, CANDIDATE, version.version)
    return str(version.version)


def make_champion(tracker: Tracker, model: str, accept_regression: bool = False) -> tuple[str, str | None]:
    """Points ``champion`` at the candidate; returns its version and the one it replaces.

    ``StageError`` when there is no candidate, when it is clearly worse than the champion in any metric, or when the two
    were evaluated on different prompts or with different metrics, so that nobody can tell.
    """
    client = tracker.client
    candidate, champion = _aliased(client, model, CANDIDATE), _aliased(client, model, CHAMPION)
    if candidate is None:
        raise StageError(f"{model} has no candidate yet. Make one with: fulcrum promote candidate")
    if METRICS_TAG not in candidate.tags:
        raise StageError(f"version {candidate.version} of {model} has no evaluation, and none is promoted without one")
    if champion is not None and champion.version != candidate.version and not accept_regression:
        _compare(candidate, champion)
    client.set_registered_model_alias(model, CHAMPION, candidate.version)
    return str(candidate.version), str(champion.version) if champion else None


def regressions(candidate: Mapping[str, Mapping[str, Any]], champion: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The metrics in which the candidate is clearly worse, as sentences: its whole interval beyond the champion's.

    Where there is no interval (one prompt), the value stands for it. Numbers that mean nothing are left out. A smaller share of
    the videos that could be measured is worse too: those that failed are in no mean.
    """
    found = []
    for metric, old in champion.items():
        new = candidate.get(metric)
        if old["value"] is None or old["better"] == "neither" or old["meaningless"]:
            continue
        if new is None or new["value"] is None:
            found.append(f"{metric} was {_said(old)} and is not measured any more")
        elif new["coverage"] < old["coverage"]:
            found.append(f"{metric} covers {new['coverage']:.0%} of the videos asked for, {old['coverage']:.0%} before")
        elif _worse(new, old):
            found.append(f"{metric} {_said(new)} against {_said(old)}")
    return found


def _compare(candidate: ModelVersion, champion: ModelVersion) -> None:
    who = f"version {candidate.version} is not promoted over the champion, version {champion.version}"
    remedy = "Promote it all the same with --accept-regression"
    if candidate.tags[COMPARABLE_TAG] != champion.tags.get(COMPARABLE_TAG):
        raise StageError(
            f"{who}: they were evaluated on other prompts or with other settings, so nobody can tell which is better. Evaluate "
            f"both in the same way. {remedy}."
        )
    worse = regressions(json.loads(candidate.tags[METRICS_TAG]), json.loads(champion.tags[METRICS_TAG]))
    if worse:
        raise StageError(f"{who}, because it is worse: {'; '.join(worse)}. {remedy}.")


def _worse(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    if old["better"] == "higher":
        return bool(_end(new, "high") < _end(old, "low"))
    return bool(_end(new, "low") > _end(old, "high"))


def _end(row: Mapping[str, Any], end: str) -> float:
    return float(row["value"] if row[end] is None else row[end])


def _said(row: Mapping[str, Any]) -> str:
    interval = f" ({row['low']:.3g} to {row['high']:.3g})" if row["low"] is not None else ""
    return f"{row['value']:.3g}{interval}"


def _number(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: row[key] for key in ("value", "low", "high", "n", "coverage", "better")}
    return {**kept, "meaningless": bool(row["note"] and MEANINGLESS in row["note"])}


def _manifests(store: Store, record: RunRecord) -> dict[str, Manifest]:
    found = {n.name: read_manifest(store, n.name, n.fingerprint) for n in record.nodes if n.fingerprint}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def _system(sample: Manifest, adapter: str) -> str | None:
    """The system that is this adapter alone, by the input of ``sample`` that it was wired to."""
    from stages.training.sample import STACKS

    wired = {name for name, found in sample.preimage["inputs"].items() if found == adapter}
    return next((system for system, stack in STACKS.items() if len(stack) == 1 and stack[0] in wired), None)


def _registered(client: MlflowClient, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model)
    except MlflowException:
        client.create_registered_model(model)


def _versions(client: MlflowClient, model: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{model}'"))


def _identity(version: ModelVersion) -> tuple[str | None, str | None]:
    return version.tags.get(ADAPTER_TAG), version.tags.get(COMPARABLE_TAG)


def _aliased(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException:
        return None
