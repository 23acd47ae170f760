"""Rectified flow: x_t = (1 - sigma) x0 + sigma noise, velocity noise - x0, timestep = sigma x num_train_timesteps."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from models.backbones.base import Scheduler
from models.backbones.family import Family

# Both step deterministically through a flow; UniPC is what Wan's folders name.
_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler")


class FlowFamily(Family):
    """A family that predicts the velocity of a straight flow, whatever shift its sampler puts on the timesteps."""

    prediction: ClassVar[Literal["v", "flow"]] = "flow"

    @cached_property
    def _scheduler_config(self) -> dict[str, Any]:
        config = self._components.scheduler_config()
        name = config.get("_class_name", _SCHEDULERS[0])
        if name not in _SCHEDULERS or (name == "UniPCMultistepScheduler" and not config.get("use_flow_sigmas")):
            raise ValueError(
                f"{self.weights_note}: its scheduler is a {name} for another kind of diffusion; {self.title} is a flow "
                f"model, so scheduler/scheduler_config.json should be a {' or '.join(_SCHEDULERS)} with flow sigmas"
            )
        return config

    @property
    def num_train_timesteps(self) -> int:
        return int(self._scheduler_config.get("num_train_timesteps", 1000))

    def add_noise(self, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        alpha, sigma = (part.view(-1, *[1] * (x0.ndim - 1)) for part in self.signal_and_noise(t_B))
        return alpha * x0.float() + sigma * noise.float()

    def target(self, x0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        return noise.float() - x0.float()

    def signal_and_noise(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        sigma = t_B.to(torch.float32) / self.num_train_timesteps
        return 1.0 - sigma, sigma

    def new_scheduler(self) -> Any:
        import diffusers

        config = dict(self._scheduler_config)
        return getattr(diffusers, config.pop("_class_name", _SCHEDULERS[0])).from_config(config)

    def sampler(self, steps: int, shape: tuple[int, int, int, int]) -> Scheduler:
        scheduler = self.new_scheduler()
        scheduler.set_timesteps(steps, **self._timesteps(steps, shape))
        # Without it a scheduler looks its first step up by value, and where a shift squeezes two early timesteps onto
        # one integer it would begin with the second.
        scheduler.set_begin_index(0)
        started: Scheduler = scheduler
        return started

    def _timesteps(self, steps: int, shape: tuple[int, int, int, int]) -> dict[str, Any]:
        """What the family's diffusers pipeline gives ``set_timesteps`` beside the number of steps."""
        return {}
