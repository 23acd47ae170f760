"""Quotas: no group gets more than its cap, nothing that has room is refused, nothing is lost, and only the seed draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_schemas.tables import CLIPS, DEDUPE, EMBEDDINGS
from stages.contract import StageError
from stages.curation import quota as quota_module
from stages.curation.balance import BalanceParams, ClusterQuota, Quota, ResolutionQuota, balance
from stages.curation.quota import TAKEN, Grouping, allocate, in_turns
from tests.context import LocalContext

# -- the choice ---------------------------------------------------------------------------------------------------------


def choose_plainly(groupings: Sequence[Grouping], rows: int, total: int | None) -> list[int]:
    """One row at a time, in plain Python; then each refused row by the first of its groups that is full."""
    held: Counter[tuple[int, int]] = Counter()
    taken: list[int] = []
    mine = [[(index, int(g.codes[row])) for index, g in enumerate(groupings)] for row in range(rows)]

    def full(row: int) -> list[int]:
        return [index for index, group in mine[row] if held[index, group] >= groupings[index].cap]

    for row in range(rows):
        if not full(row) and (total is None or len(taken) < total):
            taken.append(row)
            held.update(mine[row])
    return [TAKEN if row in taken else [*full(row), len(groupings)][0] for row in range(rows)]


@st.composite
def problem(draw: st.DrawFn) -> tuple[list[Grouping], int, int | None]:
    rows = draw(st.integers(0, 40))
    groupings = [
        Grouping(
            f"g{n}",
            np.array(draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows)), np.int64),
            draw(st.integers(1, 8)),
        )
        for n in range(draw(st.integers(0, 3)))
    ]
    return groupings, rows, draw(st.none() | st.integers(1, 20))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given=problem(), chunk=st.sampled_from([1, 3, 7, 65_536]))
def test_the_choice_is_that_of_one_row_at_a_time(given: tuple[list[Grouping], int, int | None], chunk: int) -> None:
    groupings, rows, total = given
    before, quota_module.CHUNK = quota_module.CHUNK, chunk
    try:
        fate = allocate(groupings, rows, total)
    finally:
        quota_module.CHUNK = before
    assert fate.tolist() == choose_plainly(groupings, rows, total)
    kept = fate == TAKEN
    for grouping in groupings:
        assert np.bincount(grouping.codes[kept], minlength=1).max() <= grouping.cap
    assert total is None or kept.sum() <= total
    for row in np.flatnonzero(~kept):  # whatever was refused would break a cap even now
        full = [np.sum(kept & (g.codes == g.codes[row])) >= g.cap for g in groupings]
        assert any(full) or (total is not None and kept.sum() >= total)


@given(codes=st.lists(st.integers(0, 4), max_size=30))
def test_turns_take_one_of_each_group_before_a_second_of_any(codes: list[int]) -> None:
    order = in_turns(np.array(codes, np.int64))
    assert sorted(order.tolist()) == list(range(len(codes)))
    seen: Counter[int] = Counter()
    turns = []
    for row in order:
        turns.append(seen[codes[row]])
        seen[codes[row]] += 1
    assert turns == sorted(turns)


# -- the stage ----------------------------------------------------------------------------------------------------------


def tables(rows: Sequence[dict[str, Any]], order: Sequence[int] | None = None) -> dict[str, pa.Table]:
    """Clips, dedupe and embeddings from rows of clip_id, video_id, height, sharpness, vector and kept."""
    base = {
        "video_uri": "/v.mp4", "start_s": 0.0, "end_s": 2.0, "start_frame": 0, "end_frame": 50, "boundary_in": "start",
        "boundary_out": "end", "duration_s": 2.0, "width": 4000, "fps": 25.0,
    }  # fmt: skip
    rows = [rows[i] for i in order] if order is not None else rows
    clips = [{**base, **{k: r[k] for k in ("clip_id", "video_id", "height", "sharpness")}} for r in rows]
    vectors = [
        {"clip_id": r["clip_id"], "encoder": "e", "vector": r["vector"], "aesthetic": None, "clip_text": None}
        for r in rows
        if r["vector"] is not None
    ]
    kept = [{"clip_id": r["clip_id"], "kept": r["kept"], "kept_id": r["clip_id"]} for r in rows]
    return {"clips": CLIPS.table(clips), "dedupe": DEDUPE.table(kept), "embeddings": EMBEDDINGS.table(vectors)}


def many(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Clips of few sources in four directions of embedding, with ties, gaps and copies among them."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        angle = rng.integers(4) * math.pi / 2 + rng.normal(0, 0.05)
        rows.append(
            {
                "clip_id": f"{n:05d}",
                "video_id": f"v{rng.integers(max(1, count // 8))}",
                "height": int(rng.choice([240, 480, 720, 1080])),
                "sharpness": None if rng.random() < 0.1 else float(rng.choice([0.4, 0.5, 0.6])),
                "vector": None if rng.random() < 0.05 else [math.cos(angle), math.sin(angle)],
                "kept": bool(rng.random() < 0.9),
            }
        )
    return rows


def run(tmp_path: Path, inputs: dict[str, pa.Table], params: BalanceParams, seed: int = 0) -> LocalContext:
    context = LocalContext(tmp_path, balance, inputs, seed=seed)
    context.run(params)
    return context


EVERYTHING = BalanceParams(
    max_total=60,
    per_source=Quota(max=4),
    per_cluster=ClusterQuota(clusters=4, share=0.3),
    per_resolution=ResolutionQuota(max=25, edges=(480, 1080)),
)


def fates(context: LocalContext) -> dict[str, tuple[bool, str | None]]:
    return {r["clip_id"]: (r["kept"], r["quota"]) for r in context.outputs["balance"].to_pylist()}


def test_no_quota_is_exceeded_and_every_clip_ends_in_the_ledger(tmp_path: Path) -> None:
    rows = many(200)
    context = run(tmp_path, tables(rows), EVERYTHING)
    table = context.outputs["balance"].to_pylist()
    survivors = {r["clip_id"]: r for r in rows if r["kept"]}
    assert {r["clip_id"] for r in table} == set(survivors)  # copies use up no room and get no row
    kept = [r for r in table if r["kept"]]
    assert max(Counter(survivors[r["clip_id"]]["video_id"] for r in kept).values()) <= 4
    assert max(Counter(r["cluster"] for r in kept).values()) <= 18  # 0.3 of the 60 that can be kept
    assert max(Counter(r["resolution"] for r in kept).values()) <= 25
    assert {r["resolution"] for r in table} == {"below 480", "480-1079", "1080 up"}
    assert len(kept) <= 60
    assert {r["cluster"] for r in table} == {-1, 0, 1, 2, 3}
    told = {r["record_id"]: (r["status"], r["reason"], r["video_id"]) for r in context.ledger_rows}
    assert told == {
        r["clip_id"]: (
            "accepted" if r["kept"] else "rejected",
            None if r["kept"] else f"quota:{r['quota']}",
            survivors[r["clip_id"]]["video_id"],
        )
        for r in table
    }
    assert {r["quota"] for r in table} >= {"source", "cluster"}


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    rows = many(200)
    first = fates(run(tmp_path / "a", tables(rows), EVERYTHING))
    order = np.random.default_rng(1).permutation(len(rows)).tolist()
    assert fates(run(tmp_path / "b", tables(rows, order), EVERYTHING)) == first


def test_the_seed_draws_among_equals_and_only_among_them(tmp_path: Path) -> None:
    rows = [
        {"clip_id": f"{n:02d}", "video_id": "v", "height": 480, "sharpness": score, "vector": None, "kept": True}
        for n, score in enumerate([0.9, *[0.5] * 30, None, math.nan])
    ]
    params = BalanceParams(per_source=Quota(max=10))
    kept = []
    for seed in range(4):
        found = fates(run(tmp_path / str(seed), tables(rows), params, seed))
        kept.append({clip for clip, (good, _) in found.items() if good})
    assert all("00" in one and not one & {"31", "32"} for one in kept)  # the best is in, what has no score comes last
    assert len({frozenset(one) for one in kept}) == 4
    again = fates(run(tmp_path / "again", tables(rows), params, 3))
    assert {clip for clip, (good, _) in again.items() if good} == kept[3]


def test_without_quotas_everything_passes_and_nothing_is_read(tmp_path: Path) -> None:
    rows = many(50)
    context = run(tmp_path, tables(rows), BalanceParams())
    assert fates(context) == {r["clip_id"]: (True, None) for r in rows if r["kept"]}
    assert context.ledger_rows == []  # the stage looked at nothing


def test_spread_makes_clusters_as_equal_as_they_can_be(tmp_path: Path) -> None:
    sizes = {0: 50, 1: 30, 2: 3}
    rows = [
        {
            "clip_id": f"{c}-{n:02d}", "video_id": f"{c}{n}", "height": 480, "sharpness": 0.9 - c / 10, "kept": True,
            "vector": [math.cos(c * 2), math.sin(c * 2)],
        }
        for c, size in sizes.items()
        for n in range(size)
    ]  # fmt: skip
    quotas = {"max_total": 23, "per_cluster": ClusterQuota(clusters=3, share=1.0)}
    by_score = fates(run(tmp_path / "score", tables(rows), BalanceParams(**quotas)))
    assert Counter(c[0] for c, (kept, _) in by_score.items() if kept) == {"0": 23}
    spread = fates(run(tmp_path / "spread", tables(rows), BalanceParams(**quotas, spread="cluster")))
    assert Counter(c[0] for c, (kept, _) in spread.items() if kept) == {"0": 10, "1": 10, "2": 3}


def test_no_survivors_is_no_problem(tmp_path: Path) -> None:
    rows = [{**row, "kept": False} for row in many(5)]
    assert fates(run(tmp_path, tables(rows), EVERYTHING)) == {}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"per_source": {}}, "needs max, share or both"),
        ({"per_resolution": {"max": 3, "edges": [720, 480]}}, "edges must rise"),
        ({"spread": "cluster", "max_total": 3}, "needs per_cluster"),
        ({"per_sauce": {"max": 3}}, "Extra inputs"),
    ],
)
def test_a_quota_that_says_nothing_or_nonsense_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        BalanceParams.model_validate(fields)


@pytest.mark.parametrize(
    ("share", "possible", "cap"), [(0.29, 100, 29), (0.57, 100, 57), (0.58, 50, 29), (0.5, 3, 1), (0.01, 3, 1)]
)
def test_a_share_is_what_it_says_and_one_clip_at_least(share: float, possible: int, cap: int) -> None:
    assert Quota(share=share).cap(possible) == cap


def test_an_unknown_column_and_missing_embeddings_are_told(tmp_path: Path) -> None:
    inputs = tables(many(5))
    with pytest.raises(StageError, match="Did you mean sharpness"):
        run(tmp_path / "a", inputs, BalanceParams(max_total=3, prefer=("sharpnes",)))
    with pytest.raises(StageError, match="ordered by numbers"):
        run(tmp_path / "b", inputs, BalanceParams(max_total=3, prefer=("video_uri",)))
    del inputs["embeddings"]
    with pytest.raises(StageError, match="no embeddings"):
        run(tmp_path / "c", inputs, BalanceParams(per_cluster=ClusterQuota(max=1)))
