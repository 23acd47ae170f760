"""DoRA as a low-rank delta: only the materialised weights say what it adds, for it depends on the base (arXiv 2402.09353)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from models.training.adapter import AdapterState
from models.training.merge import Factor, MergeReport, adapter_of, compress, factors_of


def materialise(
    adapter: AdapterState,
    magnitude: Mapping[str, Tensor],
    base: Callable[[str], Tensor],
    *,
    rank: int | None = None,
    energy: float | None = None,
) -> tuple[AdapterState, MergeReport]:
    """A plain LoRA whose deltas are those of a DoRA on this base: dW = m (W + s BA) / ||W + s BA|| - W.

    ``magnitude`` is m, (out,) by module; modules without one are plain LoRA and stay as they are. ``base(module)`` gives W,
    (out, in); norms run over each output row, as PEFT's do. The delta has full rank in general: ``rank`` or ``energy``
    limits it and the report says what that loses; with neither it is exact and large. ValueError for a shape that does
    not fit the base, or for a convolution.
    """
    factors = factors_of(adapter)
    ranks: dict[str, int] = {}
    errors: dict[str, float] = {}
    lost_total = norm_total = 0.0
    for module, factor in factors.items():
        if module in magnitude:
            delta = _delta(module, factor, magnitude[module], base(module))
            factors[module], lost, norm = compress(delta, rank=rank, energy=energy)
            errors[module] = lost / norm if norm else 0.0
            lost_total, norm_total = lost_total + lost**2, norm_total + norm**2
        ranks[module] = factors[module].rank
    relative = (lost_total / norm_total) ** 0.5 if norm_total else 0.0
    report = MergeReport(ranks=ranks, errors=errors, relative_error=relative, weighted_sum_error=relative)
    return adapter_of(factors, adapter.metadata), report


def _delta(module: str, factor: Factor, magnitude: Tensor, base: Tensor) -> Tensor:
    if factor.kernel is not None:
        raise ValueError(f"module {module}: DoRA on a convolution is not supported; train it as plain LoRA")
    weight = base.double()
    if weight.shape != (factor.B.shape[0], factor.A.shape[1]) or magnitude.shape != weight.shape[:1]:
        raise ValueError(
            f"module {module}: the base's weight is {tuple(weight.shape)}, the DoRA's delta "
            f"{(factor.B.shape[0], factor.A.shape[1])} with {magnitude.numel()} magnitudes; it belongs to another model"
        )
    moved = weight + factor.scale * (factor.B.double() @ factor.A.double())
    scaled = magnitude.double()[:, None] * moved / torch.linalg.vector_norm(moved, dim=1, keepdim=True)
    return scaled - weight
