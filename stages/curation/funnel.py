"""Where the footage went: records and hours lost to each rule and stage, how rules overlap, what lies either side of a line.

Pure functions over tables; the report draws what they return, and another threshold is tried by calling them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from stages.curation.expressions import column
from stages.curation.rules import Bound, Rule, as_dataset, compile_rules, failed, outcomes


@dataclass(frozen=True)
class RuleStep:
    """One rule in the funnel. Hours are of footage.

    ``records_in`` reached the rule; ``lost`` of them failed here first. ``fails`` fail it wherever they stopped, ``only`` fail
    no other rule, ``missing`` have no value for it.
    """

    rule: str
    records_in: int
    lost: int
    hours_lost: float
    fails: int
    only: int
    missing: int
    bounds: tuple[Bound, ...]


@dataclass(frozen=True)
class Funnel:
    """A rule set applied to a table of clips. ``overlap[i][j]`` counts clips that fail both rule i and rule j."""

    records: int
    hours: float
    kept: int
    hours_kept: float
    review: int
    steps: tuple[RuleStep, ...]
    overlap: tuple[tuple[int, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rule_funnel(rules: Sequence[Rule], clips: pa.Table | pads.Dataset) -> Funnel:
    """Apply the rules in order to a table of clips (schema ``clips``) and account for every record and hour.

    One streaming scan. Raises ``RuleError`` where a rule does not fit the table.
    """
    compiled = compile_rules(rules, clips)
    count = len(compiled)
    records = review = 0
    total_s = kept_s = 0.0
    kept = 0
    first = np.zeros(count, np.int64)
    first_s = np.zeros(count)
    only = np.zeros(count, np.int64)
    missing = np.zeros(count, np.int64)
    overlap = np.zeros((count, count), np.int64)
    asks = np.asarray([rule.rule.missing == "review" for rule in compiled], bool)
    for batch in outcomes(compiled, clips, carry=("duration_s",)):
        rows = batch.num_rows
        seconds = np.asarray(batch.column("duration_s").to_numpy(zero_copy_only=False), float)
        fails_NR = np.zeros((rows, count), bool)
        missing_NR = np.zeros((rows, count), bool)
        for index, rule in enumerate(compiled):
            passes = batch.column(str(index))
            fails_NR[:, index] = failed(rule, passes).to_numpy(zero_copy_only=False)
            missing_NR[:, index] = pc.is_null(passes).to_numpy(zero_copy_only=False)
        lost = fails_NR.any(axis=1)
        if count:
            which = fails_NR.argmax(axis=1)[lost]
            first += np.bincount(which, minlength=count)
            first_s += np.bincount(which, weights=seconds[lost], minlength=count)
            alone = fails_NR.sum(axis=1) == 1
            only += fails_NR[alone].sum(axis=0)
            missing += missing_NR.sum(axis=0)
            as_float = fails_NR.astype(np.float64)  # a product of floats is many times faster than one of integers
            overlap += np.rint(as_float.T @ as_float).astype(np.int64)
            review += int((~lost & (missing_NR & asks).any(axis=1)).sum())
        records += rows
        total_s += float(seconds.sum())
        kept += int((~lost).sum())
        kept_s += float(seconds[~lost].sum())
    before = records - np.concatenate([[0], np.cumsum(first)[:-1]]) if count else np.zeros(0, np.int64)
    steps = tuple(
        RuleStep(
            rule=rule.rule.name,
            records_in=int(before[index]),
            lost=int(first[index]),
            hours_lost=float(first_s[index] / 3600),
            fails=int(overlap[index, index]),
            only=int(only[index]),
            missing=int(missing[index]),
            bounds=rule.bounds,
        )
        for index, rule in enumerate(compiled)
    )
    return Funnel(records, total_s / 3600, kept, kept_s / 3600, review, steps, tuple(map(tuple, overlap.tolist())))


@dataclass(frozen=True)
class Histogram:
    """Counts of a column's values between ``edges`` (one more than counts); ``missing`` have none.

    The edges span the middle 99% of the values and every bound; ``below`` and ``above`` count what lies outside.
    """

    column: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int
    missing: int
    bounds: tuple[Bound, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def histogram(clips: pa.Table | pads.Dataset, name: str, bounds: Sequence[Bound] = (), bins: int = 40) -> Histogram:
    """Distribution of a numeric column with the thresholds that are drawn through it."""
    bounds = tuple(bound for bound in bounds if bound.column == name)
    values, gaps = _values(clips, name)
    if not len(values):
        return Histogram(name, (), (), 0, 0, gaps, bounds)
    low, high = np.quantile(values, [0.005, 0.995])
    drawn = [bound.value for bound in bounds if np.isfinite(bound.value)]
    low, high = float(min([low, *drawn])), float(max([high, *drawn]))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    below, above = int((values < low).sum()), int((values > high).sum())
    return Histogram(name, tuple(edges.tolist()), tuple(counts.tolist()), below, above, gaps, bounds)


@dataclass(frozen=True)
class Sides:
    """Clips nearest to a line: ids with their value, nearest first."""

    bound: Bound
    failing: tuple[tuple[str, float], ...]
    passing: tuple[tuple[str, float], ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def either_side(clips: pa.Table | pads.Dataset, bound: Bound, count: int = 6) -> Sides:
    """The clips just inside and just outside a bound: what moving the threshold would change first. Ties by clip_id."""
    dataset = as_dataset(clips)
    value = column(bound.column, dataset.schema).expr
    limit = pc.scalar(bound.value)
    inside = value >= limit if bound.side == "lower" else value <= limit
    parts = []
    for condition in (~inside, inside):
        table = dataset.to_table(columns={"clip_id": pc.field("clip_id"), "value": value}, filter=condition)
        distance = pc.abs(pc.subtract(table.column("value"), bound.value))
        near = table.append_column("distance", distance).sort_by([("distance", "ascending"), ("clip_id", "ascending")])
        near = near.slice(0, count)
        parts.append(tuple(zip(near.column("clip_id").to_pylist(), near.column("value").to_pylist(), strict=True)))
    return Sides(bound, parts[0], parts[1])


@dataclass(frozen=True)
class StageLoss:
    """Records of one stage with one fate. ``hours`` is null where the records have no known duration."""

    stage: str
    status: str
    reason: str | None
    records: int
    hours: float | None


def stage_losses(ledger: pa.Table, durations: pa.Table) -> list[StageLoss]:
    """Sum the ledger by stage, status and reason, sorted by them.

    ``durations`` has ``record_id`` and ``duration_s`` (seconds) of videos and clips alike.
    """
    joined = ledger.select(["record_id", "stage", "status", "reason"]).join(
        durations.select(["record_id", "duration_s"]), "record_id", join_type="left outer"
    )
    summed = joined.group_by(["stage", "status", "reason"]).aggregate([([], "count_all"), ("duration_s", "sum")])
    losses = []
    for row in summed.to_pylist():
        seconds = row["duration_s_sum"]
        hours = None if seconds is None else seconds / 3600
        losses.append(StageLoss(row["stage"], row["status"], row["reason"], row["count_all"], hours))
    return sorted(losses, key=lambda loss: (loss.stage, loss.status, loss.reason or ""))


def _values(clips: pa.Table | pads.Dataset, name: str) -> tuple[np.ndarray, int]:
    dataset = as_dataset(clips)
    table = dataset.to_table(columns={"value": column(name, dataset.schema).expr})
    values = table.column("value")
    return np.asarray(values.drop_null().to_numpy(), float), values.null_count
