"""The interval against an oracle that enumerates every resample."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics.bootstrap import bootstrap


def test_the_interval_is_that_of_all_resamples() -> None:
    # Five prompts have 5^5 = 3125 resamples: the percentiles of their means, without chance.
    values = [0.1, 0.4, 0.35, 0.8, 0.6]
    means = [np.mean(draw) for draw in product(values, repeat=5)]
    low, high = np.percentile(means, [2.5, 97.5])
    found = bootstrap(values, list("abcde"), draws=40_000)
    assert found.value == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)


def test_prompts_are_drawn_not_videos() -> None:
    # Ten equal videos of each of two prompts are two observations: the interval spans both, whatever the number of videos.
    found = bootstrap([0.0] * 10 + [1.0] * 10, ["a"] * 10 + ["b"] * 10)
    assert (found.value, found.low, found.high, found.n, found.prompts) == (0.5, 0.0, 1.0, 20, 2)


def test_a_prompt_with_many_videos_weighs_as_much_as_one_with_few() -> None:
    assert bootstrap([0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"]).value == 0.5


def test_missing_values_are_left_out_and_counted() -> None:
    found = bootstrap([None, 0.5, None], ["a", "b", "c"])
    assert (found.value, found.low, found.high, found.n) == (0.5, None, None, 1)
    assert bootstrap([None], ["a"]).value is None
    with pytest.raises(ValueError, match="finite"):
        bootstrap([float("nan")], ["a"])
    with pytest.raises(ValueError, match="2 values for 1 prompts"):
        bootstrap([1.0, 2.0], ["a"])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.integers(0, 100))
def test_the_interval_holds_the_mean_and_depends_on_order_of_nothing(values: list[float], seed: int) -> None:
    prompts = [f"p{i}" for i in range(len(values))]
    found = bootstrap(values, prompts, seed=seed, draws=200)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == bootstrap(values[::-1], prompts[::-1], seed=seed, draws=200)
