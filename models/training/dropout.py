"""LoRA dropout whose masks belong to samples, so that they do not hang on how a batch is split over workers.

Drawn from a rank's own stream, the same global batch would see other masks on two workers than on one, and the two runs
would part. Here a mask is drawn from (seed, step, sample, layer): any number of workers draws the same, and so does
activation checkpointing when it computes a forward again.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone


class SampleDropout(nn.Module):
    """Dropout with probability ``p`` on tensors whose leading dimension is the samples, or a multiple of them."""

    def __init__(self, p: float, layer: str, masks: Masks) -> None:
        super().__init__()
        self.p, self.layer, self.masks = p, layer, masks

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        seeds = self.masks.seeds
        if not seeds or x.shape[0] % len(seeds):
            raise RuntimeError(f"{self.layer}: {x.shape[0]} rows do not belong to {len(seeds)} samples")
        rows = x.shape[0] // len(seeds)
        kept = torch.empty_like(x)
        for index, seed in enumerate(seeds):
            draws = torch.Generator(x.device).manual_seed(_seed(seed, self.layer))
            kept[index * rows : (index + 1) * rows].bernoulli_(1.0 - self.p, generator=draws)
        return x * kept / (1.0 - self.p)


class Masks:
    """The seeds of the samples in the forward that runs now, shared by all layers of an adapter."""

    def __init__(self) -> None:
        self.seeds: tuple[int, ...] = ()

    def belong_to(self, seed: int, step: int, micro: int, sample_ids: Sequence[str]) -> None:
        """Draw from now on for these samples, in the batch's order."""
        self.seeds = tuple(_seed(seed, step, micro, sample_id) for sample_id in sample_ids)


def install(backbone: Backbone, adapter: str) -> Masks:
    """Gives every layer of ``adapter`` that has dropout this one instead; the masks' owner is returned."""
    from peft.tuners.lora import LoraLayer

    masks = Masks()
    for name, layer in backbone.transformer.named_modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_dropout:
            plain = layer.lora_dropout[adapter]
            if isinstance(plain, nn.Dropout):
                layer.lora_dropout[adapter] = SampleDropout(plain.p, name, masks)
    return masks


def _seed(*parts: int | str) -> int:
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
