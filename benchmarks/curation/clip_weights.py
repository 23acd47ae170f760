"""One CLIP with random weights, written for two libraries, so that every system runs the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODEL = "ViT-B-32"


def make(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write ``open_clip.safetensors`` and a transformers folder ``transformers/`` of the same weights; return both paths.

    The two towers agree to 1e-4 on the same input, which is checked here.
    """
    ours, theirs = folder / "open_clip.safetensors", folder / "transformers"
    if ours.exists() and (theirs / "preprocessor_config.json").exists():
        return ours, theirs
    folder.mkdir(parents=True, exist_ok=True)
    from models.compat import prepare

    prepare()
    import open_clip
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    model = open_clip.create_model(MODEL).eval()
    # open_clip's ViT-B-32 uses the exact GELU, as the checkpoints that are not OpenAI's do
    config = CLIPConfig(
        text_config={"hidden_act": "gelu", "eos_token_id": 49407},
        vision_config={"hidden_act": "gelu"},
        projection_dim=512,
    )
    other = CLIPModel(config).eval()
    other.load_state_dict(_renamed(model.state_dict()), strict=False)
    _check(model, other)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, ours)
    other.save_pretrained(theirs)
    _write_processor(theirs)
    return ours, theirs


def _renamed(state: Any) -> dict[str, Any]:
    """open_clip's names in transformers' words; fused query, key and value are split."""
    import torch

    renamed: dict[str, Any] = {"logit_scale": state["logit_scale"]}
    renamed["visual_projection.weight"] = state["visual.proj"].T.contiguous()
    renamed["text_projection.weight"] = state["text_projection"].T.contiguous()
    plain = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
    }
    for source, target in plain.items():
        renamed[target] = state[source]
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for source, target in norms.items():
        for part in ("weight", "bias"):
            renamed[f"{target}.{part}"] = state[f"{source}.{part}"]
    for source, target in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        for name, value in state.items():
            if not name.startswith(f"{source}.resblocks."):
                continue
            layer, rest = name[len(source) + len(".resblocks.") :].split(".", 1)
            base = f"{target}.encoder.layers.{layer}."
            if rest.startswith("attn.in_proj"):
                kind = "weight" if rest.endswith("weight") else "bias"
                for part, piece in zip("qkv", torch.chunk(value, 3), strict=True):
                    renamed[f"{base}self_attn.{part}_proj.{kind}"] = piece
                continue
            for old, new in (("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                             ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):  # fmt: skip
                if rest.startswith(old):
                    renamed[base + new + rest[len(old) :]] = value
    return renamed


def _check(model: Any, other: Any) -> None:
    import torch

    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        a = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)
        found = other.get_image_features(pixel_values=pixels)
        found = getattr(found, "pooler_output", found)
        b = torch.nn.functional.normalize(found, dim=-1)
    difference = float((a - b).abs().max())
    if difference > 1e-4:
        raise RuntimeError(f"the two libraries' towers differ by {difference}")


def _write_processor(folder: Path) -> None:
    """Tokenizer and picture sizes as the published checkpoints have them; the vocabulary comes from open_clip's package."""
    import open_clip
    from transformers import CLIPImageProcessor, CLIPTokenizer

    words = open_clip.SimpleTokenizer()
    (folder / "vocab.json").write_text(json.dumps(words.encoder), encoding="utf-8")
    ranks = sorted(words.bpe_ranks, key=words.bpe_ranks.__getitem__)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in ranks)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    named = {"unk_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    named |= {"pad_token": "<|endoftext|>"}
    vocab = {w.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): n
             for w, n in words.encoder.items()}  # fmt: skip
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), **named).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
