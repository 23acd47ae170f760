"""DiffSynth-Studio's own Wan training, run as published from a checkout that the user names.

It trains on a folder of cached latents and texts (its ``sft:train``), which is what our loop does, so it needs neither
codec nor text encoder. Its model is written by its own class; a size that it does not know is named to its loader.
It always trains in bfloat16, one sample at a time, with activation checkpointing.
"""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from benchmarks.training.models import Measured
from benchmarks.training.peers.job import Job, PeerError

SCRIPT = Path("examples", "wanvideo", "model_training", "train.py")
TARGETS = "q,k,v,o"  # attention's projections alone, as the others train


def trainer(checkout: Path, model: Measured, job: Job) -> Callable[[], object]:
    """Its ``train.py`` on a random model and cached samples of noise."""
    script = checkout / SCRIPT
    if not script.is_file():
        raise PeerError(
            f"{script} is missing: --diffsynth-checkout is the root of a clone of modelscope/DiffSynth-Studio"
        )
    if job.samples != 1 or not job.checkpointing:
        raise PeerError("DiffSynth-Studio trains one sample at a time with activation checkpointing")
    sys.path.insert(0, str(checkout))
    weights, samples, tokenizer = job.folder / "dit.safetensors", job.folder / "cache", job.folder / "tokenizer"
    shapes = model.build("meta", torch.bfloat16)
    kwargs = _configuration(shapes.transformer.config)
    if not weights.exists():
        _write_samples(samples, model.latents, (shapes.text_length, shapes.text_width), job.steps)
        shapes.tokenizer.save_pretrained(tokenizer)
        _write_weights(weights, kwargs, job.device)
    _make_known(weights, kwargs)
    arguments = {
        "dataset_base_path": samples,
        "model_paths": json.dumps([str(weights)]),
        "tokenizer_path": tokenizer,
        "lora_base_model": "dit",
        "lora_target_modules": TARGETS,
        "lora_rank": job.rank,
        "task": "sft:train",
        "learning_rate": 1e-4,
        "output_path": job.work,
        "save_steps": job.steps + 1,
    }
    words = [word for key, value in arguments.items() for word in (f"--{key}", str(value))]
    argv = [str(script), *words, "--use_gradient_checkpointing"]

    def run() -> None:
        with mock.patch.object(sys, "argv", argv), mock.patch.dict(sys.modules, _unused()):
            runpy.run_path(str(script), run_name="__main__")

    return run


def _unused() -> dict[str, ModuleType]:
    """An empty module for librosa, which reads sound, where it is not installed: the script asks for it and reads none."""
    if importlib.util.find_spec("librosa") is not None:
        return {}
    empty = ModuleType("librosa")
    empty.__spec__, empty.load = ModuleSpec("librosa", None), None  # type: ignore[attr-defined]
    return {"librosa": empty}


def _configuration(config: Any) -> dict[str, Any]:
    """What its own class is made from, by diffusers' configuration of the same transformer."""
    return {
        "has_image_input": False,
        "patch_size": list(config.patch_size),
        "in_dim": config.in_channels,
        "out_dim": config.out_channels,
        "dim": config.num_attention_heads * config.attention_head_dim,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "text_dim": config.text_dim,
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_layers,
        "eps": config.eps,
    }


def _write_weights(path: Path, kwargs: dict[str, Any], device: str) -> None:
    from diffsynth.models.wan_video_dit import WanModel
    from safetensors.torch import save_file

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            state = WanModel(**kwargs).state_dict()
    finally:
        torch.set_default_dtype(before)
    save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, path)


def _make_known(weights: Path, kwargs: dict[str, Any]) -> None:
    """Its loader tells models by a hash of their tensors' names and shapes, and refuses sizes that nobody published."""
    from diffsynth.configs import MODEL_CONFIGS
    from diffsynth.core.loader import hash_model_file

    digest = hash_model_file(str(weights))
    if all(known["model_hash"] != digest for known in MODEL_CONFIGS):
        kind = {"model_name": "wan_video_dit", "model_class": "diffsynth.models.wan_video_dit.WanModel"}
        MODEL_CONFIGS.append({"model_hash": digest, **kind, "extra_kwargs": kwargs})


def _write_samples(folder: Path, latents: tuple[int, ...], text: tuple[int, int], count: int) -> None:
    """As its own ``sft:data_process`` would leave them: shared inputs, the prompt's, and no negative prompt's."""
    draws = torch.Generator().manual_seed(0)
    folder.mkdir()
    shared = {
        "input_latents": torch.randn(1, *latents, generator=draws).bfloat16(),
        "use_gradient_checkpointing": True,
        "use_gradient_checkpointing_offload": False,
        "cfg_merge": False,
    }
    prompt = {"context": torch.randn(1, *text, generator=draws).bfloat16()}
    for index in range(count):
        torch.save((shared, prompt, {}), folder / f"{index}.pth")
