# SPDX-License-Identifier: Apache-2.0
"""Which positions of a feature map are visible, given the visible cells of the image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from custom.networks.packed.sites import Sites, Stencil, Window, to_device


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
        device: where masks and tables are wanted; by default where ``cells`` are. Cells on the host spare a GPU the
            wait for the number of visible positions.

    Raises:
        ValueError: if ``cells`` has another type or shape.
    """

    def __init__(self, cells: Tensor, spatial_dims: int, device: torch.device | str | None = None) -> None:
        if cells.dtype != torch.bool:
            raise ValueError(f"Visible cells must be boolean (True = visible), got {cells.dtype}.")
        if cells.ndim == spatial_dims + 1:
            cells = cells.unsqueeze(1)
        if cells.ndim != spatial_dims + 2 or cells.shape[1] != 1:
            shape = tuple(cells.shape)
            raise ValueError(f"Visible cells must be [B, *grid] or [B, 1, *grid] in {spatial_dims}D, got {shape}.")
        self._host = cells.cpu()
        self._device = cells.device if device is None else torch.device(device)
        self._levels: dict[tuple[int, ...], Tensor] = {}
        self._sites: dict[tuple[int, ...], Sites] = {}
        self._stencils: dict[tuple[Any, ...], Stencil] = {}

    @property
    def cells(self) -> Tensor:
        """The visible cells, boolean ``[B, 1, *grid]``, on the host."""
        return self._host

    def mask(self, spatial: torch.Size | tuple[int, ...]) -> Tensor:
        """Return the visible positions of a map of the given spatial size, boolean ``[B, *spatial]`` on the host."""
        return self._resample(tuple(spatial))[:, 0]

    def at(self, spatial: torch.Size | tuple[int, ...]) -> Tensor:
        """Return the visible positions of a map of the given spatial size, boolean ``[B, 1, *spatial]``."""
        size = tuple(spatial)
        if size not in self._levels:
            self._levels[size] = to_device(self._resample(size), self._device)
        return self._levels[size]

    def hide(self, values: Tensor) -> Tensor:
        """Return ``[B, C, *spatial]`` with zeros at the hidden positions (whatever stood there, NaN included)."""
        return values.masked_fill(~self.at(values.shape[2:]), 0)

    def sites(self, spatial: torch.Size | tuple[int, ...]) -> Sites:
        """Return the visible positions of a map of the given spatial size as rows of packed maps."""
        size = tuple(spatial)
        if size not in self._sites:
            self._sites[size] = Sites(self.mask(size), self._device)
        return self._sites[size]

    def stencil(self, source: tuple[int, ...], target: tuple[int, ...], window: Window) -> Stencil:
        """Return how a window leads from the visible positions of one size to those of another."""
        key = (source, target, window)
        if key not in self._stencils:
            self._stencils[key] = Stencil(self.sites(source), self.sites(target), window)
        return self._stencils[key]

    def _resample(self, size: tuple[int, ...]) -> Tensor:
        grid = tuple(self._host.shape[2:])
        if size == grid:
            return self._host
        if all(side % cells == 0 for side, cells in zip(size, grid, strict=True)):
            finer = self._host
            for axis, (side, cells) in enumerate(zip(size, grid, strict=True), start=2):
                finer = finer.repeat_interleave(side // cells, axis)
            return finer
        # Bin i of the adaptive pool spans floor(i*g/s) to ceil((i+1)*g/s): it takes "any" where the map is coarser,
        # odd sizes included.
        pool = F.adaptive_max_pool2d if len(size) == 2 else F.adaptive_max_pool3d
        return pool(self._host.float(), size) > 0
