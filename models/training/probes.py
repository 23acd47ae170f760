"""What is measured on fixed held-out data while training: the error at fixed timesteps, and how two kinds' gradients agree.

A probe reads the model and changes nothing: every draw is fixed, dropout is off, and the loop seeds its own draws anew at
each micro-step. The training loss jumps with the timesteps that were drawn; these numbers are comparable from step to step.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.backbones.base import Backbone
from models.training.batch import Batch
from models.training.cache import CacheReader
from models.training.lora import adapter_parameters, train_mode
from models.training.methods import Method
from models.training.objective import denoising_error_B
from models.training.randomness import noise
from models.training.world import World


class Probe(Protocol):
    """Measured after steps 1, ``every``, 2 ``every``, ... and the last, on every rank together."""

    @property
    def every(self) -> int: ...

    def __call__(self, backbone: Backbone, method: Method, world: World) -> dict[str, float]: ...


class HeldOutLoss:
    """Mean denoising error of held-out samples at the middle of each of ``quantiles`` equal parts of the timesteps.

    Each sample and part has its own fixed noise; references are view 0. The ranks share the samples among themselves.
    Gives ``held_out/loss`` and one ``held_out/loss_<t>`` a part. diffusion-pipe measures so with nine parts.
    """

    def __init__(
        self, reader: CacheReader, sample_ids: Sequence[str], *, seed: int, every: int, quantiles: int = 9
    ) -> None:
        self.reader, self.sample_ids, self.seed = reader, tuple(sample_ids), seed
        self.every, self.quantiles = every, quantiles

    @torch.no_grad()
    def __call__(self, backbone: Backbone, method: Method, world: World) -> dict[str, float]:
        last = backbone.num_train_timesteps
        parts = [int((part + 0.5) / self.quantiles * last) for part in range(self.quantiles)]
        sums = torch.zeros(self.quantiles + 1, dtype=torch.float64)
        # As many forwards on every rank, for a sharded transformer needs all of them at each; what is over counts nothing.
        for index in range(world.rank, -(-len(self.sample_ids) // world.size) * world.size, world.size):
            errors = self._errors(backbone, self.sample_ids[index % len(self.sample_ids)], parts).double().cpu()
            if index < len(self.sample_ids):
                sums[:-1] += errors
                sums[-1] += 1
        total = world.sum_tensor(sums)
        means = (total[:-1] / total[-1]).tolist()
        found = {f"held_out/loss_{t:04d}": value for t, value in zip(parts, means, strict=True)}
        return {"held_out/loss": sum(means) / len(means), **found}

    def _errors(self, backbone: Backbone, sample_id: str, parts: Sequence[int]) -> Tensor:
        latents, references = self.reader.latents(sample_id), self.reader.references(sample_id)
        text = self.reader.text(sample_id)
        errors = []
        for visit, t in enumerate(parts):  # one at a time: a probe must not need more memory than a step
            draw = noise(self.seed, sample_id, visit, latents.shape)
            errors.append(
                denoising_error_B(
                    backbone,
                    latents[None].to(backbone.device),
                    draw[None].to(backbone.device),
                    torch.tensor([t], device=backbone.device),
                    text[None].to(backbone.device),
                    references[None].to(backbone.device) if references is not None else None,
                )
            )
        return torch.cat(errors)


@dataclass(frozen=True)
class GradientAnalysis:
    """How far the gradients of image and video steps agree, after arXiv 2504.17816 (its gradient analysis).

    At frozen weights, on fixed held-out mini-batches: phi = <g_image, g_video> / (|g_image| |g_video| + 1e-12) over the
    adapter's parameters in their fixed order, and both norms; with ``layers`` phi of each block as well. ``batches``
    gives this rank's mini-batch of each kind; gradients are averaged over the ranks. The paper sees phi fall to about
    0 within 100 steps at p = 0.2, and stay at 0.4 to 0.75 without video steps.
    """

    batches: Mapping[str, Callable[[], Batch]]
    every: int
    layers: bool = False

    def __call__(self, backbone: Backbone, method: Method, world: World) -> dict[str, float]:
        parameters = adapter_parameters(backbone, method.adapter)
        gradients = {}
        for kind in ("image", "video"):
            for parameter in parameters.values():
                parameter.grad = None
            batch = self.batches[kind]().to(backbone.device)
            for index in range(len(batch)):
                (method.loss(backbone, one_of(batch, index)).loss / len(batch)).backward()
            flat = torch.cat(
                [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters.values()]
            )
            gradients[kind] = world.sum_tensor(flat.double().cpu()) / world.size
        for parameter in parameters.values():
            parameter.grad = None
        image, video = gradients["image"], gradients["video"]
        found = {
            "gradient/cosine": _cosine(image, video),
            "gradient/image_norm": float(image.norm()),
            "gradient/video_norm": float(video.norm()),
        }
        if self.layers:
            sizes = [parameter.numel() for parameter in parameters.values()]
            parts: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for name, *pair in zip(parameters, image.split(sizes), video.split(sizes), strict=True):
                parts[_block(name)].append((pair[0], pair[1]))
            for block, pairs in parts.items():
                left, right = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
                found[f"gradient/cosine/{block}"] = _cosine(left, right)
        return found


def run_probe(probe: Probe, backbone: Backbone, method: Method, world: World) -> dict[str, float]:
    """The probe's numbers, with dropout off while it measures."""
    train_mode(backbone, None)
    try:
        return probe(backbone, method, world)
    finally:
        train_mode(backbone, method.adapter)


def one_of(batch: Batch, index: int) -> Batch:
    """Sample ``index`` of a batch as a batch of one."""
    part = slice(index, index + 1)
    references = batch.references_BRCHW
    return Batch(
        sample_ids=batch.sample_ids[part],
        text_BLD=batch.text_BLD[part],
        noise_BCFHW=batch.noise_BCFHW[part],
        t_B=batch.t_B[part],
        references_BRCHW=references[part] if references is not None else None,
        latents_BCFHW=batch.latents_BCFHW[part],
        kind=batch.kind,
    )


def _cosine(left: Tensor, right: Tensor) -> float:
    return float(left @ right / (left.norm() * right.norm() + 1e-12))


def _block(name: str) -> str:
    """The transformer block a parameter belongs to, such as ``transformer_blocks.3``, or what comes before the adapter."""
    found = re.match(r"(.*?\.\d+)\.", name)
    return found[1] if found else name.split(".lora_")[0]
