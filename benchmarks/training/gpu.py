"""Step time, peak memory, HFU and MFU of training steps on one card, with random weights: python -m benchmarks.training.gpu

Needs torch, diffusers, peft, numpy and safetensors alone. HFU counts what the card computes, activation recomputation
included; MFU counts the model's forward and backward once. Both come from the traced step (models/training/budget.py).
Without a GPU it runs the tiny models, which says only that it runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from models.compat import prepare

PEAK_TFLOPS = {"H200": 989, "H100": 989, "H800": 989, "A100": 312, "A800": 312, "L40S": 362, "4090": 165}
"""Dense bfloat16 by a part of the card's name, from the vendor's data sheets."""
WARM_UP = 2


def measure(
    name: str, method: str, *, device: str, steps: int, rank: int, references: int, checkpointing: bool, samples: int
) -> dict[str, Any]:
    """One model and method: what was foretold, and what was then measured."""
    from benchmarks.training.models import MODELS
    from models.training.budget import StepShape, step_budget
    from models.training.loop import TrainSpec, train
    from models.training.lora import LoraSpec

    model = MODELS[name]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    backbone, shapes = model.build(device, dtype), model.build("meta", dtype)
    shape = StepShape(samples, model.latents, references, (shapes.text_length, shapes.text_width))
    how = _method(method, LoraSpec(rank=rank), backbone)
    budget = step_budget(shapes, how, shape, checkpointing=checkpointing)
    print(budget.describe(shape, _memory(device)), flush=True)
    batch = _batch(method, shape)
    began: list[float] = []
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()

    def on_metrics(_step: int, _metrics: dict[str, float]) -> None:
        _wait(device)
        began.append(time.perf_counter())

    # Random weights may overflow; how long a step takes does not depend on it.
    spec = TrainSpec(steps=steps + WARM_UP, gradient_checkpointing=checkpointing, max_nonfinite=steps + WARM_UP, seed=0)
    train(backbone, how, lambda _: batch, spec, None, on_metrics)
    seconds = [after - before for before, after in pairwise(began)][WARM_UP - 1 :]
    median = statistics.median(seconds)
    peak = torch.cuda.max_memory_allocated() if device != "cpu" else None
    return {
        "model": name,
        "method": method,
        "video": model.video,
        "samples": samples,
        "references": references,
        "lora_rank": rank,
        "activation_checkpointing": checkpointing,
        "step_s": median,
        "step_s_spread": [min(seconds), max(seconds)],
        "steps": len(seconds),
        "peak_bytes": peak,
        "foretold": budget.as_dict(),
        **_utilisation(budget.flops, budget.model_flops, median, device),
    }


def _utilisation(flops: int, model_flops: int, seconds: float, device: str) -> dict[str, float | None]:
    peak = _peak_flops(device)
    return {
        "tflops_per_s": flops / seconds / 1e12,
        "hfu": flops / seconds / peak if peak else None,
        "mfu": model_flops / seconds / peak if peak else None,
    }


def _method(method: str, lora: Any, backbone: Any) -> Any:
    from models.training.lora import adapter_state, add_lora, remove_adapter
    from models.training.methods import Dpo, FrozenAdapter, Sft

    if method == "sft":
        return Sft(lora)
    add_lora(backbone, lora, "sft")
    state = adapter_state(backbone, "sft")
    remove_adapter(backbone, "sft")
    return Dpo(lora, base=(FrozenAdapter(state),))


def _batch(method: str, shape: Any) -> Any:
    from models.training.batch import Batch, PreferenceBatch

    draws = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(shape.samples, *size, generator=draws)

    channels, _, height, width = shape.latents
    common: dict[str, Any] = {
        "sample_ids": tuple(str(i) for i in range(shape.samples)),
        "text_BLD": normal(*shape.text),
        "noise_BCFHW": normal(*shape.latents),
        "t_B": torch.full((shape.samples,), 500),
        "references_BRCHW": normal(shape.references, channels, height, width) if shape.references else None,
    }
    if method == "sft":
        return Batch(latents_BCFHW=normal(*shape.latents), **common)
    return PreferenceBatch(winner_BCFHW=normal(*shape.latents), losers_BNCFHW=normal(1, *shape.latents), **common)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _memory(device: str) -> int | None:
    return None if device == "cpu" else int(torch.cuda.get_device_properties(0).total_memory)


def _peak_flops(device: str) -> float | None:
    if device == "cpu":
        return None
    name = torch.cuda.get_device_name(0)
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if part in name), None)


def main(arguments: list[str] | None = None, write: Callable[[str], Any] = print) -> dict[str, Any]:
    prepare()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    large = torch.cuda.is_available()
    models = ["cogvideox-5b", "wan-1.3b", "wan-14b"] if large else ["tiny-cogvideox", "tiny-wan"]
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--methods", nargs="+", default=["sft", "dpo"], choices=["sft", "dpo"])
    parser.add_argument("--steps", type=int, default=8, help="steps that are timed, after two that are not")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--rank", type=int, default=64 if large else 4)
    parser.add_argument("--references", type=int, default=1)
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--out", type=Path, help="write what was found here, as JSON")
    chosen = parser.parse_args(arguments)
    device = "cuda" if large else "cpu"
    if not large:
        torch.set_num_threads(1)  # models of this size lose by a second one
    results = []
    for name in chosen.models:
        for method in chosen.methods:
            result = measure(
                name,
                method,
                device=device,
                steps=chosen.steps,
                rank=chosen.rank,
                references=chosen.references,
                checkpointing=not chosen.no_checkpointing,
                samples=chosen.samples,
            )
            results.append(result)
            write(_line(result))
    found = {
        "device": torch.cuda.get_device_name(0) if large else "CPU",
        "torch": torch.__version__,
        "results": results,
        "dpo_over_sft": _ratios(results),
    }
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _ratios(results: list[dict[str, Any]]) -> dict[str, float]:
    """By model: how many SFT steps a DPO step takes."""
    seconds = {(result["model"], result["method"]): result["step_s"] for result in results}
    return {
        model: seconds[model, "dpo"] / seconds[model, "sft"]
        for model, method in seconds
        if method == "dpo" and (model, "sft") in seconds
    }


def _line(result: dict[str, Any]) -> str:
    share = "" if result["hfu"] is None else f", HFU {result['hfu']:.0%}, MFU {result['mfu']:.0%}"
    peak = "" if result["peak_bytes"] is None else f", peak {result['peak_bytes'] / 2**30:.1f} GiB"
    return f"{result['model']} {result['method']}: {result['step_s']:.3f} s a step{peak}{share}"


if __name__ == "__main__":
    main()
