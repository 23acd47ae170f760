"""The merge of adapters is the weighted sum of their deltas, and where it is not, it says by how much."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.training.adapter import AdapterState
from models.training.merge import (
    Factor,
    MergeReport,
    MergeSpec,
    ModuleWeights,
    adapter_of,
    cat,
    factors_of,
    linear,
    lora_scale,
    truncate,
)
from models.training.merge import merge as merge_named

torch.set_num_threads(1)
FAST = settings(max_examples=30, deadline=None)
SHAPES = {"blocks.0.to_q": (24, 16), "blocks.0.to_k": (16, 16), "blocks.1.to_out.0": (16, 24)}  # (out, in)
WEIGHTS = st.floats(-2, 2).filter(lambda w: abs(w) > 1e-3)


def adapter(seed: int, rank: int = 4, alpha: float = 8.0, rslora: bool = False, drop: int = 0) -> dict[str, Factor]:
    """An adapter with a random rank per module; the first ``drop`` modules are missing."""
    draws = torch.Generator().manual_seed(seed)
    made = {}
    for i, (module, (rows, columns)) in enumerate(SHAPES.items()):
        if i < drop:
            continue
        r = rank + i
        A, B = torch.randn(r, columns, generator=draws), torch.randn(rows, r, generator=draws)
        made[module] = Factor(A, B, lora_scale(r, alpha, rslora))
    return made


def merge(
    adapters: list[dict[str, Factor]], weights: list[float], spec: MergeSpec | None = None
) -> tuple[dict[str, Factor], MergeReport]:
    """Adapters named a, b, ... in this order."""
    return merge_named(dict(zip("abcd", adapters, strict=False)), dict(zip("abcd", weights, strict=False)), spec)


def total(adapters: list[dict[str, Factor]], weights: list[float], module: str) -> torch.Tensor:
    terms = [w * a[module].delta() for a, w in zip(adapters, weights, strict=True) if module in a]
    return torch.stack(terms).sum(0)


ADAPTERS = st.builds(
    adapter,
    seed=st.integers(0, 1000),
    rank=st.integers(1, 6),
    alpha=st.sampled_from([1.0, 4.0, 16.0]),
    rslora=st.booleans(),
    drop=st.integers(0, 2),
)


@FAST
@given(parts=st.lists(st.tuples(ADAPTERS, WEIGHTS), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_cat_forward_is_the_sum_of_forwards_for_any_ranks_alphas_signs_and_missing_modules(
    parts: list[tuple[dict[str, Factor], float]], seed: int
) -> None:
    adapters, weights = [a for a, _ in parts], [w for _, w in parts]
    merged, report = merge(adapters, weights)
    assert set(merged) == {m for a in adapters for m in a}
    for module, factor in merged.items():
        x = torch.randn(5, factor.A.shape[1], generator=torch.Generator().manual_seed(seed))
        stacked = sum(w * a[module].scale * (x @ a[module].A.T @ a[module].B.T) for a, w in parts if module in a)
        assert isinstance(stacked, torch.Tensor)
        forward = factor.scale * (x @ factor.A.T @ factor.B.T)
        # Weights of opposite sign may cancel, so the error is measured against the terms, not against their sum.
        size = sum(abs(w) * a[module].scale * a[module].A.norm() * a[module].B.norm() for a, w in parts if module in a)
        assert float((forward - stacked).norm()) <= 1e-6 * float(size * x.norm())
        assert report.ranks[module] == sum(a[module].rank for a in adapters if module in a)
    assert report.relative_error == 0.0


@FAST
@given(one=ADAPTERS, method=st.sampled_from(["cat", "svd", "ties", "dare", "magnitude_prune"]))
def test_one_adapter_with_weight_one_is_itself(one: dict[str, Factor], method: str) -> None:
    merged, report = merge([one], [1.0], MergeSpec(method=method, density=1.0))  # type: ignore[arg-type]
    for module, factor in merged.items():
        torch.testing.assert_close(factor.delta(), one[module].delta(), rtol=1e-5, atol=1e-5)
        assert factor.rank == one[module].rank
    assert report.relative_error < 1e-6


@FAST
@given(
    a=ADAPTERS,
    b=ADAPTERS,
    u=WEIGHTS,
    v=WEIGHTS,
    method=st.sampled_from(["cat", "svd", "ties", "dare", "magnitude_prune"]),
)
def test_the_order_of_adapters_does_not_matter(
    a: dict[str, Factor], b: dict[str, Factor], u: float, v: float, method: str
) -> None:
    spec = MergeSpec(method=method, rank=24)  # type: ignore[arg-type]
    forth, _ = merge_named({"a": a, "b": b}, {"a": u, "b": v}, spec)
    back, _ = merge_named({"b": b, "a": a}, {"a": u, "b": v}, spec)
    for module in forth:
        torch.testing.assert_close(forth[module].delta(), back[module].delta(), rtol=1e-4, atol=1e-4)


@FAST
@given(a=ADAPTERS, b=ADAPTERS, u=WEIGHTS, v=WEIGHTS, rank=st.integers(1, 8))
def test_svd_reports_the_error_that_can_be_measured(
    a: dict[str, Factor], b: dict[str, Factor], u: float, v: float, rank: int
) -> None:
    merged, report = merge([a, b], [u, v], MergeSpec(method="svd", rank=rank))
    for module, factor in merged.items():
        wanted = total([a, b], [u, v], module)
        measured = float((factor.delta() - wanted).norm() / wanted.norm())
        assert report.errors[module] == pytest.approx(measured, abs=2e-5)
        assert factor.rank <= rank
    assert report.weighted_sum_error == pytest.approx(report.relative_error, abs=2e-5)


@FAST
@given(a=ADAPTERS, b=ADAPTERS, energy=st.floats(0.5, 0.999))
def test_svd_by_energy_keeps_at_least_that_share_and_no_rank_too_many(
    a: dict[str, Factor], b: dict[str, Factor], energy: float
) -> None:
    merged, report = merge([a, b], [1.0, 1.0], MergeSpec(method="svd", energy=energy))
    for module, factor in merged.items():
        assert 1 - report.errors[module] ** 2 >= energy - 1e-9
        if factor.rank > 1:
            exact = cat([(x[module], 1.0) for x in (a, b) if module in x])
            _, lost, norm = truncate(exact, rank=factor.rank - 1)
            assert 1 - (lost / norm) ** 2 < energy


def test_svd_at_full_rank_is_exact_and_a_tolerance_is_kept() -> None:
    a, b = adapter(1), adapter(2)
    _, report = merge([a, b], [0.7, 0.3], MergeSpec(method="svd", rank=16))
    assert report.relative_error < 1e-6
    with pytest.raises(ValueError, match=r"truncation loses .* more than max_rel_err 2.0%"):
        merge([a, b], [0.7, 0.3], MergeSpec(method="svd", rank=2, max_rel_err=0.02))


def test_linear_is_refused_because_it_is_wrong_and_its_error_is_shown() -> None:
    a, b = ({m: Factor(f.A, f.B, 1.0) for m, f in adapter(s).items()} for s in (1, 2))
    with pytest.raises(ValueError, match="not the weighted sum"):
        merge([a, b], [0.5, 0.5], MergeSpec(method="linear"))
    merged, report = merge([a, b], [0.5, 0.5], MergeSpec(method="linear", allow_inexact=True))
    # (B1 + B2)(A1 + A2)/2 has the cross terms (B1 A2 + B2 A1)/2 too, about as large as the sum itself.
    assert 0.7 < report.weighted_sum_error < 1.4
    module = "blocks.0.to_q"
    expected = 0.5 * (a[module].B + b[module].B) @ (a[module].A + b[module].A)
    torch.testing.assert_close(merged[module].delta(), expected)
    # With A shared and weights of a half, the norm is exactly doubled (training.md 0.4).
    shared = [(Factor(a[module].A, a[module].B, 1.0), 0.5), (Factor(a[module].A, a[module].B, 1.0), 0.5)]
    torch.testing.assert_close(linear(shared).delta(), 2 * cat(shared).delta())


def test_ties_keeps_entries_that_agree_and_dare_keeps_the_mean() -> None:
    # Deltas [[1, -2]] and [[3, 4]] at density 1: signs elected are + (4) and + (2), so -2 is left out: [[4, 4]].
    one = {"m": Factor(torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0]]), 1.0)}
    two = {"m": Factor(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0]]), 1.0)}
    merged, _ = merge([one, two], [1.0, 1.0], MergeSpec(method="ties", density=1.0))
    torch.testing.assert_close(merged["m"].delta(), torch.tensor([[4.0, 4.0]]))
    a, b = adapter(1), adapter(2)
    dense = [
        merge([a, b], [0.5, 0.5], MergeSpec(method="dare", seed=s, rank=24))[0]["blocks.0.to_q"].delta()
        for s in range(200)
    ]
    wanted = total([a, b], [0.5, 0.5], "blocks.0.to_q")
    # Each entry is unbiased with standard deviation |dW| at density 0.5; the mean of 200 is within about 1/14.
    assert float((torch.stack(dense).mean(0) - wanted).norm() / wanted.norm()) < 0.12
    again, _ = merge([a, b], [0.5, 0.5], MergeSpec(method="dare", seed=7, rank=24))
    torch.testing.assert_close(again["blocks.0.to_q"].delta(), dense[7], rtol=0, atol=0)


def test_magnitude_pruning_keeps_the_largest_entries_of_each() -> None:
    # Half of [[1, -2, 3, -4]] by size is [[0, 0, 3, -4]]; half of [[8, 1, 1, 6]] is [[8, 0, 0, 6]].
    one = {"m": Factor(torch.tensor([[1.0, -2.0, 3.0, -4.0]]), torch.tensor([[1.0]]), 1.0)}
    two = {"m": Factor(torch.tensor([[8.0, 1.0, 1.0, 6.0]]), torch.tensor([[1.0]]), 1.0)}
    merged, report = merge([one, two], [2.0, 0.5], MergeSpec(method="magnitude_prune", density=0.5))
    torch.testing.assert_close(merged["m"].delta(), torch.tensor([[4.0, 0.0, 6.0, -5.0]]))
    # Against the plain weighted sum [[6, -3.5, 6.5, -5]], off by [[2, 3.5, 0.5, 0]]: sqrt(16.5 / 115.5) = 0.378.
    assert report.weighted_sum_error == pytest.approx(math.sqrt(16.5 / 115.5), abs=1e-6)


@FAST
@given(a=ADAPTERS, b=ADAPTERS, u=WEIGHTS, v=WEIGHTS, w=WEIGHTS)
def test_weights_by_layer_hold_where_they_match_and_nowhere_else(
    a: dict[str, Factor], b: dict[str, Factor], u: float, v: float, w: float
) -> None:
    rule = ModuleWeights(r"blocks\.1\..*", {"b": w})
    merged, _ = merge([a, b], [u, v], MergeSpec(per_module=(rule,)))
    for module, factor in merged.items():
        weights = [u, w if module.startswith("blocks.1.") else v]
        torch.testing.assert_close(factor.delta(), total([a, b], weights, module), rtol=1e-4, atol=1e-4)


def test_a_layer_rule_that_does_nothing_is_refused() -> None:
    for rule, said in (
        (ModuleWeights(r"block\..*", {"a": 1.0}), "matches no module; the adapters have for example blocks.0"),
        (ModuleWeights("blocks.*", {"z": 1.0}), "weighs z; there are a, b"),
        (ModuleWeights("blocks(", {"a": 1.0}), "is not a regular expression"),
    ):
        with pytest.raises(ValueError, match=said):
            merge([adapter(1), adapter(2)], [1.0, 1.0], MergeSpec(per_module=(rule,)))


def test_a_convolution_keeps_its_shape_through_a_merge() -> None:
    draws = torch.Generator().manual_seed(0)
    state = {
        "proj.lora_A.weight": torch.randn(2, 4, 3, 3, generator=draws),
        "proj.lora_B.weight": torch.randn(8, 2, 1, 1, generator=draws),
    }
    one = AdapterState(state, {"proj": 2}, {"proj": 4.0})
    merged, _ = merge([factors_of(one), factors_of(one)], [0.5, 0.25], MergeSpec(method="svd"))
    back = adapter_of(merged, {})
    assert back.state["proj.lora_A.weight"].shape == (2, 4, 3, 3)
    torch.testing.assert_close(back.delta("proj"), 0.75 * one.delta("proj"), rtol=1e-4, atol=1e-5)


def test_rank_stabilised_scale_is_alpha_over_the_root_of_the_rank() -> None:
    assert lora_scale(16, 8.0) == 0.5
    assert lora_scale(16, 8.0, rslora=True) == 2.0
    assert math.isclose(lora_scale(2, 1.0, rslora=True), 1 / math.sqrt(2))


def test_conflicts_tell_agreement_from_opposition() -> None:
    a = adapter(1)
    minus = {m: Factor(-f.A, f.B, f.scale) for m, f in a.items()}
    _, report = merge([a, minus], [1.0, 1.0])
    row = report.conflicts["blocks.0.to_q"]
    assert row["cosine_a_b"] == pytest.approx(-1.0)
    assert row["sign_agreement_a_b"] == 0.0
    # Deltas [[1, 1, 0]] and [[2, -1, 5]]: of the two entries where neither is 0, one agrees.
    one = {"m": Factor(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0]]), 1.0)}
    two = {"m": Factor(torch.tensor([[2.0, -1.0, 5.0]]), torch.tensor([[1.0]]), 1.0)}
    assert merge([one, two], [1.0, 1.0])[1].conflicts["m"]["sign_agreement_a_b"] == 0.5
    assert row["norm_a"] == pytest.approx(float(a["blocks.0.to_q"].delta().norm()), rel=1e-5)


def test_adapters_of_another_base_are_refused() -> None:
    other = {"blocks.0.to_q": Factor(torch.ones(2, 7), torch.ones(24, 2), 1.0)}
    with pytest.raises(ValueError, match=r"module blocks.0.to_q: deltas of different shapes"):
        merge([adapter(1), other], [0.5, 0.5])
    with pytest.raises(ValueError, match="give each adapter one weight"):
        merge([adapter(1), adapter(2)], [1.0])
