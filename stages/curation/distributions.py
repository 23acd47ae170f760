"""How a column's values are spread, and which clips lie nearest to a line drawn through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from stages.curation.expressions import column
from stages.curation.rules import Bound, as_dataset

SCAN_ROWS = 1 << 17


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
    """Distribution of a numeric column with the thresholds that are drawn through it. One column is in memory."""
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


def _values(clips: pa.Table | pads.Dataset, name: str) -> tuple[np.ndarray, int]:
    dataset = as_dataset(clips)
    table = dataset.to_table(columns={"value": column(name, dataset.schema).expr})
    values = table.column("value")
    present = np.asarray(values.drop_null().to_numpy(), float)
    return present[np.isfinite(present)], values.null_count


@dataclass(frozen=True)
class Sides:
    """Clips nearest to a line: ids with their value, nearest first."""

    bound: Bound
    failing: tuple[tuple[str, float], ...]
    passing: tuple[tuple[str, float], ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def either_side(clips: pa.Table | pads.Dataset, bounds: Sequence[Bound], count: int = 6) -> list[Sides]:
    """For each bound the clips just inside and just outside: what moving the threshold would change first.

    One streaming scan for all bounds. Ties by clip_id.
    """
    dataset = as_dataset(clips)
    names = sorted({bound.column for bound in bounds})
    columns = {"clip_id": pc.field("clip_id")} | {f"value:{n}": column(n, dataset.schema).expr for n in names}
    nearest: dict[tuple[int, bool], pa.Table] = {}
    for batch in dataset.scanner(columns=columns, batch_size=SCAN_ROWS).to_batches():
        for index, bound in enumerate(bounds):
            value = batch.column(f"value:{bound.column}")
            passes = (
                pc.greater_equal(value, bound.value) if bound.side == "lower" else pc.less_equal(value, bound.value)
            )
            for inside in (False, True):
                chosen = passes if inside else pc.invert(passes)
                before = nearest.get((index, inside))
                nearest[index, inside] = _nearest(batch.column("clip_id"), value, bound.value, chosen, before, count)
    return [Sides(bound, _pairs(nearest, (i, False)), _pairs(nearest, (i, True))) for i, bound in enumerate(bounds)]


def _nearest(
    ids: pa.Array, value: pa.Array, line: float, chosen: pa.Array, before: pa.Table | None, count: int
) -> pa.Table:
    """The ``count`` nearest of these clips and those found before."""
    distance = pc.abs(pc.subtract(value, line))
    rows = pa.table({"clip_id": ids, "value": value, "distance": distance}).filter(chosen)
    if before is not None and before.num_rows == count:
        # hardly any row of a later batch is nearer than the worst so far, so next to nothing is sorted
        rows = rows.filter(pc.less_equal(rows.column("distance"), before.column("distance")[-1]))
    if before is not None:
        rows = pa.concat_tables([before, rows])
    if not rows.num_rows:  # Arrow's selection takes no empty table
        return rows
    order = pc.select_k_unstable(rows, k=count, sort_keys=[("distance", "ascending"), ("clip_id", "ascending")])
    return rows.take(order)


def _pairs(nearest: dict[tuple[int, bool], pa.Table], key: tuple[int, bool]) -> tuple[tuple[str, float], ...]:
    table = nearest.get(key)
    if table is None:
        return ()
    return tuple(zip(table.column("clip_id").to_pylist(), table.column("value").to_pylist(), strict=True))
