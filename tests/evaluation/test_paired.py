"""Paired tests over prompts: exact where prompts are few, calibrated where they are many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.statistics.paired import holm, sign_flip_test


def test_p_counts_the_sign_patterns_as_far_from_zero() -> None:
    # 1, 2, 3: of eight patterns only +++ and --- reach a sum of 6.
    assert sign_flip_test(np.array([1.0, 2.0, 3.0])) == 2 / 8
    # 1, 1, -1: sums are 3, 1, 1, 1 and their negatives; all reach 1.
    assert sign_flip_test(np.array([1.0, 1.0, -1.0])) == 1.0
    assert sign_flip_test(np.array([])) == 1.0
    assert sign_flip_test(np.zeros(5)) == 1.0


def test_draws_agree_with_counting() -> None:
    rng = np.random.default_rng(0)
    few = rng.normal(0.4, 1, 14)
    exact = sign_flip_test(few)
    # A difference of 0 adds no information, so 14 prompts and two of no difference have the same p, by draws.
    assert sign_flip_test(np.append(few, [0.0, 0.0]), seed=3) == pytest.approx(exact, abs=0.015)


def test_p_is_below_alpha_as_often_as_alpha_says() -> None:
    rng = np.random.default_rng(1)
    p = np.array([sign_flip_test(rng.standard_t(3, 10)) for _ in range(600)])
    # Standard error of a share of 0.05 over 600 is 0.009.
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.03)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.floats(0.1, 9))
@settings(max_examples=40, deadline=None)
def test_p_knows_neither_scale_nor_sign_nor_order(values: list[float], scale: float) -> None:
    found = np.round(np.array(values), 3)
    p = sign_flip_test(found)
    assert 2 / 2 ** len(found) <= p <= 1 or p == 1.0
    for other in (-found, found[::-1], found * 2.0 ** round(scale)):
        assert sign_flip_test(other) == p


def test_holm_multiplies_the_least_by_all_and_never_orders_anew() -> None:
    # Sorted 0.01, 0.02, 0.04: times 3, 2, 1 gives 0.03, 0.04, 0.04.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
