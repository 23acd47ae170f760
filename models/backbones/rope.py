"""Rotary tables for a video with references: the base's own positions first, then one frame of grid per reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RopeTable = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RopeGrid:
    """Positions along each axis: times of the video's frames, then rows and columns shared by all frames.

    All are 1-D float32; the unit is one position of the base's own table.
    """

    times: Tensor
    rows: Tensor
    columns: Tensor

    def shifted(self, times: Sequence[float], offset: tuple[float, float, float]) -> RopeGrid:
        """The same spatial grid at other times, moved by ``offset`` = (frames, rows, columns)."""
        moved = torch.tensor(times, dtype=torch.float32, device=self.times.device) + offset[0]
        return RopeGrid(moved, self.rows + offset[1], self.columns + offset[2])


def rotary_table(grids: Sequence[RopeGrid], head_dim: int) -> RopeTable:
    """(cos, sin), each (sum of grid tokens, head_dim) float32, tokens in (frame, row, column) order, grid after grid.

    A quarter of the head rotates with time and three eighths with rows and with columns each, as in CogVideoX; with
    integer positions the result is bit for bit diffusers' get_3d_rotary_pos_embed.
    """
    parts = [_grid_table(grid, head_dim) for grid in grids]
    return torch.cat([cos for cos, _ in parts]), torch.cat([sin for _, sin in parts])


def _grid_table(grid: RopeGrid, head_dim: int) -> RopeTable:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    axes = (
        (grid.times, head_dim // 4, (slice(None), None, None)),
        (grid.rows, head_dim // 8 * 3, (None, slice(None), None)),
        (grid.columns, head_dim // 8 * 3, (None, None, slice(None))),
    )
    shape = (len(grid.times), len(grid.rows), len(grid.columns))
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for positions, width, place in axes:
        for half, table in zip(halves, get_1d_rotary_pos_embed(width, positions, use_real=True), strict=True):
            half.append(table[place].expand(*shape, width))
    cos, sin = (torch.cat(half, dim=-1).flatten(0, 2) for half in halves)
    return cos, sin
