"""Adapters come in from other tools and go out to them with the same deltas; the tools themselves read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.backbones.load import BackboneSpec, load_backbone
from models.compat import prepare
from models.training.adapter import AdapterState, load_adapter, write_tensors
from models.training.dora import materialise
from models.training.formats import FORMATS, Format, read_adapter_file, write_adapter_file
from models.training.fuse import BaseWeights, fuse
from models.training.lora import attach_adapter

torch.set_num_threads(1)
prepare()  # before PEFT or diffusers are imported here
BACKBONE = BackboneSpec()
MODULES = {
    "transformer_blocks.0.attn1.to_q": (64, 64),
    "transformer_blocks.0.attn1.to_out.0": (64, 64),
    "transformer_blocks.1.attn1.to_k": (64, 64),
}


def adapter(
    seed: int = 0, ranks: tuple[int, ...] = (2, 3, 2), alphas: tuple[float, ...] = (4.0, 1.5, 4.0)
) -> AdapterState:
    draws = torch.Generator().manual_seed(seed)
    state = {}
    for (module, (rows, columns)), rank in zip(MODULES.items(), ranks, strict=True):
        state[f"{module}.lora_A.weight"] = torch.randn(rank, columns, generator=draws) / 8
        state[f"{module}.lora_B.weight"] = torch.randn(rows, rank, generator=draws) / 8
    return AdapterState(state, dict(zip(MODULES, ranks, strict=True)), dict(zip(MODULES, alphas, strict=True)))


def inputs() -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(3)
    return {
        "x_BCFHW": torch.randn(1, 4, 2, 4, 4, generator=draws),
        "t_B": torch.tensor([500]),
        "text_BLD": torch.randn(1, 226, 32, generator=draws),
    }


def same_deltas(one: AdapterState, other: AdapterState) -> None:
    assert set(one.modules) == set(other.modules)
    for module in one.modules:
        torch.testing.assert_close(one.delta(module), other.delta(module), rtol=1e-6, atol=1e-7)
        assert one.rank[module] == other.rank[module]


@settings(max_examples=15, deadline=None)
@given(
    form=st.sampled_from(FORMATS),
    seed=st.integers(0, 99),
    ranks=st.tuples(*[st.integers(1, 5)] * 3),
    alphas=st.tuples(*[st.sampled_from([0.5, 1.0, 8.0])] * 3),
)
def test_what_goes_out_comes_back(
    tmp_path_factory: pytest.TempPathFactory, form: Format, seed: int, ranks: tuple[int, ...], alphas: tuple[float, ...]
) -> None:
    made = adapter(seed, ranks, alphas)
    folder = tmp_path_factory.mktemp("out")
    write_adapter_file(made, folder, form)
    back = read_adapter_file(folder, MODULES)
    assert back.format == form
    same_deltas(back.adapter, made)


def test_peft_itself_reads_what_goes_out_as_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    made = adapter()
    write_adapter_file(made, tmp_path, "peft")
    backbone = load_backbone(BACKBONE)
    attach_adapter(backbone, made, "here")
    with torch.no_grad():
        here = backbone.predict(**inputs())
    plain = load_backbone(BACKBONE)
    before = plain.transformer
    model = PeftModel.from_pretrained(before, str(tmp_path))
    with torch.no_grad():
        there = plain.predict(**inputs())
    model.unload()
    torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(plain.predict(**inputs()), here)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_saves_comes_in(tmp_path: Path, rslora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    backbone = load_backbone(BACKBONE)
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=["to_q", "to_out.0"], use_rslora=rslora, init_lora_weights=False
    )
    model = get_peft_model(backbone.transformer, config)
    with torch.no_grad():
        there = backbone.predict(**inputs())
    model.save_pretrained(str(tmp_path))
    found = read_adapter_file(tmp_path)
    assert found.format == "peft"
    module = found.adapter.modules[0]
    assert found.adapter.scale(module) == pytest.approx(5 / 3**0.5 if rslora else 5 / 3)
    fresh = load_backbone(BACKBONE)
    attach_adapter(fresh, found.adapter, "imported")
    with torch.no_grad():
        torch.testing.assert_close(fresh.predict(**inputs()), there, rtol=1e-5, atol=1e-6)


def test_a_dora_comes_in_through_materialised_weights_only(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    backbone = load_backbone(BACKBONE)
    base = {
        name: module.weight.detach().clone()
        for name, module in backbone.transformer.named_modules()
        if name.endswith("to_q")
    }
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["to_q"], use_dora=True, init_lora_weights=False)
    model = get_peft_model(backbone.transformer, config)
    for name, parameter in model.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1.1  # a magnitude that was trained, or DoRA would be LoRA with a norm
    with torch.no_grad():
        there = backbone.predict(**inputs())
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="is a DoRA adapter: its delta depends on the base weights"):
        load_adapter(tmp_path)
    found = read_adapter_file(tmp_path)
    whole, report = materialise(found.adapter, found.magnitude, base.__getitem__)
    assert report.relative_error < 1e-6
    fresh = load_backbone(BACKBONE)
    attach_adapter(fresh, whole, "dora")
    with torch.no_grad():
        torch.testing.assert_close(fresh.predict(**inputs()), there, rtol=1e-4, atol=1e-5)
    small, report = materialise(found.adapter, found.magnitude, base.__getitem__, rank=4)
    errors = [float((small.delta(m) - whole.delta(m)).norm() / whole.delta(m).norm()) for m in small.modules]
    assert report.errors == pytest.approx(dict(zip(small.modules, errors, strict=True)), rel=1e-3)
    assert max(errors) > 0.01  # so that the equality above is not one of zeros


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_weights_forward_as_the_adapter_does(tmp_path: Path, dtype: torch.dtype) -> None:
    from diffusers import CogVideoXTransformer3DModel

    made = adapter()
    backbone = load_backbone(BACKBONE)
    backbone.transformer.to(dtype).save_pretrained(str(tmp_path / "base"), max_shard_size="100KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    report = fuse(made, tmp_path / "base", tmp_path / "fused")
    fused = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "fused", torch_dtype=dtype)
    base, whole = BaseWeights(tmp_path / "base"), dict(fused.named_parameters())
    off = torch.stack(
        [(whole[f"{m}.weight"].detach().float() - base.weight(m).float() - made.delta(m)).norm() for m in MODULES]
    )
    size = torch.stack([made.delta(m).norm() for m in MODULES])
    assert report.lost == pytest.approx(float(off.norm() / size.norm()), rel=1e-3, abs=1e-7)
    assert report.max_ulp <= 0.5
    assert report.lost < (1e-6 if dtype == torch.float32 else 0.02)
    if dtype == torch.float32:
        attach_adapter(backbone, made, "beside")
        beside = dict(inputs())
        with torch.no_grad():
            wanted = backbone.predict(**beside)
            plain = load_backbone(BACKBONE)
            plain.transformer.load_state_dict(fused.state_dict())
            torch.testing.assert_close(plain.predict(**beside), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="is there already"):
        fuse(made, tmp_path / "base", tmp_path / "fused")


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    def refused(name: str, tensors: dict[str, Any], names: Any = None) -> str:
        write_tensors(tmp_path / name, tensors, {})
        with pytest.raises(ValueError) as caught:
            read_adapter_file(tmp_path / name, names)
        return str(caught.value)

    a, b = torch.ones(2, 4), torch.ones(4, 2)
    kohya = {"lora_unet_blocks_0_to_q.lora_down.weight": a, "lora_unet_blocks_0_to_q.lora_up.weight": b}
    assert "give the backbone it was trained on" in refused("k.safetensors", kohya)
    assert "the nearest there is blocks_0_to_k" in refused("n.safetensors", kohya, ["blocks.0.to_k"])
    text = {"lora_te_text_model_q.lora_down.weight": a}
    assert "text encoders are not adapted here" in refused("t.safetensors", text, ["x"])
    stranger = {"transformer.blocks.0.attn1.to_q.lora_A.weight": a, "transformer.blocks.0.attn1.to_q.lora_B.weight": b}
    assert "the nearest there is blocks.0.to_q" in refused("s.safetensors", stranger, ["blocks.0.to_q"])
    half = {"transformer.to_q.lora_A.weight": a}
    assert "to_q has no lora_B" in refused("h.safetensors", half)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "adapter_model.bin").touch()
    with pytest.raises(ValueError, match="may run code when opened"):
        read_adapter_file(tmp_path / "old")
