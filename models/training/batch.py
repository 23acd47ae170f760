"""What a training step is fed: latents, references and text, with their noise and timesteps already drawn.

Noise and timesteps come with the batch, not from the loop: whoever makes batches derives them from (seed, sample id,
visit), so a resumed or resized run sees the same ones. Suffixes: B batch, C channel, F latent frame, H W latent rows and
columns, L text tokens, D text width, R references.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Tensors:
    sample_ids: tuple[str, ...]
    text_BLD: Tensor
    noise_BCFHW: Tensor
    t_B: Tensor
    references_BRCHW: Tensor | None

    def __len__(self) -> int:
        return len(self.sample_ids)

    def to(self, device: torch.device | str) -> Self:
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def _check(self, **latents: Tensor) -> None:
        name = type(self).__name__
        for field, value in latents.items():
            if value.ndim != 5 or value.shape != self.noise_BCFHW.shape:
                raise ValueError(
                    f"{name}: {field} {tuple(value.shape)} and noise_BCFHW {tuple(self.noise_BCFHW.shape)} should have "
                    "one 5-D shape"
                )
        if self.t_B.is_floating_point() or self.t_B.ndim != 1:
            raise ValueError(f"{name}: t_B should be 1-D integer timesteps, not {self.t_B.dtype} {self.t_B.ndim}-D")
        for field, value in (("text_BLD", self.text_BLD), ("t_B", self.t_B), ("noise_BCFHW", self.noise_BCFHW)):
            if len(value) != len(self):
                raise ValueError(f"{name}: {field} has {len(value)} rows for {len(self)} sample_ids")
        if self.references_BRCHW is not None and len(self.references_BRCHW) != len(self):
            raise ValueError(f"{name}: references_BRCHW has {len(self.references_BRCHW)} rows for {len(self)} samples")


@dataclass(frozen=True)
class Batch(_Tensors):
    """Supervised samples; latents are normalised and clean, references None for a reference-free step.

    ``kind`` names a step whose loss is logged apart, as image and video steps of ``switching`` are.
    """

    latents_BCFHW: Tensor
    kind: str = ""

    def __post_init__(self) -> None:
        self._check(latents_BCFHW=self.latents_BCFHW)


@dataclass(frozen=True)
class PreferenceBatch(_Tensors):
    """Winners, each with N losers; they share text, references, noise and timestep, so only the videos differ.

    ``reference_errors_BK`` (K = 1 + N, winner first) are the reference's errors on this very batch where they were
    computed before; None has the method compute them.
    """

    winner_BCFHW: Tensor
    losers_BNCFHW: Tensor
    reference_errors_BK: Tensor | None = None

    def __post_init__(self) -> None:
        self._check(winner_BCFHW=self.winner_BCFHW)
        winner, losers = self.winner_BCFHW.shape, self.losers_BNCFHW.shape
        if len(losers) != 6 or not losers[1] or (losers[0], *losers[2:]) != tuple(winner):
            raise ValueError(
                f"PreferenceBatch: losers_BNCFHW {tuple(losers)} should be (B, N, C, F, H, W) with winners {tuple(winner)}"
            )
        known = self.reference_errors_BK
        if known is not None and tuple(known.shape) != (losers[0], 1 + losers[1]):
            raise ValueError(f"PreferenceBatch: reference_errors_BK {tuple(known.shape)} should be (B, 1 + N)")
