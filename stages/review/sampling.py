"""Which clips people see: every survivor, and a share of those the rules rejected, with a known probability of being drawn.

Without the rejected ones nobody could say what a threshold misses: its recall would be unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

KEPT = "kept"
CHOSEN = pa.schema([("clip_id", pa.string()), ("stratum", pa.string()), ("probability", pa.float64())])


def draw_sizes(rejected: Mapping[str, int], survivors: int, share: float) -> dict[str, int]:
    """How many rejected clips to draw from each rule's stratum.

    ``share`` is relative to the survivors, so that the campaign grows by that share and not with the millions a rule
    may reject. Strata get their proportion, and each at least one: a rule that is never drawn could never be judged.
    """
    total = sum(rejected.values())
    if not total or share <= 0 or not survivors:
        return {}
    wanted = math.ceil(share * survivors)
    return {rule: min(size, max(1, round(wanted * size / total))) for rule, size in sorted(rejected.items()) if size}


def choose(selection: pads.Dataset, survivors: pads.Dataset, share: float, seed: int) -> pa.Table:
    """The clips to review: columns clip_id, stratum (``kept`` or the rejecting rule) and probability of being drawn.

    ``survivors`` is the last table that says who is ``kept``: balance, or dedupe where nothing is balanced.

    Within a stratum every clip has the same probability, by the order of a hash of seed and clip_id: the same clips
    are drawn again from the same input.
    """
    import duckdb

    kept = survivors.to_table(columns=["clip_id"], filter=pc.field("kept")).column("clip_id").combine_chunks()
    parts = [_stratum(kept, KEPT, 1.0)]
    with duckdb.connect(":memory:") as connection:
        connection.register("selection", selection)
        counted = connection.execute(
            "SELECT first_failing_rule, count(*) FROM selection WHERE NOT kept AND first_failing_rule IS NOT NULL GROUP BY 1"
        ).fetchall()
        sizes = dict(counted)
        for rule, size in draw_sizes(sizes, len(kept), share).items():
            drawn = connection.execute(
                "SELECT clip_id FROM selection WHERE NOT kept AND first_failing_rule = ? "
                "ORDER BY md5(? || clip_id), clip_id LIMIT ?",
                [rule, f"{seed} ", size],
            ).fetchall()
            parts.append(_stratum(pa.array([clip_id for (clip_id,) in drawn], pa.string()), rule, size / sizes[rule]))
    return pa.concat_tables(parts).sort_by("clip_id")


def _stratum(clip_ids: pa.Array, name: str, probability: float) -> pa.Table:
    rows = len(clip_ids)
    columns = [clip_ids.cast(pa.string()), pa.repeat(name, rows), pa.repeat(probability, rows)]
    return pa.Table.from_arrays(columns, schema=CHOSEN)
