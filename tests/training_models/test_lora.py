"""LoRA on a backbone: nothing trains, freezes or drops out as a side effect, and the file works in plain diffusers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones.base import Backbone
from models.backbones.load import BackboneSpec, load_backbone
from models.training.adapter import AdapterState, read_tensors, write_tensors
from models.training.lora import (
    LoraSpec,
    active_adapters,
    adapter_parameters,
    adapter_state,
    add_lora,
    attach_adapter,
    load_adapter,
    only_adapters,
    remove_adapter,
    save_adapter,
    set_adapters,
    train_mode,
)

T = torch.tensor([20, 900])
SPEC = LoraSpec(rank=4, alpha=8.0, dropout=0.2)


@pytest.fixture
def forward(backbone: Backbone, randn: Callable[..., Tensor], text: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        return backbone.predict(randn(0, 2, 4, 2, 8, 8), T, text, randn(1, 2, 1, 4, 8, 8)).detach()

    return run


def trained(backbone: Backbone, name: str, seed: int = 0, spec: LoraSpec = SPEC) -> AdapterState:
    """Adds an adapter as training would leave it: B no longer zero."""
    add_lora(backbone, spec, name, seed)
    for index, parameter in enumerate(adapter_parameters(backbone, name).values()):
        generator = torch.Generator().manual_seed(100 * seed + index)
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return adapter_state(backbone, name)


def test_a_new_adapter_changes_nothing_until_it_is_trained(backbone: Backbone, forward: Callable[[], Tensor]) -> None:
    base = forward()
    modules = add_lora(backbone, SPEC, "sft")
    assert len(modules) == 2 * 4  # to_q, to_k, to_v, to_out.0 in each of two blocks
    assert torch.equal(forward(), base)


def test_adapters_off_is_the_raw_base_bit_for_bit(backbone: Backbone, forward: Callable[[], Tensor]) -> None:
    base = forward()
    trained(backbone, "sft", 1)
    trained(backbone, "dpo", 2)
    assert not torch.equal(forward(), base)
    with only_adapters(backbone, []):
        assert torch.equal(forward(), base)


def test_only_the_named_adapters_take_part_and_the_others_come_back(
    backbone: Backbone, forward: Callable[[], Tensor]
) -> None:
    trained(backbone, "sft", 1)
    alone = forward()
    trained(backbone, "dpo", 2)
    both = forward()
    with only_adapters(backbone, ["sft"]):
        assert active_adapters(backbone) == ("sft",)
        assert torch.equal(forward(), alone)
    assert active_adapters(backbone) == ("sft", "dpo")
    assert torch.equal(forward(), both)


def test_switching_neither_freezes_nor_unfreezes_a_parameter(backbone: Backbone) -> None:
    state = trained(backbone, "first", 1)
    remove_adapter(backbone, "first")
    attach_adapter(backbone, state, "sft")
    add_lora(backbone, SPEC, "dpo")

    def trainable() -> set[str]:
        return {name for name, parameter in backbone.transformer.named_parameters() if parameter.requires_grad}

    before = trainable()
    assert before
    assert all(".dpo." in name for name in before)
    for names in ([], ["sft"], ["dpo"], ["sft", "dpo"]):
        set_adapters(backbone, names)
        assert trainable() == before


def test_dropout_acts_in_the_training_adapter_and_nowhere_else(
    backbone: Backbone, forward: Callable[[], Tensor]
) -> None:
    trained(backbone, "sft", 1)
    assert torch.equal(forward(), forward())
    train_mode(backbone, "sft")
    assert not torch.equal(forward(), forward())
    with only_adapters(backbone, []):
        assert torch.equal(forward(), forward())
    train_mode(backbone, None)
    assert torch.equal(forward(), forward())


def test_removing_the_last_adapter_leaves_the_plain_modules(backbone: Backbone) -> None:
    before = [(name, type(module)) for name, module in backbone.transformer.named_modules()]
    trained(backbone, "sft", 1)
    trained(backbone, "dpo", 2)
    remove_adapter(backbone, "sft")
    assert active_adapters(backbone) == ("dpo",)
    remove_adapter(backbone, "dpo")
    assert [(name, type(module)) for name, module in backbone.transformer.named_modules()] == before


def test_adding_adapters_leaves_the_global_generator_alone_and_follows_its_seed(backbone: Backbone) -> None:
    before = torch.get_rng_state()
    states = []
    for seed in (7, 7, 8):
        add_lora(backbone, SPEC, "sft", seed)
        states.append(adapter_state(backbone, "sft").digest())
        remove_adapter(backbone, "sft")
    assert torch.equal(before, torch.get_rng_state())
    assert states[0] == states[1] != states[2]


def test_a_saved_adapter_is_the_same_adapter_in_another_process_s_bytes(backbone: Backbone, tmp_path: Path) -> None:
    state = trained(backbone, "sft", 1)
    first = save_adapter(state, tmp_path / "a", {"step": 3, "parents": ["x"], "b": 1})
    second = save_adapter(load_adapter(tmp_path / "a"), tmp_path / "b")
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    again = load_adapter(second)
    assert again.metadata == {"step": 3, "parents": ["x"], "b": 1}
    assert again.alpha == state.alpha
    assert all(torch.equal(again.state[key], state.state[key]) for key in state.state)
    # The header's keys are sorted: safetensors alone writes them in an order that changes with every process.
    header = first.read_bytes()[8 : 8 + int.from_bytes(first.read_bytes()[:8], "little")]
    assert list(json.loads(header)["__metadata__"]) == ["format", "fulcrum", "lora_adapter_metadata"]


def test_a_plain_diffusers_pipeline_loads_the_file_and_the_adapter_acts_in_it(
    backbone: Backbone, forward: Callable[[], Tensor], tmp_path: Path, randn: Callable[..., Tensor], text: Tensor
) -> None:
    save_adapter(trained(backbone, "sft", 1), tmp_path)
    ours = forward()
    fresh = load_backbone(BackboneSpec())
    pipe = fresh.pipeline()
    pipe.load_lora_weights(tmp_path, adapter_name="loaded")
    assert pipe.get_list_adapters() == {"transformer": ["loaded"]}
    x, references = randn(0, 2, 4, 2, 8, 8), randn(1, 2, 1, 4, 8, 8)
    assert torch.equal(fresh.predict(x, T, text, references), ours)
    pipe.disable_lora()
    assert not torch.equal(fresh.predict(x, T, text, references), ours)


def test_ranks_and_alphas_that_differ_by_module_survive_the_file(
    backbone: Backbone, forward: Callable[[], Tensor], tmp_path: Path
) -> None:
    small = trained(backbone, "small", 1, LoraSpec(2, 2.0, targets=("to_q",)))
    remove_adapter(backbone, "small")
    large = trained(backbone, "large", 2, LoraSpec(6, 3.0, targets=("ff.net.2", "patch_embed.proj")))
    remove_adapter(backbone, "large")
    mixed = AdapterState({**small.state, **large.state}, {**small.rank, **large.rank}, {**small.alpha, **large.alpha})
    save_adapter(mixed, tmp_path)
    attach_adapter(backbone, load_adapter(tmp_path), "mixed")
    ours = forward()
    remove_adapter(backbone, "mixed")
    attach_adapter(backbone, small, "small")
    attach_adapter(backbone, large, "large")
    torch.testing.assert_close(forward(), ours, rtol=0, atol=1e-6)
    remove_adapter(backbone, "small")
    remove_adapter(backbone, "large")
    pipe = backbone.pipeline()
    pipe.load_lora_weights(tmp_path, adapter_name="loaded")
    assert torch.equal(forward(), ours)


def test_an_adapter_attached_at_a_weight_is_its_delta_times_the_weight(
    backbone: Backbone, forward: Callable[[], Tensor]
) -> None:
    state = trained(backbone, "sft", 1)
    remove_adapter(backbone, "sft")
    module = "transformer_blocks.1.attn1.to_v"
    linear = backbone.transformer.get_submodule(module)
    attach_adapter(backbone, state, "sft", weight=-0.5)
    adapted = backbone.transformer.get_submodule(module)
    x = torch.eye(64)
    with torch.no_grad():
        delta = (adapted(x) - linear(x)).T
    torch.testing.assert_close(delta, -0.5 * state.delta(module), rtol=0, atol=1e-6)
    assert adapter_state(backbone, "sft").alpha[module] == -0.5 * state.alpha[module]


def test_rank_stabilised_files_keep_their_scale(tmp_path: Path) -> None:
    # rsLoRA scales by alpha / sqrt(r): with r = 4 and alpha = 8 that is 4, not 2.
    tensors = {"transformer.m.lora_A.weight": torch.ones(4, 3), "transformer.m.lora_B.weight": torch.ones(2, 4)}
    config = {"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.use_rslora": True}
    write_tensors(tmp_path / "x.safetensors", tensors, {"lora_adapter_metadata": json.dumps(config)})
    assert load_adapter(tmp_path / "x.safetensors").scale("m") == 4.0


@pytest.mark.parametrize(
    ("config", "keys", "message"),
    [
        ({"transformer.use_dora": True}, ("m.lora_A.weight", "m.lora_B.weight"), "DoRA"),
        ({}, ("m.lora_A.weight",), "no lora_B"),
        ({}, ("m.weight",), "not a LoRA factor"),
    ],
)
def test_files_that_are_not_loras_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], keys: tuple[str, ...], message: str
) -> None:
    file = tmp_path / "x.safetensors"
    write_tensors(
        file, {f"transformer.{key}": torch.ones(2, 2) for key in keys}, {"lora_adapter_metadata": json.dumps(config)}
    )
    with pytest.raises(ValueError, match=message) as caught:
        load_adapter(file)
    assert str(file) in str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no adapter at"):
        load_adapter(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="not a readable safetensors"):
        read_tensors(tmp_path / "bad.safetensors")


def test_wrong_targets_names_and_models_are_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="did you mean 'to_q'"):
        add_lora(backbone, LoraSpec(4, 4.0, targets=("to_qq",)), "sft")
    state = trained(backbone, "sft", 1)
    with pytest.raises(ValueError, match="already has an adapter"):
        add_lora(backbone, SPEC, "sft")
    with pytest.raises(ValueError, match="has no adapter"):
        set_adapters(backbone, ["stf"])
    foreign = AdapterState(
        {key.replace("attn1", "attn9"): value for key, value in state.state.items()},
        {key.replace("attn1", "attn9"): value for key, value in state.rank.items()},
        {key.replace("attn1", "attn9"): value for key, value in state.alpha.items()},
    )
    with pytest.raises(ValueError, match="modules are not there"):
        attach_adapter(backbone, foreign, "other")
    wide = AdapterState(
        {key: torch.ones(4, 65) if "lora_A" in key else value for key, value in state.state.items()},
        state.rank,
        state.alpha,
    )
    with pytest.raises(ValueError, match=r"is \(4, 65\), the module needs \(4, 64\)"):
        attach_adapter(backbone, wide, "other")
    assert active_adapters(backbone) == ("sft",)
