"""The memory of a step as it is judged beforehand, against what the allocator then sees; and its arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from models.backbones.base import Backbone
from models.backbones.load import BackboneSpec, load_backbone
from models.training.batch import Batch, PreferenceBatch
from models.training.budget import Budget, StepShape, step_budget
from models.training.lora import LoraSpec, adapter_parameters, adapter_state, add_lora
from models.training.methods import Dpo, FrozenAdapter, Method, Sft
from tests.training_models.conftest import draw

LORA = LoraSpec(rank=4)


def shape_of(spec: BackboneSpec, latents: tuple[int, int, int, int]) -> StepShape:
    backbone = load_backbone(spec, device="meta")
    return StepShape(2, latents, 2, (backbone.text_length, backbone.text_width))


def measured_peak(backbone: Backbone, step: Callable[[], None]) -> int:
    """Bytes above those at the start, by torch's own record of every allocation and release."""
    step()  # whatever is made once is made
    backbone.transformer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    now = peak = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("family", "latents", "checkpointing"),
    [
        ("cogvideox", (4, 3, 16, 16), False),
        ("wan", (4, 5, 32, 32), False),
        ("wan", (4, 5, 32, 32), True),
        ("hunyuan", (4, 3, 16, 16), True),
        ("ltx", (8, 3, 16, 16), True),
    ],
)
def test_the_peak_that_was_foretold_is_the_peak_that_is_measured(
    family: str, latents: tuple[int, int, int, int], checkpointing: bool
) -> None:
    spec = BackboneSpec(family)
    shape = shape_of(spec, latents)
    foretold = step_budget(load_backbone(spec, device="meta"), Sft(LORA), shape, checkpointing=checkpointing)
    backbone = load_backbone(spec)
    Sft(LORA).attach(backbone, 0)
    if checkpointing:
        backbone.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    for parameter in adapter_parameters(backbone, "sft").values():
        parameter.requires_grad_(True)
    batch = Batch(
        sample_ids=("a", "b"),
        text_BLD=draw(0, 2, *shape.text),
        noise_BCFHW=draw(1, 2, *latents),
        t_B=torch.tensor([100, 700]),
        references_BRCHW=draw(2, 2, 2, latents[0], *latents[2:]),
        latents_BCFHW=draw(3, 2, *latents),
    )
    found = measured_peak(backbone, lambda: Sft(LORA).loss(backbone, batch).loss.backward())
    # Kernels' own scratch is not seen: a tenth at these sizes, where it is as large as a layer.
    assert foretold.activations + foretold.gradients == pytest.approx(found, rel=0.12)
    trained = sum(p.numel() * 4 for p in adapter_parameters(backbone, "sft").values())
    assert (foretold.adapters, foretold.gradients, foretold.optimizer) == (trained, trained, 2 * trained)
    whole = sum(t.numel() * t.element_size() for t in backbone.transformer.parameters())
    whole += sum(t.numel() * t.element_size() for t in backbone.transformer.buffers())
    assert foretold.parameters == whole - trained


def test_checkpointing_trades_arithmetic_for_memory() -> None:
    shape = shape_of(BackboneSpec("wan"), (4, 5, 16, 16))
    plain, again = (
        step_budget(load_backbone(BackboneSpec("wan"), device="meta"), Sft(LORA), shape, checkpointing=on)
        for on in (False, True)
    )
    assert again.activations < 0.75 * plain.activations
    assert again.model_flops == plain.flops == plain.model_flops
    # A frozen matrix product costs 1 forward and 1 backward, attention 1 and 2.5 (five products against two, for the
    # backward computes its scores again); recomputing adds 1 to both: between 4.5 / 3.5 and 3 / 2.
    assert 4.5 / 3.5 < again.flops / plain.flops < 3 / 2


def test_a_dpo_step_holds_both_adapters_and_costs_less_than_three_sft_steps(
    backbone: Backbone, pairs: Callable[[int], PreferenceBatch]
) -> None:
    add_lora(backbone, LORA, "sft")
    method: Method = Dpo(LORA, base=(FrozenAdapter(adapter_state(backbone, "sft")),))
    shape = shape_of(BackboneSpec(), (4, 2, 8, 8))
    sft = step_budget(load_backbone(BackboneSpec(), device="meta"), Sft(LORA), shape)
    dpo = step_budget(load_backbone(BackboneSpec(), device="meta"), method, shape, ema=True)
    assert dpo.adapters == 2 * sft.adapters
    assert dpo.optimizer == 3 * sft.adapters
    # SFT: forward and backward. DPO: both for winner and loser, and their forwards for the reference: 2 + 2 F / (F + B),
    # which is 3 for frozen matrix products (B = F) and 2.57 for attention (B = 2.5 F).
    assert 2 + 2 / 3.5 < dpo.flops / sft.flops < 3


def test_a_budget_says_what_to_do_where_it_does_not_fit() -> None:
    budget = Budget(10 << 30, 1 << 20, 1 << 20, 2 << 20, 20 << 30, 5 * 10**15, 4 * 10**15)
    text = budget.describe(StepShape(1, (16, 21, 60, 104), 2, (512, 4096)), device_bytes=24 << 30)
    assert text.splitlines() == [
        "memory of a step with 1 x 21x60x104 latents, 2 references: 30.00 GiB, 5e+03 TFLOP",
        "  parameters 10.00 GiB, adapters 1.00 MiB, gradients 1.00 MiB, optimizer 2.00 MiB, activations 20.00 GiB",
        "  more than the device has (24.00 GiB): turn on gradient_checkpointing, use bfloat16 weights, a smaller batch "
        "with accumulate, or a smaller largest bucket",
    ]
    assert "more than" not in budget.describe(StepShape(1, (16, 21, 60, 104), 2, (512, 4096)), device_bytes=80 << 30)
