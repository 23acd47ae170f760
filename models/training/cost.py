"""What one sample of a shape costs in a transformer, relative to other shapes: for batches of equal work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def tokens(latents: tuple[int, int, int, int], references: int, config: Mapping[str, Any]) -> int:
    """Tokens of latents (C, F, H, W) and their references, by a diffusers transformer's configuration; text not counted."""
    _, frames, height, width = latents
    size = config.get("patch_size", 1)
    of_time, *of_space = size if isinstance(size, list | tuple) else (config.get("patch_size_t") or 1, size, size)
    across = math.ceil(height / of_space[0]) * math.ceil(width / of_space[1])
    return (math.ceil(frames / of_time) + references) * across


def relative_flops(count: int, config: Mapping[str, Any]) -> float:
    """FLOPs of ``count`` tokens, in units of one token's linear layers.

    A block of width d takes 24 N d^2 in its linear layers (four projections and a feed-forward of 4 d, 2 FLOPs a weight)
    and 4 N^2 d in attention, so attention overtakes them at 6 d tokens: N (1 + N / (6 d)).
    """
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    return count * (1.0 + count / (6.0 * width))
