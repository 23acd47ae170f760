"""DPO's options: objectives, several losers, a reference that moves or is known before, on v-prediction and on flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone
from models.backbones.load import BackboneSpec, load_backbone
from models.training.batch import PreferenceBatch
from models.training.feed import Pair, winner_groups
from models.training.loop import TrainSpec, train
from models.training.lora import LoraSpec, adapter_parameters, adapter_state, remove_adapter
from models.training.methods import Dpo, FrozenAdapter, Sft
from models.training.objective import squared_error_B
from tests.training_models.conftest import LATENTS, draw

LORA = LoraSpec(rank=4, alpha=4.0, dropout=0.2)
Pairs = Callable[[int], PreferenceBatch]


@pytest.fixture
def base(backbone: Backbone, batches: Callable[[int], Any]) -> FrozenAdapter:
    return FrozenAdapter(train(backbone, Sft(LORA), batches, TrainSpec(steps=2, learning_rate=1e-2), None).adapter)


def attached(backbone: Backbone, dpo: Dpo) -> None:
    """The method on the backbone, its policy moved off the reference, so that no number is zero."""
    dpo.attach(backbone, seed=0)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(sorted(adapter_parameters(backbone, "dpo").items())):
            if "lora_B" in name:
                parameter.copy_(0.05 * draw(100 + index, *parameter.shape))


def detached(backbone: Backbone, *names: str) -> None:
    for name in names:
        remove_adapter(backbone, name)


def test_objectives_agree_on_the_margin_and_start_where_they_should(
    backbone: Backbone, base: FrozenAdapter, pairs: Pairs
) -> None:
    # At B = 0 the margin is 0: ln 2, max(0, 1 - 0) = 1, (0 - 1/2)^2 = 1/4.
    for objective, first in (("sigmoid", math.log(2)), ("hinge", 1.0), ("ipo", 0.25)):
        dpo = Dpo(LORA, [base], objective=objective)  # type: ignore[arg-type]
        dpo.attach(backbone, seed=0)
        assert abs(float(dpo.loss(backbone, pairs(0)).loss.detach()) - first) < 1e-6
        detached(backbone, "dpo", "sft")
    margins = {}
    for objective in ("sigmoid", "hinge", "ipo"):
        dpo = Dpo(LORA, [base], objective=objective, beta=50.0)  # type: ignore[arg-type]
        attached(backbone, dpo)
        out = dpo.loss(backbone, one_pair(pairs(0)))
        margins[objective] = (float(out.metrics["margin"]), float(out.loss.detach()))
        detached(backbone, "dpo", "sft")
    m, sigmoid = margins["sigmoid"]
    assert abs(m) > 1e-3
    assert sigmoid == pytest.approx(math.log1p(math.exp(-m)), rel=1e-4)
    assert margins["hinge"] == pytest.approx((m, max(0.0, 1.0 - m)), rel=1e-4)
    # IPO (h - 1 / (2 b))^2 with h = margin / b and b = beta / 2, times b^2.
    b = 25.0
    assert margins["ipo"] == pytest.approx((m, b * b * (m / b - 1 / (2 * b)) ** 2), rel=1e-4)


def one_pair(batch: PreferenceBatch) -> PreferenceBatch:
    cut: dict[str, Any] = {
        name: value[:1]
        for name in batch.__dataclass_fields__
        if isinstance(value := getattr(batch, name), Tensor | tuple)
    }
    return replace(batch, **cut)


def with_losers(batch: PreferenceBatch, count: int) -> PreferenceBatch:
    losers = torch.stack([draw(50 + n, *batch.winner_BCFHW.shape) for n in range(count)], dim=1)
    return replace(batch, losers_BNCFHW=losers)


def test_losers_share_one_forward_of_their_winner_and_weigh_the_same(
    backbone: Backbone, base: FrozenAdapter, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    dpo = Dpo(replace(LORA, dropout=0.0), [base])
    attached(backbone, dpo)
    many = with_losers(pairs(0), 3)
    sizes: list[int] = []
    predict = type(backbone).predict

    def spy(self: Backbone, x: Tensor, *args: Any, **options: Any) -> Tensor:
        sizes.append(len(x))
        return predict(self, x, *args, **options)

    monkeypatch.setattr(type(backbone), "predict", spy)
    together = dpo.loss(backbone, many)
    assert sizes == [2 * 4, 2 * 4]  # two winners with three losers each: reference, then policy
    monkeypatch.undo()
    apart = [
        float(dpo.loss(backbone, replace(many, losers_BNCFHW=many.losers_BNCFHW[:, n : n + 1])).loss.detach())
        for n in range(3)
    ]
    assert float(together.loss.detach()) == pytest.approx(sum(apart) / 3, rel=1e-4)


def test_known_reference_errors_give_the_same_bits_without_the_references_forward(
    backbone: Backbone, base: FrozenAdapter, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    dpo = Dpo(replace(LORA, dropout=0.0), [base])
    attached(backbone, dpo)
    batch = pairs(0)
    computed = dpo.loss(backbone, batch)
    known = dpo.reference_errors(backbone, batch)
    assert known.shape == (2, 2)

    def never(*_: Any) -> Tensor:
        raise AssertionError("the reference was computed again")

    monkeypatch.setattr(Dpo, "reference_errors", never)
    given = dpo.loss(backbone, replace(batch, reference_errors_BK=known))
    assert torch.equal(given.loss, computed.loss)
    with pytest.raises(ValueError, match=r"reference_errors_BK \(2, 1\) should be"):
        replace(batch, reference_errors_BK=known[:, :1])


def test_a_reference_that_moves_follows_the_policy_and_resumes_where_it_was(
    backbone: Backbone, base: FrozenAdapter, pairs: Pairs, tmp_path: Path
) -> None:
    dpo = Dpo(replace(LORA, dropout=0.0), [base], refresh_every=2)  # with dropout the policy would not tie exactly
    spec = TrainSpec(steps=6, learning_rate=1e-2, checkpoint_every=3)
    seen: dict[int, dict[str, float]] = {}
    whole = train(backbone, dpo, pairs, spec, None, seen.__setitem__)
    # Right after it has moved (steps 2 and 4), the reference is the policy: the next step ties again.
    assert all(abs(seen[step]["loss"] - math.log(2)) < 1e-6 for step in (1, 3, 5))
    assert all(abs(seen[step]["loss"] - math.log(2)) > 1e-4 for step in (2, 4, 6))
    still = train(backbone, replace(dpo, refresh_every=None), pairs, spec, None)
    assert still.adapter.digest() != whole.adapter.digest()
    train(backbone, dpo, pairs, spec, tmp_path, stop_after=5)
    resumed = train(backbone, dpo, pairs, spec, tmp_path)
    assert resumed.resumed_from == 3
    assert resumed.adapter.digest() == whole.adapter.digest()


def test_a_slow_reference_keeps_its_share_of_itself(backbone: Backbone, base: FrozenAdapter) -> None:
    dpo = Dpo(LORA, [base], refresh_every=3, refresh_decay=0.9)
    attached(backbone, dpo)
    policy = adapter_state(backbone, "dpo").state
    before = adapter_state(backbone, "reference").state
    dpo.after_step(backbone, 2)
    assert all(torch.equal(v, before[k]) for k, v in adapter_state(backbone, "reference").state.items())
    dpo.after_step(backbone, 3)
    for name, value in adapter_state(backbone, "reference").state.items():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * policy[name])


def test_the_raw_model_is_the_reference_only_where_that_is_said(backbone: Backbone, pairs: Pairs) -> None:
    with pytest.raises(ValueError, match="say raw_reference"):
        Dpo(LORA, [])
    dpo = Dpo(LORA, [], raw_reference=True)
    dpo.attach(backbone, seed=0)
    assert abs(float(dpo.loss(backbone, pairs(0)).loss.detach()) - math.log(2)) < 1e-6


def test_pairs_of_one_winner_are_grouped_and_none_is_lost() -> None:
    pairs = [Pair(f"p{i}", f"s{i % 2}", "shard", winner="real") for i in range(7)]
    groups = winner_groups(pairs, 3)
    assert sorted(pair.pair_id for group in groups for pair in group) == [f"p{i}" for i in range(7)]
    assert all(len({pair.sample_id for pair in group}) == 1 for group in groups)
    assert sorted(len(group) for group in groups) == [1, 3, 3]
    assert [len(group) for group in winner_groups([replace(p, winner="") for p in pairs], 3)] == [1] * 7
    assert [len(group) for group in winner_groups(pairs, 1)] == [1] * 7


def test_flow_matching_starts_at_ln_2_and_its_epsilon_weight_is_one_minus_t_squared(pairs: Pairs) -> None:
    flow = load_backbone(BackboneSpec(family="wan"))
    channels = flow.latent_channels
    text = flow.encode_text(["a dog runs", "a cup"])
    shape = (2, channels, *LATENTS[1:])
    t = torch.tensor([100, 700])
    batch = PreferenceBatch(
        sample_ids=("a", "b"), text_BLD=text, noise_BCFHW=draw(1, *shape), t_B=t, references_BRCHW=None,
        winner_BCFHW=draw(2, *shape), losers_BNCFHW=draw(3, *shape)[:, None],
    )  # fmt: skip
    dpo = Dpo(replace(LORA, dropout=0.0), [], raw_reference=True)
    dpo.attach(flow, seed=0)
    assert abs(float(dpo.loss(flow, batch).loss.detach()) - math.log(2)) < 1e-6
    with torch.no_grad():
        for index, parameter in enumerate(adapter_parameters(flow, "dpo").values()):
            parameter.copy_(0.1 * draw(index, *parameter.shape))
    first = one_pair(batch)
    plain, weighted = (
        float(replace(dpo, weighting=weighting).loss(flow, first).metrics["margin"]) for weighting in ("one", "epsilon")
    )
    share = 100 / flow.num_train_timesteps
    assert weighted == pytest.approx((1 - share) ** 2 * plain, rel=1e-3)
    # The same from the definitions: eps_hat = x_t + (1 - t) v_hat, so |eps_hat - eps|^2 = (1 - t)^2 |v_hat - v|^2.
    x0, noise = batch.winner_BCFHW, batch.noise_BCFHW
    v, x_t = flow.target(x0, noise, t), flow.add_noise(x0, noise, t)
    v_hat = v + draw(9, *shape)
    alpha = flow.signal_and_noise(t)[0]
    eps_hat = x_t + alpha.view(-1, 1, 1, 1, 1) * v_hat
    torch.testing.assert_close(
        squared_error_B(eps_hat, noise), alpha**2 * squared_error_B(v_hat, v), rtol=1e-3, atol=1e-5
    )
