"""Which kind of step comes when: image pairs or unpaired videos, by (seed, step) alone, so that all ranks agree.

The recipe is arXiv 2504.17816's: at each optimiser step u ~ U(0, 1), and u < p makes it a video step; the two losses are
never mixed in one step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from models.training.randomness import seed_of
from models.training.sampler import Draw, Plan, Sampler, check_state

StepKind = Literal["image", "video"]
_BLOCK = 1024


@dataclass(frozen=True)
class SwitchingSpec:
    """``video_probability`` is p. ``stage_two_at``: from this optimiser step on all steps are video steps, before it none is.

    p 0 is the ablation "image only"; ``stage_two_at`` is "two-stage" (images first, then image-to-video).
    """

    video_probability: float = 0.2
    stage_two_at: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.video_probability <= 1.0:
            raise ValueError(f"switching: video_probability {self.video_probability} is not in 0..1")
        if self.stage_two_at is not None and self.stage_two_at < 0:
            raise ValueError(f"switching: stage_two_at {self.stage_two_at} is below 0")

    def kind(self, seed: int, step: int) -> StepKind:
        """Of optimiser step ``step``, from 0."""
        if self.stage_two_at is not None:
            return "video" if step >= self.stage_two_at else "image"
        # 53 bits, so that the share is exact in float64 and p = 1 always happens.
        return "video" if (seed_of(seed, "step kind", step) >> 10) / 2**53 < self.video_probability else "image"


class SwitchingSampler:
    """Two samplers that take turns; micro-batch i belongs to optimiser step i // ``accumulate``.

    Each kind goes through its own rows epoch by epoch, however its steps are spread: the n-th image step is the n-th of
    the image sampler. How many steps of a kind came before is counted from the seed, so nothing needs to be kept.
    """

    def __init__(
        self, images: Sampler | None, videos: Sampler | None, spec: SwitchingSpec, *, seed: int, accumulate: int = 1
    ) -> None:
        self.samplers: dict[StepKind, Sampler | None] = {"image": images, "video": videos}
        self.spec, self.seed, self.accumulate = spec, seed, accumulate
        parts = [sampler.digest if sampler else "none" for sampler in (images, videos)]
        self.digest = hashlib.sha256("/".join(parts).encode()).hexdigest()
        self._videos_before = [0]  # video steps before each whole block
        self._counted = (0, 0)  # a step and the video steps before it: the next question is mostly about the next step

    def at(self, index: int) -> tuple[StepKind, Sampler, int]:
        """The kind of micro-batch ``index``, the sampler it comes from, and its number there."""
        step, micro = divmod(index, self.accumulate)
        kind = self.spec.kind(self.seed, step)
        sampler = self.samplers[kind]
        if sampler is None:
            raise ValueError(f"step {step} is a step on {kind} rows, and there are none")
        videos = self._video_steps_before(step)
        before = videos if kind == "video" else step - videos
        return kind, sampler, before * self.accumulate + micro

    def rank_batch(self, step: int, *, world_size: int, rank: int) -> list[Draw]:
        _, sampler, index = self.at(step)
        return sampler.rank_batch(index, world_size=world_size, rank=rank)

    def plans(self) -> tuple[Plan, ...]:
        return tuple(
            replace(sampler.plan(), title=f"{kind} steps: ") for kind, sampler in self.samplers.items() if sampler
        )

    def leftovers(self, epoch: int) -> dict[str, list[str]]:
        """Of both kinds, in the ``epoch``-th round of each through its rows."""
        found = [sampler.leftovers(epoch) for sampler in self.samplers.values() if sampler]
        return {what: [i for part in found for i in part[what]] for what in ("dropped", "repeated")}

    def state(self, step: int) -> dict[str, int | float | str | None]:
        batches = {f"{kind}_batch": s.global_batch if s else None for kind, s in self.samplers.items()}
        return {
            "step": step,
            "seed": self.seed,
            "manifest": self.digest,
            "video_probability": self.spec.video_probability,
            "stage_two_at": self.spec.stage_two_at,
            "accumulate": self.accumulate,
            **batches,
        }

    def check(self, state: Mapping[str, int | float | str | None]) -> None:
        check_state(self.state(0), state)

    def _video_steps_before(self, step: int) -> int:
        first, count = self._counted
        if not 0 <= step - first <= _BLOCK:
            block = step // _BLOCK
            while len(self._videos_before) <= block:
                start = (len(self._videos_before) - 1) * _BLOCK
                self._videos_before.append(self._videos_before[-1] + self._videos_in(start, start + _BLOCK))
            first, count = block * _BLOCK, self._videos_before[block]
        self._counted = (step, count + self._videos_in(first, step))
        return self._counted[1]

    def _videos_in(self, first: int, end: int) -> int:
        return sum(self.spec.kind(self.seed, step) == "video" for step in range(first, end))
