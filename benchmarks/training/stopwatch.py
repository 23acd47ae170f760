"""One clock for every trainer: a step ends when torch's optimiser has stepped, whoever called it.

The clock hangs on torch's own hook after an optimiser's step, so a peer's script runs as it is published and is timed
as our loop is. After the timed steps one more is counted under torch's FLOP counter, and then the trainer is left.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from models.training.budget import CPU_ATTENTION


class Finished(BaseException):
    """Everything is measured. No Exception, so that a trainer's own error handling lets it pass."""


@dataclass
class Stopwatch:
    """Skips ``warm_up`` steps, times the next ``steps`` (seconds each), counts the arithmetic of one more."""

    steps: int
    warm_up: int
    seconds: list[float] = field(default_factory=list)
    flops: int | None = None
    peak_bytes: int | None = None
    _seen: int = 0
    _last: float = 0.0
    _counter: FlopCounterMode | None = None

    def run(self, trainer: Callable[[], object]) -> Stopwatch:
        """Runs ``trainer`` until all is measured; RuntimeError if it ends before that."""
        hook = register_optimizer_step_post_hook(self._stepped)
        try:
            trainer()
        except Finished:
            return self
        finally:
            hook.remove()
            self._stop_counting()
        raise RuntimeError(f"the trainer ended after {self._seen} steps; {self.warm_up + self.steps + 1} are needed")

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def _stop_counting(self) -> None:
        """Also where a trainer ended in the counted step: the mode would go on counting for whoever comes next."""
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None

    def _stepped(self, *_: Any) -> None:
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._seen += 1
        if self._counter is not None:
            self.flops = int(self._counter.get_total_flops())
            raise Finished
        if self._seen > self.warm_up:
            self.seconds.append(now - self._last)
        if on_gpu and self._seen == self.warm_up:
            torch.cuda.reset_peak_memory_stats()
        if len(self.seconds) == self.steps:
            self.peak_bytes = torch.cuda.max_memory_allocated() if on_gpu else None
            self._counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
            self._counter.__enter__()
        self._last = time.perf_counter()
