"""The ranks that train together, by torch.distributed if it is initialised, else one rank alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class World:
    """Sums over ranks. Adapters are small, so gradients travel as one flat tensor a step and need no wrapped module."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def current(cls, device: torch.device) -> World:
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(0, 1, device)

    def sum(self, value: float) -> float:
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def sum_values(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Every rank must bring the same names."""
        names = sorted(values)
        stacked = torch.stack([values[name].to(self.device, torch.float64) for name in names])
        if self.size > 1:
            dist.all_reduce(stacked)
        return dict(zip(names, stacked.tolist(), strict=True))

    def sum_tensor(self, values: Tensor) -> Tensor:
        """The sum over the ranks, on the CPU; every rank must bring the same shape."""
        if self.size == 1:
            return values
        total = values.to(self.device)
        dist.all_reduce(total)
        return total.cpu()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over the ranks; a parameter without one counts as zero."""
        if self.size == 1:
            return
        many = list(parameters)
        flat = torch.cat([_gradient(parameter).flatten() for parameter in many])
        dist.all_reduce(flat)
        for parameter, part in zip(many, flat.split([parameter.numel() for parameter in many]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
