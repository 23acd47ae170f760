"""Draws depend on seed, sample, visit and purpose, and on nothing else."""

from __future__ import annotations

import hashlib

import pytest
import torch

from models.training.randomness import TimestepSpec, choose_views, generator, happens, noise, seed_of, timestep

torch.set_num_threads(1)


def test_seeds_are_golden_and_parts_do_not_run_together() -> None:
    # By definition the 64-bit BLAKE2b of the typed, length-prefixed parts, shifted right by one.
    raw = hashlib.blake2b(b"int:1:0str:3:abcint:1:2str:5:noise", digest_size=8).digest()
    assert seed_of(0, "abc", 2, "noise") == int.from_bytes(raw, "big") // 2 == 8415484250308447031
    assert seed_of("a", "bc") != seed_of("ab", "c")
    assert seed_of(1) != seed_of("1")


def test_every_part_changes_the_stream_and_nothing_else_does() -> None:
    def first(seed: int, sample: str, visit: int, purpose: str) -> float:
        return float(torch.rand((), generator=generator(seed, sample, visit, purpose)))

    base = first(0, "a", 0, "noise")
    torch.manual_seed(99)
    torch.rand(7)
    assert first(0, "a", 0, "noise") == base
    others = [first(1, "a", 0, "noise"), first(0, "b", 0, "noise"), first(0, "a", 1, "noise"), first(0, "a", 0, "t")]
    assert len({base, *others}) == 5


def test_noise_is_standard_normal() -> None:
    draws = noise(0, "a", 0, (4, 50, 50))
    assert draws.dtype == torch.float32
    # 10,000 draws: the mean's standard error is 0.01, so 0.05 is five of them.
    assert abs(float(draws.mean())) < 0.05
    assert abs(float(draws.std()) - 1) < 0.05


@pytest.mark.parametrize(
    ("spec", "low", "high", "mean"),
    [
        (TimestepSpec(), 0, 999, 499.5),
        (TimestepSpec(high=0.5), 0, 499, 249.5),
        (TimestepSpec(distribution="logit_normal"), 0, 999, 499.5),
        # u -> 3u / (1 + 2u): its mean over u in [0, 1] is (3/2)(1 - ln(3)/2) = 0.676.
        (TimestepSpec(shift=3.0), 0, 999, 675.5),
    ],
)
def test_timesteps_follow_their_distribution(spec: TimestepSpec, low: int, high: int, mean: float) -> None:
    draws = torch.tensor([timestep(0, f"s{i}", 0, spec) for i in range(2000)], dtype=torch.float64)
    assert low <= int(draws.min()) <= int(draws.max()) <= high
    # Standard deviation is at most 289, so the standard error of 2,000 draws is at most 6.5: 26 is four of them.
    assert abs(float(draws.mean()) - mean) < 26


def test_views_and_drops_cover_their_range() -> None:
    views = [choose_views(0, f"s{i}", 0, 2, 3) for i in range(200)]
    assert {v for pair in views for v in pair} == {0, 1, 2}
    assert all(len(pair) == 2 for pair in views)
    share = sum(happens(0, f"s{i}", 0, "caption", 0.1) for i in range(3000)) / 3000
    assert 0.08 < share < 0.12
    assert not happens(0, "s", 0, "caption", 0.0)
    assert happens(0, "s", 0, "caption", 1.0)


def test_a_wrong_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low 0.5 and high 0.5"):
        TimestepSpec(low=0.5, high=0.5)
    with pytest.raises(ValueError, match=r"caption: probability 1.5"):
        happens(0, "s", 0, "caption", 1.5)
