"""Which timesteps training has drawn, and the error at them: ten bins, summed over all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BINS = 10


class TimestepHistogram:
    """Counts draws since the start and, since it last told, sums errors; both by tenth of the timesteps.

    What is added travels with a step's other sums over the ranks (``add`` puts it there, ``take`` fetches it back), so
    every rank holds the same whole.
    """

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps
        self._counts, self._errors, self._since = ([0.0] * BINS for _ in range(3))

    def add(self, t_B: Tensor, error_B: Tensor, totals: dict[str, Tensor]) -> None:
        bins = (t_B.double() / self.timesteps * BINS).long().clamp(0, BINS - 1)
        hot = torch.nn.functional.one_hot(bins, BINS).to(error_B.dtype)
        for name, values in (("count", hot.sum(0)), ("error", (hot * error_B[:, None]).sum(0))):
            for index in range(BINS):
                key = f"_{name}{index}"
                totals[key] = totals.get(key, torch.zeros((), device=values.device)) + values[index]

    def take(self, sums: dict[str, float]) -> None:
        """Moves what ``add`` put into a step's sums over here."""
        for index in range(BINS):
            count = sums.pop(f"_count{index}")
            self._counts[index] += count
            self._since[index] += count
            self._errors[index] += sums.pop(f"_error{index}")

    def tell(self) -> dict[str, float]:
        """``timesteps/<from>``: draws so far from there to a tenth on; ``error_at/<from>``: mean error there since told."""
        found = {}
        for index in range(BINS):
            start = f"{index / BINS:.1f}"
            found[f"timesteps/{start}"] = self._counts[index]
            if self._since[index]:
                found[f"error_at/{start}"] = self._errors[index] / self._since[index]
        self._errors, self._since = [0.0] * BINS, [0.0] * BINS
        return found

    def state(self) -> dict[str, Any]:
        return {"counts": self._counts, "errors": self._errors, "since": self._since}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._counts, self._errors, self._since = (list(state[name]) for name in ("counts", "errors", "since"))
