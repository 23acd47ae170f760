"""Each statistic against an independent implementation or a published example."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.statistics import agreement, preference, thresholds
from models.statistics.resample import estimate

evalica = pytest.importorskip("evalica")
inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
proportion = pytest.importorskip("statsmodels.stats.proportion")

# Four observers, twelve units, five categories, with gaps: Krippendorff, "Computing Krippendorff's Alpha-Reliability"
# (2011), section C. There nominal alpha is 0.743 and ordinal 0.815. Gwet uses the same table in the manual of irrCAC: raw
# agreement 0.81818 (mean over units with two answers), AC1 0.77544.
NAN = np.nan
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def counts_from(ratings: np.ndarray, categories: int) -> np.ndarray:
    """Counts of a table of observers by units with categories 1.. and NaN for a gap."""
    observer, unit = np.nonzero(~np.isnan(ratings))
    codes = ratings[observer, unit].astype(int) - 1
    return agreement.counts_of(unit, codes, (ratings.shape[1], categories))


def plain(function: object, counts: np.ndarray, *more: object) -> float:
    return float(function(counts, np.ones((1, len(counts))), *more)[0])  # type: ignore[operator]


def test_the_published_example() -> None:
    counts = counts_from(PUBLISHED, 5)
    assert plain(agreement.krippendorff_alpha, counts) == pytest.approx(0.743, abs=5e-4)
    assert plain(agreement.krippendorff_alpha, counts, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert plain(agreement.raw_agreement, counts) == pytest.approx(0.81818, abs=5e-6)
    assert plain(agreement.gwet_ac1, counts) == pytest.approx(0.77544, abs=5e-6)


RATINGS = st.integers(2, 5).flatmap(
    lambda people: st.lists(
        st.lists(st.sampled_from([NAN, 1.0, 2.0, 3.0, 4.0]), min_size=people, max_size=people), min_size=3, max_size=20
    )
)


@settings(max_examples=60, deadline=None)
@given(RATINGS)
def test_alpha_is_evalicas(rows: list[list[float]]) -> None:
    ratings = np.array(rows).T
    counts = counts_from(ratings, 4)
    paired = counts[counts.sum(1) >= 2]
    if (paired.sum(0) > 0).sum() < 2:
        assert not len(paired) or not np.isfinite(plain(agreement.krippendorff_alpha, counts))
        return
    for scale in ("nominal", "ordinal"):
        oracle = evalica.alpha(pd.DataFrame(ratings), distance=scale, solver="naive").alpha
        assert plain(agreement.krippendorff_alpha, counts, scale) == pytest.approx(oracle, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=2, max_size=30))
def test_fleiss_and_cohen_are_statsmodels(rows: list[list[int]]) -> None:
    ratings = np.array(rows)
    items = np.repeat(np.arange(len(ratings)), 3)
    counts = agreement.counts_of(items, ratings.ravel(), (len(ratings), 4))
    with np.errstate(all="ignore"):
        fleiss = inter_rater.fleiss_kappa(counts)
        table = np.zeros((4, 4))
        np.add.at(table, (ratings[:, 0], ratings[:, 1]), 1)
        cohen = inter_rater.cohens_kappa(table, return_results=False)
    ones = np.ones((1, len(ratings)))
    ours = agreement.cohen_kappa(ratings[:, 0], ratings[:, 1], 4, ones)[0]
    np.testing.assert_allclose(plain(agreement.fleiss_kappa, counts), fleiss if np.isfinite(fleiss) else NAN, atol=1e-9)
    np.testing.assert_allclose(ours, cohen if np.isfinite(cohen) else NAN, atol=1e-9)


def test_fleiss_refuses_uneven_items_and_measure_takes_the_even_ones() -> None:
    counts = counts_from(PUBLISHED, 5)
    with pytest.raises(ValueError, match="same number of answers"):
        plain(agreement.fleiss_kappa, counts)
    found = agreement.measure("fleiss", counts)
    assert (found.items, found.answers) == (8, 32)  # the eight units that all four observers rated
    assert found.value == pytest.approx(inter_rater.fleiss_kappa(counts[counts.sum(1) == 4]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=12), st.integers(0, 2**16))
def test_a_weight_is_that_many_copies_of_an_item(weights: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(3, [0.5, 0.3, 0.2], size=len(weights)).astype(float)
    copied = np.repeat(counts, weights, axis=0)
    for function in (
        agreement.raw_agreement, agreement.fleiss_kappa, agreement.gwet_ac1, agreement.krippendorff_alpha,
    ):  # fmt: skip
        one = function(counts, np.array([weights], float))[0]
        other = plain(function, copied) if len(copied) else NAN
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Raw agreement of two people who each flip a true answer with probability 0.2: 0.8^2 + 0.2^2 = 0.68."""
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(120):
        wrong = rng.random((80, 2)) < 0.2
        counts = agreement.counts_of(np.repeat(np.arange(80), 2), wrong.ravel().astype(int), (80, 2))
        found = agreement.measure("raw", counts, seed=trial, draws=300)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.68 <= found.high
    # 95% of 120 is 114; fewer than 106 has a probability below 0.0005 (binomial)
    assert covered >= 106


def test_answers_to_one_item_widen_the_interval() -> None:
    """Ten answers to each of 20 items that all go one way per item tell no more than 20 answers."""
    good = np.repeat([10.0, 0.0], 10)
    clustered = preference.gsb(good, np.zeros(20), 10 - good)
    single = np.repeat([1.0, 0.0], 100)
    independent = preference.gsb(single, np.zeros(200), 1 - single)
    assert clustered.value == independent.value == 0
    assert clustered.low is not None
    assert independent.low is not None
    assert clustered.low < 2.5 * independent.low  # sqrt(10) = 3.2 times as wide


def test_one_item_has_no_interval_and_none_no_value() -> None:
    found = preference.gsb(np.array([2.0]), np.array([1.0]), np.array([1.0]))
    assert (found.value, found.low, found.high) == (0.25, None, None)
    assert estimate(lambda w: w.sum(1), 0, 0).value is None


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=50, deadline=None)
def test_wilson_and_sign_test(good: int, bad: int) -> None:
    n = good + bad
    found = preference.wilson(good, n)
    if n == 0:
        assert found is None
        assert preference.sign_test(0, 0) == 1
        return
    assert found is not None
    oracle = proportion.proportion_confint(good, n, method="wilson")
    np.testing.assert_allclose(found[1:], oracle, atol=1e-9)
    assert preference.sign_test(good, bad) == pytest.approx(proportion.binom_test(good, n, 0.5))


def matchups(seed: int, systems: int, answers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, systems, answers)
    b = (a + rng.integers(1, systems, answers)) % systems
    strength = np.linspace(1, -1, systems)
    chance = 1 / (1 + np.exp(strength[b] - strength[a]))
    outcome = np.where(rng.random(answers) < 0.2, 0.5, (rng.random(answers) < chance).astype(float))
    return a, b, outcome


@pytest.mark.parametrize("seed", range(5))
def test_bradley_terry_is_evalicas(seed: int) -> None:
    a, b, outcome = matchups(seed, 4, 300)
    wins = np.zeros((1, 4, 4))
    np.add.at(wins, (0, a, b), outcome)
    np.add.at(wins, (0, b, a), 1 - outcome)
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    said = evalica.bradley_terry(
        list(a), list(b), [winner[o] for o in outcome], tolerance=1e-12, limit=10_000, solver="naive"
    )
    scores = np.log([said.scores[n] for n in range(4)])
    np.testing.assert_allclose(preference.bradley_terry(wins, prior=0)[0], scores - scores.mean(), atol=1e-5)


def test_systems_are_ranked_with_intervals_and_the_undefeated_stay_finite() -> None:
    a, b, outcome = matchups(1, 4, 400)
    ranked = preference.rank_systems(["s0", "s1", "s2", "s3"], a, b, outcome, np.arange(400) // 4)
    assert [one.system for one in ranked] == ["s0", "s1", "s2", "s3"]
    for one in ranked:
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high
    assert sum(one.wins for one in ranked) == sum(one.losses for one in ranked)
    best, worst = preference.rank_systems(["x", "y"], np.zeros(5), np.ones(5), np.ones(5), np.arange(5))
    assert np.isfinite(best.value)
    assert best.value == -worst.value


def test_systems_that_never_met_are_not_ranked() -> None:
    with pytest.raises(ValueError, match="not all compared"):
        preference.rank_systems(["a", "b", "c", "d"], np.array([0, 2]), np.array([1, 3]), np.ones(2), np.arange(2))


def world(seed: int, drawn: int) -> tuple[np.ndarray, np.ndarray, thresholds.Judged]:
    """4,000 clips whose quality follows their score; a rule at 0.5 keeps the upper half, ``drawn`` others are seen."""
    rng = np.random.default_rng(seed)
    scores = rng.random(4000)
    good = rng.random(4000) < scores
    kept = np.flatnonzero(scores >= 0.5)
    rejected = rng.choice(np.flatnonzero(scores < 0.5), drawn, replace=False)
    seen = np.concatenate([kept, rejected])
    weight = np.concatenate([np.ones(len(kept)), np.full(drawn, (4000 - len(kept)) / max(drawn, 1))])
    return scores, good, thresholds.Judged(scores[seen], good[seen], weight)


def test_a_few_rejected_clips_estimate_the_recall_of_all() -> None:
    errors = []
    for seed in range(30):
        scores, good, judged = world(seed, 200)
        for threshold in (0.3, 0.5, 0.7):
            truth = (good & (scores >= threshold)).sum() / good.sum()
            found = thresholds.point(judged, threshold, 0.5, rejected_drawn=True)
            assert found.recall is not None
            errors.append(found.recall - truth)
    assert abs(np.mean(errors)) < 0.01  # the weights make it unbiased
    assert np.max(np.abs(errors)) < 0.12


def test_without_rejected_clips_recall_is_unknown_and_so_is_all_beyond_the_threshold() -> None:
    _, _, judged = world(0, 0)
    points = thresholds.curve(judged, 0.5, rejected_drawn=False)
    assert all(one.recall is None for one in points)
    assert all((one.precision is None) == (one.threshold < 0.5) for one in points)


@pytest.mark.parametrize("direction", [1, -1])
def test_the_suggestion_keeps_most_where_precision_holds(direction: int) -> None:
    _, _, judged = world(3, 400)
    judged = thresholds.Judged(judged.scores * direction, judged.accepted, judged.weight, direction)
    points = thresholds.curve(judged, 0.5 * direction, rejected_drawn=True)
    chosen = thresholds.suggest(points, 0.7)
    assert chosen is not None
    # precision of keeping scores above t is (1 + t) / 2: 0.7 at t = 0.4
    assert chosen.threshold * direction == pytest.approx(0.4, abs=0.08)
    assert thresholds.suggest(points, 1.01) is None
    interval = thresholds.with_interval(judged, chosen.threshold, "recall")
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < 0.84 < interval.high  # (1 - 0.4^2)
