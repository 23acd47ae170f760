"""Rotary tables for a video with references: the base's own positions first, then one frame of grid per reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.backbones.base import Offset, ReferencePlacement

RopeTable = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Layout:
    """How references follow a video of ``frames`` token frames on the frame axis, and where they sit in RoPE space."""

    frames: int
    references: int
    offset: Offset
    placement: ReferencePlacement

    def times(self) -> list[float]:
        """The references' time positions before the offset, in token frames."""
        return [self.placement.time(index, self.frames) for index in range(self.references)]


@dataclass(frozen=True)
class RopeGrid:
    """Positions along each axis: times of the video's frames, then rows and columns shared by all frames.

    All are 1-D float32; the unit is one position of the base's own table.
    """

    times: Tensor
    rows: Tensor
    columns: Tensor

    @classmethod
    def whole(cls, frames: int, rows: int, columns: int, device: torch.device) -> RopeGrid:
        """Positions 0, 1, 2, ... along each axis."""
        return cls(*(torch.arange(size, dtype=torch.float32, device=device) for size in (frames, rows, columns)))

    def references(self, layout: Layout) -> RopeGrid:
        """The same spatial grid at the references' times, moved by the layout's offset."""
        times = torch.tensor(layout.times(), dtype=torch.float32, device=self.times.device)
        frames, rows, columns = layout.offset
        return RopeGrid(times + frames, self.rows + rows, self.columns + columns)


def axial_table(
    grid: RopeGrid,
    widths: tuple[int, int, int],
    *,
    theta: float = 10000.0,
    freqs_dtype: torch.dtype = torch.float32,
) -> RopeTable:
    """(cos, sin), each (tokens, sum of widths) float32, tokens in (frame, row, column) order.

    ``widths`` are the channels of a head that rotate with time, rows and columns. At whole positions the result is bit
    for bit what diffusers' CogVideoX, Wan and HunyuanVideo compute.
    """
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    places = ((slice(None), None, None), (None, slice(None), None), (None, None, slice(None)))
    shape = (len(grid.times), len(grid.rows), len(grid.columns))
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for positions, width, place in zip((grid.times, grid.rows, grid.columns), widths, places, strict=True):
        tables = get_1d_rotary_pos_embed(
            width, positions.to(freqs_dtype), theta, use_real=True, freqs_dtype=freqs_dtype
        )
        for half, table in zip(halves, tables, strict=True):
            half.append(table[place].expand(*shape, width))
    cos, sin = (torch.cat(half, dim=-1).flatten(0, 2) for half in halves)
    return cos, sin


def join(tables: Sequence[RopeTable], dim: int = 0) -> RopeTable:
    """Tables one after the other along their token dimension."""
    return torch.cat([cos for cos, _ in tables], dim), torch.cat([sin for _, sin in tables], dim)


class ReferenceRope(nn.Module):
    """Stands where a diffusers transformer keeps its rotary module, and is that module until a layout is given.

    Inside ``at(layout)`` the last ``layout.references`` frames of what comes in are references: the video's frames go
    through the base's own module, and the references' table, from ``table``, is put behind.
    """

    def __init__(
        self, base: nn.Module, patch: tuple[int, int, int], table: Callable[[RopeGrid], RopeTable], token_dim: int
    ) -> None:
        super().__init__()
        self.base = base
        self._patch, self._table, self._token_dim = patch, table, token_dim
        self._layout: Layout | None = None

    @contextmanager
    def at(self, layout: Layout | None) -> Iterator[None]:
        self._layout = layout
        try:
            yield
        finally:
            self._layout = None

    def forward(self, x_BCFHW: Tensor) -> RopeTable:
        layout = self._layout
        if layout is None:
            own: RopeTable = self.base(x_BCFHW)
            return own
        video = x_BCFHW[:, :, : layout.frames * self._patch[0]]
        _, rows, columns = (size // part for size, part in zip(video.shape[2:], self._patch, strict=True))
        grid = RopeGrid.whole(layout.frames, rows, columns, x_BCFHW.device)
        return join([self.base(video), self._table(grid.references(layout))], self._token_dim)
