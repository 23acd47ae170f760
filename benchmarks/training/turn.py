"""One turn of one trainer in a process of its own: python -m benchmarks.training.turn REQUEST.json RESULT.json

The card's memory is given back between turns, and no system finds another's kernels or caches warm.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.models import MODELS
from benchmarks.training.peers import diffsynth, diffusers_script
from benchmarks.training.peers.job import Job, PeerError
from benchmarks.training.stopwatch import Stopwatch
from models.compat import prepare

PEERS = {"diffusers": ("cogvideox", diffusers_script.trainer), "diffsynth": ("wan", diffsynth.trainer)}
"""By system: the family that it is measured on, and how its trainer is made."""


@dataclass(frozen=True)
class Turn:
    """``system`` is fulcrum, fulcrum compiled, or a peer, whose ``checkout`` is needed; ``folder`` holds its input."""

    system: str
    model: str
    method: str
    references: int
    samples: int
    rank: int
    checkpointing: bool
    steps: int
    warm_up: int
    folder: str = ""
    checkout: str = ""

    @property
    def row(self) -> tuple[str, str, str, int]:
        return self.model, self.method, self.system, self.references


def run(turn: Turn) -> dict[str, Any]:
    """Seconds of each timed step, peak memory in bytes (None without a GPU), and the counted arithmetic of a step.

    PeerError for what a peer cannot do, with the remedy.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock = Stopwatch(turn.steps, turn.warm_up)
    with tempfile.TemporaryDirectory(dir=turn.folder or None) as work:
        clock.run(_peer(turn, device, Path(work)) if turn.system in PEERS else _ours(turn, device))
    return {
        "turn": asdict(turn),
        "seconds": clock.seconds,
        "peak_bytes": clock.peak_bytes,
        "flops": clock.flops,
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "CPU",
        "device_bytes": int(torch.cuda.get_device_properties(0).total_memory) if device == "cuda" else None,
    }


def method_of(turn: Turn, backbone: Any) -> Any:
    """On a backbone without data (``meta``) too, for the budget."""
    from models.training.adapter import AdapterState
    from models.training.lora import LoraSpec, adapter_parameters, add_lora, remove_adapter
    from models.training.methods import Dpo, FrozenAdapter, Sft

    lora = LoraSpec(rank=turn.rank)
    if turn.method == "sft":
        return Sft(lora)
    modules = add_lora(backbone, lora, "sft")
    merged = {name: torch.zeros(value.shape) for name, value in adapter_parameters(backbone, "sft").items()}
    remove_adapter(backbone, "sft")
    ranks, alphas = dict.fromkeys(modules, lora.rank), dict.fromkeys(modules, lora.alpha)
    return Dpo(lora, base=(FrozenAdapter(AdapterState(merged, ranks, alphas)),))


def shape_of(turn: Turn, backbone: Any) -> Any:
    from models.training.budget import StepShape

    text = (backbone.text_length, backbone.text_width)
    return StepShape(turn.samples, MODELS[turn.model].latents, turn.references, text)


def _ours(turn: Turn, device: str) -> Callable[[], object]:
    from models.training.loop import TrainSpec, train

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    backbone = MODELS[turn.model].build(device, dtype)
    method, batch = method_of(turn, backbone), _batch(turn.method, shape_of(turn, backbone))
    steps = turn.warm_up + turn.steps + 1
    # Random weights may overflow; how long a step takes does not depend on it.
    spec = TrainSpec(
        steps=steps,
        gradient_checkpointing=turn.checkpointing,
        compile=turn.system == "fulcrum compiled",
        max_nonfinite=steps,
        seed=0,
    )
    return lambda: train(backbone, method, lambda _: batch, spec, None)


def _peer(turn: Turn, device: str, work: Path) -> Callable[[], object]:
    family, trainer = PEERS[turn.system]
    model = MODELS[turn.model]
    if model.family != family or turn.method != "sft" or turn.references:
        raise PeerError(f"{turn.system} trains {family} by SFT without references, not {turn.model} by {turn.method}")
    kept = Path(turn.folder, turn.model, turn.system)
    kept.mkdir(parents=True, exist_ok=True)
    steps = turn.warm_up + turn.steps + 1
    job = Job(kept, work, device, device == "cuda", turn.samples, turn.rank, turn.checkpointing, steps)
    return trainer(Path(turn.checkout), model, job)


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


def main(request: Path, result: Path) -> None:
    prepare()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    try:
        found = run(Turn(**json.loads(request.read_text())))
    except PeerError as error:
        found = {"not_run": str(error)}
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
