"""Trains the oracles on renders and their codec round trips, some of them disturbed to a known degree."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.linear_codec import LinearVideoCodec
from tinyworld import difficulty as d
from tinyworld.oracles import FRAMES, HEADS, OracleNet
from tinyworld.train import codec as codecs
from tinyworld.train.stock import Stock
from tinyworld.world import generator


@dataclass(frozen=True)
class OracleRecipe:
    steps: int = 3000
    batch: int = 32
    rate: float = 3e-3
    width: int = 24
    frames: int = 2
    seed: int = 0


def disturb(clips_BCFHW: Tensor, codec: LinearVideoCodec, strength_B: Tensor, generator: torch.Generator) -> Tensor:
    """Decoded clips whose unit-scale latents were mixed with noise: sqrt(1 - s^2) z + s noise."""
    scale = codec.config.scaling_factor
    latents = codec.encode(clips_BCFHW).latent_dist.mode() * scale
    s = strength_B.to(latents.device).view(-1, 1, 1, 1, 1)
    mixed = (1 - s * s).sqrt() * latents + s * torch.randn(latents.shape, generator=generator).to(latents.device)
    return codec.decode(mixed / scale).sample.clamp(-1, 1)


def make_batch(
    step: int, recipe: OracleRecipe, codec: LinearVideoCodec, stock: Stock
) -> tuple[Tensor, dict[str, Tensor]]:
    """A third plain renders, a third codec round trips, a third disturbed; a pure function of its arguments."""
    rows = generator("oracle-rows", recipe.seed, step).integers(len(stock.videos), size=recipe.batch)
    device = codec.mean.device
    video = codecs.to_unit(stock.videos[rows]).to(device)
    source = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    kind = torch.arange(recipe.batch) % 3
    strength = torch.where(kind == 2, torch.rand(recipe.batch, generator=source), torch.zeros(recipe.batch))
    through = disturb(video, codec, strength, source)
    truth = {name: torch.from_numpy(stock.labels[rows, column]) for column, name in enumerate(HEADS)}
    masks = torch.from_numpy(stock.masks[rows].astype(np.float32) / 255)
    truth["mask"] = F.avg_pool2d(masks, 2)
    truth["corruption"] = strength
    plain = (kind == 0).view(-1, 1, 1, 1, 1).to(device)
    return torch.where(plain, video, through), {name: value.to(device) for name, value in truth.items()}


def loss_of(found: dict[str, Tensor], truth: dict[str, Tensor], frames: list[int]) -> Tensor:
    """Cross-entropies of all heads on clips that still show something, plus mask and corruption."""
    clear = (truth["corruption"] < 0.5).float()
    total = torch.zeros((), device=truth["corruption"].device)
    for name in HEADS:
        total = total + (F.cross_entropy(found[name], truth[name], reduction="none") * clear).sum() / clear.sum()
    mask = F.binary_cross_entropy_with_logits(found["mask"], truth["mask"][:, frames], reduction="none").mean((1, 2, 3))
    return total + 3 * (mask * clear).sum() / clear.sum() + 3 * F.mse_loss(found["corruption"], truth["corruption"])


def train(
    work: Path,
    recipe: OracleRecipe,
    stock: Stock,
    codec: LinearVideoCodec,
    out: Path,
    until: int | None = None,
    device: str = "cpu",
) -> Iterator[tuple[int, float, float]]:
    """Trains or goes on, saves each minute; yields (step, loss, CPU seconds) each hundred steps; writes ``out`` at the end."""
    work.mkdir(parents=True, exist_ok=True)
    clock = time.process_time()
    torch.manual_seed(recipe.seed)
    net, codec = OracleNet(recipe.width).to(device), deepcopy(codec).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=0.01)
    step, seconds, state_file = 0, 0.0, work / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True, map_location=device)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        step, seconds = state["step"], state["seconds"]
    saved, recent = time.monotonic(), list[float]()

    def save() -> None:
        aside = state_file.with_suffix(".new")
        torch.save(
            {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step, "seconds": seconds}, aside
        )
        aside.replace(state_file)

    end = min(recipe.steps, until or recipe.steps)
    started = step
    while step < end:
        clip, truth = make_batch(step, recipe, codec, stock)
        frames = sorted(generator("oracle-frames", step).permutation(FRAMES)[: recipe.frames].tolist())
        rate = (
            recipe.rate * min(1, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = loss_of(net(clip, frames), truth, frames)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        recent.append(float(loss.detach()))
        step += 1
        if step % 100 == 0:
            seconds, clock = seconds + time.process_time() - clock, time.process_time()
            yield step, float(np.mean(recent[-100:])), seconds
        if time.monotonic() - saved > 60:
            save()
            saved = time.monotonic()
    seconds += time.process_time() - clock
    if step > started:
        save()
    yield step, float(np.mean(recent[-100:] or [math.nan])), seconds
    if step == recipe.steps:
        write(net, recipe, out)


def write(net: OracleNet, recipe: OracleRecipe, out: Path) -> None:
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().cpu().contiguous() for k, v in net.state_dict().items()}, out / "model.safetensors")
    config: dict[str, Any] = {"width": recipe.width, "world_version": d.WORLD_VERSION, "recipe": asdict(recipe)}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
