# SPDX-License-Identifier: Apache-2.0
"""Which positions of a feature map are visible, given the visible cells of the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Visibility:
    """The visible cells of a batch, read at any resolution. True means visible.

    An immutable value that travels through the forward pass as an argument; nothing is kept in modules or globals, so
    networks can be interleaved, run in threads and recomputed in activation checkpoints.

    A position of a map as fine as the cells, or finer, is visible when its cell is. A position of a coarser map is
    visible when *any* cell below it is: cells may therefore be smaller than the encoder's stride. With cells as large
    as the stride this is SparK's rule (arXiv 2301.03580, section 3.1).

    Args:
        cells: boolean ``[B, *grid]`` or ``[B, 1, *grid]``.
        spatial_dims: number of spatial axes of the grid.

    Raises:
        ValueError: if ``cells`` has another type or shape.
    """

    def __init__(self, cells: Tensor, spatial_dims: int) -> None:
        if cells.dtype != torch.bool:
            raise ValueError(f"Visible cells must be boolean (True = visible), got {cells.dtype}.")
        if cells.ndim == spatial_dims + 1:
            cells = cells.unsqueeze(1)
        if cells.ndim != spatial_dims + 2 or cells.shape[1] != 1:
            shape = tuple(cells.shape)
            raise ValueError(f"Visible cells must be [B, *grid] or [B, 1, *grid] in {spatial_dims}D, got {shape}.")
        self._cells = cells
        self._levels: dict[tuple[int, ...], Tensor] = {}

    @property
    def cells(self) -> Tensor:
        """The visible cells, boolean ``[B, 1, *grid]``."""
        return self._cells

    def at(self, spatial: torch.Size | tuple[int, ...]) -> Tensor:
        """Return the visible positions of a map of the given spatial size, boolean ``[B, 1, *spatial]``."""
        size = tuple(spatial)
        if size not in self._levels:
            self._levels[size] = self._resample(size)
        return self._levels[size]

    def hide(self, values: Tensor) -> Tensor:
        """Return ``[B, C, *spatial]`` with zeros at the hidden positions (whatever stood there, NaN included)."""
        return values.masked_fill(~self.at(values.shape[2:]), 0)

    def _resample(self, size: tuple[int, ...]) -> Tensor:
        grid = tuple(self._cells.shape[2:])
        if size == grid:
            return self._cells
        # Bin i of the adaptive pool spans floor(i*g/s) to ceil((i+1)*g/s): it repeats cells when the map is finer and
        # takes "any" when it is coarser, odd sizes included.
        pool = F.adaptive_max_pool2d if len(size) == 2 else F.adaptive_max_pool3d
        return pool(self._cells.float(), size) > 0
