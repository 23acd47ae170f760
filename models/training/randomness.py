"""Every random draw of training, as a pure function of (seed, sample, visit, purpose).

Nothing here depends on rank, worker, process or how many draws came before. So a resumed run draws what an undisturbed
run draws, and a run on two workers draws what a run on one draws.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2^63) from any sequence of integers and strings.

    Parts are length-prefixed and typed before hashing, so that ("a", "bc") and ("ab", "c"), or 1 and "1", differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = str(part).encode()
        digest.update(f"{type(part).__name__}:{len(raw)}:".encode())
        digest.update(raw)
    return int.from_bytes(digest.digest(), "big") >> 1


def generator(seed: int, sample_id: str, visit: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one visit to one sample.

    ``purpose`` separates the draws: the noise of a sample must not change because a timestep is drawn another way. The
    generator lives on the CPU because CUDA and CPU streams differ; draw here, then move.
    """
    return torch.Generator().manual_seed(seed_of(seed, sample_id, visit, purpose))


def noise(seed: int, sample_id: str, visit: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of ``shape``, float32, on the CPU."""
    return torch.randn(tuple(shape), generator=generator(seed, sample_id, visit, "noise"), dtype=torch.float32)


@dataclass(frozen=True)
class TimestepSpec:
    """How training timesteps are drawn.

    ``uniform`` is the DDPM and CogVideoX default; ``logit_normal`` (mean, std) is common for flow models (SD3, HuMo).
    ``shift`` s maps a share u to s*u / (1 + (s-1)*u), towards more noise for s > 1. ``low`` and ``high`` cut the range
    as shares of ``train_steps``: RealDPO trains on [0, 0.5).
    """

    distribution: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    low: float = 0.0
    high: float = 1.0
    train_steps: int = 1000

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ValueError(f"timesteps: low {self.low} and high {self.high} must satisfy 0 <= low < high <= 1")
        if self.shift <= 0 or self.std <= 0:
            raise ValueError(f"timesteps: shift {self.shift} and std {self.std} must be above 0")
        if self.train_steps < 1:
            raise ValueError(f"timesteps: train_steps is {self.train_steps}, must be at least 1")


def timestep(seed: int, sample_id: str, visit: int, spec: TimestepSpec) -> int:
    """One timestep in [0, train_steps), larger is noisier."""
    draws = generator(seed, sample_id, visit, "timestep")
    if spec.distribution == "uniform":
        share = float(torch.rand((), generator=draws, dtype=torch.float64))
    else:
        normal = float(torch.randn((), generator=draws, dtype=torch.float64))
        share = 1.0 / (1.0 + math.exp(-(spec.mean + spec.std * normal)))
    share = spec.shift * share / (1.0 + (spec.shift - 1.0) * share)
    share = spec.low + (spec.high - spec.low) * share
    return min(int(share * spec.train_steps), spec.train_steps - 1)


def choose_views(seed: int, sample_id: str, visit: int, references: int, views: int) -> tuple[int, ...]:
    """Which cached view of each reference this visit sees, each in [0, views)."""
    draws = torch.randint(views, (references,), generator=generator(seed, sample_id, visit, "views"))
    return tuple(int(v) for v in draws)


def happens(seed: int, sample_id: str, visit: int, purpose: str, probability: float) -> bool:
    """Whether an event of ``probability`` (a dropped caption, dropped references) happens at this visit."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"{purpose}: probability {probability} is not in 0..1")
    return (
        float(torch.rand((), generator=generator(seed, sample_id, visit, purpose), dtype=torch.float64)) < probability
    )
