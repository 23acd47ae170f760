"""What differs between two runs: configuration, code, inputs, rows, records and metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc

from pipelines.commits import Commits, kind_of
from pipelines.dag.artifacts import Manifest
from pipelines.dag.canonical import ABSENT, difference, plain
from pipelines.dag.runs import RunRecord, config_path
from pipelines.dag.store import Store

Change = tuple[Any, Any]
"""Before and after; None where there is nothing."""


@dataclass(frozen=True)
class NodeDiff:
    """What differs in one node: ``recipe`` holds parameters, version, seed, models and the world outside the store."""

    node: str
    state: Change
    recipe: Mapping[str, Change] = field(default_factory=dict)
    inputs: Mapping[str, Change] = field(default_factory=dict)
    rows: Mapping[str, Change] = field(default_factory=dict)
    content: tuple[str, ...] = ()
    """Outputs with as many rows, or files, but other content."""
    records: Mapping[str, Change] = field(default_factory=dict)
    metrics: Mapping[str, Change] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        return not (self.recipe or self.inputs or self.rows or self.content or self.records or self.metrics) and (
            {self.state[0], self.state[1]} <= {"SUCCEEDED", "CACHED"} or self.state[0] == self.state[1]
        )


@dataclass(frozen=True)
class RunsDiff:
    before: RunRecord
    after: RunRecord
    run: Mapping[str, Change]
    """Pipeline, code, host and state, where they differ."""
    config: Mapping[str, Change]
    nodes: tuple[NodeDiff, ...]


def compare(commits: Commits, before: RunRecord, after: RunRecord) -> RunsDiff:
    """Everything that differs, node by node, in the order of the later run's recipe."""
    facts = [{"pipeline": r.pipeline, "code": r.code, "host": r.host, "state": r.state} for r in (before, after)]
    configs = [_config(commits.store, run) for run in (before, after)]
    names = [n.name for n in after.nodes] + [
        n.name for n in before.nodes if n.name not in {a.name for a in after.nodes}
    ]
    told = _changes(*configs) if all(configs) else {}
    nodes = tuple(_node(commits, name, before, after) for name in names)
    return RunsDiff(before, after, _changes(*facts), told, nodes)


def _node(commits: Commits, name: str, before: RunRecord, after: RunRecord) -> NodeDiff:
    entries = [next((n for n in run.nodes if n.name == name), None) for run in (before, after)]
    state = (entries[0].state if entries[0] else None, entries[1].state if entries[1] else None)
    one, two = (commits.at.get((name, e.fingerprint)) if e and e.fingerprint else None for e in entries)
    if one is None or two is None:
        return NodeDiff(name, state)
    image = _changes(*({k: v for k, v in m.preimage.items() if k != "inputs"} for m in (one, two)))
    rows, content = {}, []
    for output in sorted({*one.outputs, *two.outputs}):
        a, b = one.outputs.get(output), two.outputs.get(output)
        if (a.rows if a else None) != (b.rows if b else None):
            rows[output] = (a.rows if a else None, b.rows if b else None)
        elif a and b and a.digest != b.digest:
            content.append(output)
    return NodeDiff(
        node=name,
        state=state,
        recipe=image,
        inputs=_changes(one.preimage.get("inputs", {}), two.preimage.get("inputs", {})),
        rows=rows,
        content=tuple(content),
        records=_changes(one.counts, two.counts),
        metrics=_changes(_metrics(commits, one), _metrics(commits, two)),
    )


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Change]:
    found = difference(_leaves(before), _leaves(after))
    return {path: (None if a == ABSENT else a, None if b == ABSENT else b) for path, a, b in found}


def _leaves(value: Any) -> Any:
    """Lists of named things (rules) by name, so that one that was added does not shift the others."""
    value = plain(value)
    if isinstance(value, dict):
        return {key: _leaves(item) for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {str(item["name"]): _leaves({k: v for k, v in item.items() if k != "name"}) for item in value}
    return value


def _config(store: Store, run: RunRecord) -> dict[str, Any]:
    try:
        found: dict[str, Any] = store.read_json(config_path(run.run_id))
    except (FileNotFoundError, ValueError):
        return {}
    found.pop("stages", None)  # the nodes' recipes say it, also for runs that have no such file
    return found


def _metrics(commits: Commits, manifest: Manifest) -> dict[str, float]:
    """The last value of each metric that the stage logged, and the rows of its metrics table by system and metric."""
    last: dict[str, tuple[int, float]] = {}
    if manifest.metrics:
        for line in commits.store.read(manifest.metrics).decode().splitlines():
            point = json.loads(line)
            if point["step"] >= last.get(point["key"], (-1, 0.0))[0]:
                last[point["key"]] = (point["step"], point["value"])
    found = {key: value for key, (_, value) in last.items() if not _of_the_machine(key)}
    for committed in manifest.outputs.values():
        dataset = commits.open(committed)
        if dataset is not None and kind_of(dataset) == "metrics":
            rows = dataset.to_table(columns=["system", "metric", "value"], filter=pc.field("value").is_valid())
            found.update({f"{row['system']}.{row['metric']}": row["value"] for row in rows.to_pylist()})
    return found


def _of_the_machine(key: str) -> bool:
    return "seconds" in key or "per_second" in key or key.startswith("system/")
