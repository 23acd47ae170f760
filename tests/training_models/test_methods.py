"""The objectives: v-prediction's identities, SFT, and DPO against the merged-SFT model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone
from models.training.adapter import AdapterState
from models.training.batch import Batch, PreferenceBatch
from models.training.lora import (
    LoraSpec,
    adapter_parameters,
    adapter_state,
    add_lora,
    only_adapters,
    remove_adapter,
    train_mode,
)
from models.training.methods import Dpo, FrozenAdapter, Sft
from models.training.objective import squared_error_B, x0_of_prediction

LORA = LoraSpec(rank=4, alpha=4.0, dropout=0.2)
Randn = Callable[..., Tensor]


@pytest.fixture
def sft_state(backbone: Backbone, randn: Randn) -> AdapterState:
    """A merged SFT adapter that does something."""
    add_lora(backbone, LORA, "made")
    for index, parameter in enumerate(adapter_parameters(backbone, "made").values()):
        parameter.data = 0.2 * randn(50 + index, *parameter.shape)
    state = adapter_state(backbone, "made")
    remove_adapter(backbone, "made")
    return state


@pytest.fixture
def dpo(backbone: Backbone, sft_state: AdapterState) -> Iterator[Dpo]:
    method = Dpo(LORA, [FrozenAdapter(sft_state)])
    method.attach(backbone, seed=0)
    train_mode(backbone, method.adapter)
    yield method
    train_mode(backbone, None)


def perturb(backbone: Backbone, name: str, randn: Randn) -> None:
    for index, parameter in enumerate(adapter_parameters(backbone, name).values()):
        parameter.data = 0.1 * randn(200 + index, *parameter.shape)


def test_the_velocity_is_alpha_eps_minus_sigma_x0(backbone: Backbone, randn: Randn) -> None:
    x0, noise, t = randn(0, 3, 4, 2, 4, 4), randn(1, 3, 4, 2, 4, 4), torch.tensor([0, 400, 999])
    alpha, sigma = (part.view(-1, 1, 1, 1, 1) for part in backbone.signal_and_noise(t))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    assert alpha[2] == 0.0  # zero terminal SNR: the last step is pure noise
    torch.testing.assert_close(backbone.target(x0, noise, t), alpha * noise - sigma * x0)
    torch.testing.assert_close(backbone.add_noise(x0, noise, t), alpha * x0 + sigma * noise)


def test_weighted_x0_error_and_scaled_epsilon_error_are_the_v_error(backbone: Backbone, randn: Randn) -> None:
    # 1 / (1 - alpha_bar) |x0_hat - x0|^2 = |v_hat - v|^2, and |eps_hat - eps|^2 = alpha_bar |v_hat - v|^2
    x0, noise, t = randn(0, 3, 4, 2, 4, 4), randn(1, 3, 4, 2, 4, 4), torch.tensor([5, 400, 998])
    v = backbone.target(x0, noise, t)
    v_hat = v + randn(2, *v.shape)
    x_t = backbone.add_noise(x0, noise, t)
    alpha, sigma = (part.view(-1, 1, 1, 1, 1) for part in backbone.signal_and_noise(t))
    error = squared_error_B(v_hat, v)
    x0_hat = x0_of_prediction(backbone, x_t, v_hat, t)
    torch.testing.assert_close(squared_error_B(x0_hat, x0) / sigma.flatten() ** 2, error, rtol=1e-4, atol=0)
    eps_hat = sigma * x_t + alpha * v_hat
    torch.testing.assert_close(squared_error_B(eps_hat, noise), alpha.flatten() ** 2 * error, rtol=1e-3, atol=1e-5)


def test_the_error_is_a_mean_over_every_dimension_of_5d_latents(randn: Randn) -> None:
    # A mean over some of the axes would leave one error per column: the known mistake in a public DPO code.
    prediction, target = randn(0, 2, 3, 4, 5, 6), randn(1, 2, 3, 4, 5, 6)
    error = squared_error_B(prediction.bfloat16(), target.bfloat16())
    assert error.shape == (2,)
    assert error.dtype == torch.float32
    by_hand = [
        sum(float(d) ** 2 for d in (prediction[i].bfloat16().float() - target[i].bfloat16().float()).flatten()) / 360
        for i in range(2)
    ]
    torch.testing.assert_close(error, torch.tensor(by_hand))


def test_sft_loss_is_the_mean_v_error_of_the_videos(backbone: Backbone, batches: Callable[[int], Batch]) -> None:
    batch = batches(0)
    Sft(LORA).attach(backbone, seed=0)
    x_t = backbone.add_noise(batch.latents_BCFHW, batch.noise_BCFHW, batch.t_B)
    prediction = backbone.predict(x_t, batch.t_B, batch.text_BLD, batch.references_BRCHW)
    expected = (prediction - backbone.target(batch.latents_BCFHW, batch.noise_BCFHW, batch.t_B)).square().mean()
    torch.testing.assert_close(Sft(LORA).loss(backbone, batch).loss, expected)


def test_dpo_starts_at_ln_2_with_dropout_configured(
    backbone: Backbone, dpo: Dpo, pairs: Callable[[int], PreferenceBatch]
) -> None:
    output = dpo.loss(backbone, pairs(0))
    assert abs(output.loss.item() - math.log(2)) < 1e-6
    assert float(output.metrics["accuracy"]) == 0.5  # every pair ties, and a tie is half right
    assert float(output.metrics["winner_drift"]) == 0.0
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in adapter_parameters(backbone, "dpo").items()}
    assert all(
        gradient is not None and gradient.abs().sum() > 0 for name, gradient in gradients.items() if "lora_B" in name
    )
    assert all(parameter.grad is None for parameter in adapter_parameters(backbone, "sft").values())


def test_the_reference_is_the_merged_sft_model_and_not_the_raw_base(
    backbone: Backbone,
    dpo: Dpo,
    sft_state: AdapterState,
    pairs: Callable[[int], PreferenceBatch],
    randn: Randn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    perturb(backbone, "dpo", randn)
    seen: list[tuple[tuple[Any, ...], Tensor]] = []
    predict = type(backbone).predict

    def spy(self: Backbone, *args: Any, **kwargs: Any) -> Tensor:
        out = predict(self, *args, **kwargs)
        seen.append((args, out.detach()))
        return out

    monkeypatch.setattr(type(backbone), "predict", spy)
    dpo.loss(backbone, pairs(0))
    monkeypatch.undo()
    (inputs, reference), (_, policy) = seen
    remove_adapter(backbone, "dpo")
    assert torch.equal(backbone.predict(*inputs), reference)  # SFT attached alone: bit for bit
    with only_adapters(backbone, []):
        assert not torch.equal(backbone.predict(*inputs), reference)
    assert not torch.equal(policy, reference)


def test_dpo_loss_is_the_published_form(
    backbone: Backbone, dpo: Dpo, pairs: Callable[[int], PreferenceBatch], randn: Randn
) -> None:
    perturb(backbone, "dpo", randn)
    train_mode(backbone, None)
    batch = pairs(0)

    def errors(latents: Tensor) -> Tensor:
        x_t = backbone.add_noise(latents, batch.noise_BCFHW, batch.t_B)
        v = backbone.predict(x_t, batch.t_B, batch.text_BLD, batch.references_BRCHW)
        return (v - backbone.target(latents, batch.noise_BCFHW, batch.t_B)).square().mean(dim=(1, 2, 3, 4))

    with torch.no_grad():
        winner, loser = errors(batch.winner_BCFHW), errors(batch.losers_BNCFHW[:, 0])
        with only_adapters(backbone, ["sft"]):
            winner_ref, loser_ref = errors(batch.winner_BCFHW), errors(batch.losers_BNCFHW[:, 0])
        inside = -0.5 * 500.0 * ((winner - winner_ref) - (loser - loser_ref))
        plain = -torch.nn.functional.logsigmoid(inside)
    output = dpo.loss(backbone, batch)
    torch.testing.assert_close(output.loss.detach(), plain.mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.metrics["winner_drift"], (winner - winner_ref).mean(), rtol=1e-3, atol=1e-6)
    assert float(output.metrics["accuracy"]) == float((inside > 0).float().mean())
    with_sft = Dpo(LORA, dpo.base, lambda_sft=0.3).loss(backbone, batch)
    torch.testing.assert_close(with_sft.loss.detach(), (plain + 0.3 * winner).mean(), rtol=1e-4, atol=1e-5)
    alpha, _ = backbone.signal_and_noise(batch.t_B)
    epsilon = Dpo(LORA, dpo.base, weighting="epsilon").loss(backbone, batch)
    expected = -torch.nn.functional.logsigmoid(alpha**2 * inside).mean()
    torch.testing.assert_close(epsilon.loss.detach(), expected, rtol=1e-4, atol=1e-5)


def test_dpo_without_a_base_is_refused() -> None:
    with pytest.raises(ValueError, match="reference is the raw model"):
        Dpo(LORA, [])


def test_batches_that_do_not_fit_together_are_refused(batches: Callable[[int], Batch], randn: Randn) -> None:
    good = batches(0)
    parts: dict[str, Any] = {name: getattr(good, name) for name in good.__dataclass_fields__}
    for wrong, message in (
        ({"noise_BCFHW": randn(0, 2, 4, 3, 8, 8)}, "one 5-D shape"),
        ({"t_B": torch.tensor([0.1, 0.2])}, "integer timesteps"),
        ({"sample_ids": ("a",)}, "1 sample_ids"),
        ({"references_BRCHW": randn(0, 1, 1, 4, 8, 8)}, "references_BRCHW has 1 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            Batch(**{**parts, **wrong})
