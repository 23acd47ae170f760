"""A batch is a function of its step: nothing is lost, doubled or different on another number of workers."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.training.cost import relative_flops, tokens
from models.training.sampler import Row, Sampler, balanced_sizes

ROWS = st.lists(st.sampled_from(["9x64x64/r1", "9x64x64/r2", "17x64x96/r1"]), min_size=8, max_size=60).map(
    lambda buckets: [Row(f"s{i}", bucket) for i, bucket in enumerate(buckets)]
)
FAST = settings(max_examples=40, deadline=None)


def make(rows: list[Row], batch: int = 4, seed: int = 0, remainder: str = "drop") -> Sampler | None:
    try:
        return Sampler(rows, seed=seed, global_batch=batch, remainder=remainder)  # type: ignore[arg-type]
    except ValueError:
        return None


@FAST
@given(rows=ROWS, batch=st.integers(1, 6), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_visits_every_kept_row_once_and_names_the_dropped(
    rows: list[Row], batch: int, seed: int, epoch: int
) -> None:
    sampler = make(rows, batch, seed)
    if sampler is None:
        return
    plan = sampler.plan()
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    seen = Counter(d.sample_id for s in steps for d in sampler.global_step_batch(s))
    assert set(seen.values()) == {1}
    assert sorted([*seen, *sampler.dropped(epoch)]) == sorted(r.sample_id for r in rows)
    assert (len(seen), len(sampler.dropped(epoch))) == (plan.kept, plan.dropped)


@FAST
@given(rows=ROWS, batch=st.integers(1, 12), epoch=st.integers(0, 2))
def test_repeating_fills_the_last_batch_and_names_every_repeat(rows: list[Row], batch: int, epoch: int) -> None:
    sampler = make(rows, batch, remainder="repeat")
    assert sampler is not None
    plan = sampler.plan()
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    draws = [d for s in steps for d in sampler.global_step_batch(s)]
    seen = Counter(d.sample_id for d in draws)
    assert set(seen) == {r.sample_id for r in rows}
    assert sorted((seen - Counter(set(seen))).elements()) == sampler.repeated(epoch)
    assert len(sampler.repeated(epoch)) == plan.repeated
    assert plan.dropped == 0


@FAST
@given(rows=ROWS, seed=st.integers(0, 5))
def test_one_two_and_four_workers_see_the_same_global_batches(rows: list[Row], seed: int) -> None:
    sampler = make(rows, 4, seed)
    if sampler is None:
        return
    for step in range(2 * sampler.steps_per_epoch):
        whole = sampler.rank_batch(step, world_size=1, rank=0)
        for world in (2, 4):
            parts = [d for r in range(world) for d in sampler.rank_batch(step, world_size=world, rank=r)]
            assert parts == whole


@FAST
@given(rows=ROWS, batch=st.integers(1, 6), remainder=st.sampled_from(["drop", "repeat"]))
def test_batches_are_pure_in_bucket_and_no_visit_comes_twice(rows: list[Row], batch: int, remainder: str) -> None:
    sampler = make(rows, batch, remainder=remainder)
    if sampler is None:
        return
    bucket = {r.sample_id: r.bucket for r in rows}
    draws = []
    for step in range(3 * sampler.steps_per_epoch):
        batch_draws = sampler.global_step_batch(step)
        assert len({bucket[d.sample_id] for d in batch_draws}) == 1
        draws += batch_draws
    assert len(set(draws)) == len(draws)


@FAST
@given(rows=ROWS, data=st.data())
def test_a_step_does_not_depend_on_history_or_on_the_order_of_the_manifest(
    rows: list[Row], data: st.DataObject
) -> None:
    sampler = make(rows)
    if sampler is None:
        return
    step = data.draw(st.integers(0, 200))
    other = make(data.draw(st.permutations(rows)))
    assert other is not None
    sampler.global_step_batch(data.draw(st.integers(0, 50)))
    assert other.global_step_batch(step) == sampler.global_step_batch(step)


def test_epochs_and_seeds_shuffle_differently() -> None:
    rows = [Row(f"s{i}", "b") for i in range(40)]
    sampler, other = Sampler(rows, seed=0, global_batch=4), Sampler(rows, seed=1, global_batch=4)
    first = [sampler.global_step_batch(s) for s in range(10)]
    assert [[d.sample_id for d in sampler.global_step_batch(s)] for s in range(10, 20)] != [
        [d.sample_id for d in batch] for batch in first
    ]
    assert [other.global_step_batch(s) for s in range(10)] != first


def test_the_state_is_small_and_refuses_changed_data() -> None:
    rows = [Row(f"sample-{i:08d}", "b") for i in range(20_000)]
    sampler = Sampler(rows, seed=3, global_batch=8)
    state = sampler.state(123_456)
    assert len(json.dumps(state)) < 1000
    sampler.check(state)
    with pytest.raises(ValueError, match="manifest was"):
        Sampler(rows[1:], seed=3, global_batch=8).check(state)


def test_the_plan_says_what_is_lost() -> None:
    # 10 rows of one bucket and 3 of another in batches of 4: 2 batches and 2 dropped, no batch and 3 dropped.
    rows = [Row(f"a{i}", "a") for i in range(10)] + [Row(f"b{i}", "b") for i in range(3)]
    plan = Sampler(rows, seed=0, global_batch=4).plan()
    assert (plan.kept, plan.dropped, plan.steps_per_epoch) == (8, 5, 2)
    assert plan.dropped_share == pytest.approx(5 / 13)
    assert "13 rows, 8 kept, 5 dropped (38.5%)" in plan.describe()


def test_errors_name_the_remedy() -> None:
    rows = [Row("a", "x"), Row("b", "x")]
    with pytest.raises(ValueError, match=r"no bucket holds a whole batch of 4 \(x: 2\).*remainder: repeat"):
        Sampler(rows, seed=0, global_batch=4)
    with pytest.raises(ValueError, match="twice"):
        Sampler([*rows, Row("a", "y")], seed=0, global_batch=1)
    with pytest.raises(ValueError, match="cannot be split evenly over 3 workers"):
        Sampler(rows, seed=0, global_batch=2).rank_batch(0, world_size=3, rank=0)


WAN_14B = {"patch_size": [1, 2, 2], "num_attention_heads": 40, "attention_head_dim": 128}


def test_tokens_and_flops_are_those_of_the_published_models() -> None:
    # Wan 14B at 81x480x832: latents 21x60x104, so 21 * 30 * 52 tokens; attention overtakes the linear layers at 6 d.
    assert tokens((16, 21, 60, 104), 0, WAN_14B) == 32_760
    assert tokens((16, 21, 60, 104), 2, WAN_14B) == 32_760 + 2 * 30 * 52
    assert relative_flops(6 * 5120, WAN_14B) == 2 * 6 * 5120
    # CogVideoX 5B at 49x480x720 has 13 x 1350 video tokens.
    cog = {"patch_size": 2, "patch_size_t": None, "num_attention_heads": 48, "attention_head_dim": 64}
    assert tokens((16, 13, 60, 90), 1, cog) == 14 * 1350


@FAST
@given(rows=ROWS, batch=st.integers(1, 4), costs=st.tuples(*[st.floats(1, 50)] * 3))
def test_batches_are_balanced_by_flops_and_split_over_any_workers(
    rows: list[Row], batch: int, costs: tuple[float, float, float]
) -> None:
    cost = dict(zip(["9x64x64/r1", "9x64x64/r2", "17x64x96/r1"], costs, strict=True))
    sizes = balanced_sizes(rows, cost, batch)
    dearest = max(cost[bucket] for bucket in sizes)
    counts = Counter(row.bucket for row in rows)
    for bucket, size in sizes.items():
        assert size % batch == 0
        assert size == batch or size * cost[bucket] <= batch * dearest * (1 + 1e-6)
        # No more would fit: in cost, or in rows.
        assert (size + batch) * cost[bucket] > batch * dearest * (1 - 1e-6) or size + batch > counts[bucket]
    sampler = Sampler(rows, seed=0, global_batch=batch, remainder="repeat", sizes=sizes)
    bucket_of = {row.sample_id: row.bucket for row in rows}
    seen: Counter[str] = Counter()
    draws = []
    for step in range(2 * sampler.steps_per_epoch):
        drawn = sampler.global_step_batch(step)
        assert len(drawn) == sizes[bucket_of[drawn[0].sample_id]]
        parts = [d for rank in range(batch) for d in sampler.rank_batch(step, world_size=batch, rank=rank)]
        assert parts == drawn
        draws += drawn
        if step < sampler.steps_per_epoch:
            seen.update(d.sample_id for d in drawn)
    assert set(seen) == set(bucket_of)
    assert len(set(draws)) == len(draws)
    assert sorted((seen - Counter(set(seen))).elements()) == sampler.repeated(0)


def test_another_size_of_one_bucket_is_another_run() -> None:
    rows = [Row(f"s{i}", "b") for i in range(12)]
    state = Sampler(rows, seed=0, global_batch=2).state(5)
    with pytest.raises(ValueError, match="sizes was"):
        Sampler(rows, seed=0, global_batch=2, sizes={"b": 4}).check(state)
