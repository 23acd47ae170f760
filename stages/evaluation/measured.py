"""What was measured of each sample, a column group of the store's records per metric: only what is missing is done.

A changed metric, or another model behind it, measures its own numbers again and nobody else's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from models.metrics.toolbox import ToolSpec
from stages.contract import Context, Group, Shards
from stages.evaluation.measure import Measurer
from stages.evaluation.params import EvaluateParams
from stages.work import RECORD_KEY, Item, Outcome, attempt

BATCH = 4
_ROW = pa.schema([(RECORD_KEY, pa.string()), ("value", pa.float64())])


@dataclass(frozen=True)
class Measured:
    """Values by record_id and metric; a sample that failed has none at all. ``recipes`` by metric; ``seconds`` of this run."""

    values: dict[str, dict[str, float | None]]
    failed: dict[str, Outcome]
    seconds: dict[str, float]
    recipes: dict[str, str]


class MeasureWorker:
    """Measures what its samples lack, and commits it metric by metric."""

    def __init__(self, metrics: Sequence[str], tools: ToolSpec, shards: Shards) -> None:
        self.measurer, self.shards = Measurer(metrics, tools), shards

    def __call__(self, batch: tuple[tuple[str, ...], Sequence[Item]]) -> list[Outcome]:
        metrics, items = batch
        outcomes, found = [], dict[str, dict[str, float | None]]()
        for item in items:
            outcome, values = attempt(item, lambda payload: self.measurer.measure(payload, metrics))
            outcomes.append(outcome)
            if values is not None:
                found[item.key] = values
        if found:
            rows = {
                metric: pa.Table.from_pylist(
                    [{RECORD_KEY: key, "value": values[metric]} for key, values in found.items()], schema=_ROW
                )
                for metric in metrics
            }
            self.shards.commit(rows, list(found))
        return outcomes


def measure_all(ctx: Context, params: EvaluateParams, items: Sequence[Item]) -> Measured:
    """Every wanted metric of every item, from the records where they hold it."""
    recipes = {key: ctx.recipe("measure", "3", what) for key, what in params.measuring_each().items()}
    groups = {key: Group(key, recipe) for key, recipe in recipes.items()}
    done = dict(zip(groups, ctx.records.done_each(list(groups.values())), strict=True))
    lacking: dict[tuple[str, ...], dict[str, Item]] = defaultdict(dict)
    for item in items:
        missing = tuple(metric for metric in groups if item.key not in done[metric])
        if missing:
            lacking[missing].setdefault(item.key, item)
    wanted = tuple(metric for metric in groups if any(metric in missing for missing in lacking))
    batches = [
        (missing, part[start : start + BATCH])
        for missing, part in ((missing, list(todo.values())) for missing, todo in lacking.items())
        for start in range(0, len(part), BATCH)
    ]
    init = {
        "metrics": wanted,
        "tools": params.tools().only(params.needs(wanted)),
        "shards": ctx.records.shards([groups[metric] for metric in wanted]),
    }
    broken: dict[str, Outcome] = {}
    seconds: dict[str, float] = {}
    with ctx.progress(sum(len(todo) for todo in lacking.values()), "videos") as bar:
        for outcomes in ctx.map(MeasureWorker, batches, init=init):
            for outcome in outcomes:
                seconds[outcome.record_id] = outcome.seconds
                if outcome.error_type is not None:
                    broken[outcome.key] = outcome
            bar.advance(len(outcomes), failed=sum(o.error_type is not None for o in outcomes))
    failed = {item.record_id: broken[item.key] for item in items if item.key in broken}
    return Measured(_values(ctx, groups, [i for i in items if i.record_id not in failed]), failed, seconds, recipes)


def _values(ctx: Context, groups: Mapping[str, Group], items: Sequence[Item]) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {item.record_id: {} for item in items}
    keys = sorted({item.key for item in items})
    if not keys:
        return found  # every sample failed, and no record says what its columns would be
    for metric, group in groups.items():
        table = ctx.records.read(group, keys)
        by_key = dict(zip(table.column(RECORD_KEY).to_pylist(), table.column("value").to_pylist(), strict=True))
        for item in items:
            found[item.record_id][metric] = by_key[item.key]
    return found
