# SPDX-License-Identifier: Apache-2.0
"""From a region map in voxels to the coverage of cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from torch import Tensor


def cell_coverage(region: Tensor, cell_size: Sequence[int]) -> Tensor:
    """Share of each cell that the region covers: the mean over its voxels of the maximum over the prompts.

    Every voxel counts, so that a lesion smaller than a cell is not lost between the points of a coarser grid.

    Args:
        region: probabilities ``[P, *spatial]`` in [0, 1], a map for each of ``P`` prompts.
        cell_size: edge of a cell in voxels, one number per spatial axis.

    Returns:
        Float tensor ``[*grid]`` in [0, 1], ``grid = spatial / cell_size``.

    Raises:
        ValueError: if the map has no prompt, or the cells do not tile it.
    """
    spatial, cells = tuple(region.shape[1:]), tuple(int(cell) for cell in cell_size)
    if region.ndim < 2 or region.shape[0] == 0:
        raise ValueError(f"A region map must be [prompts, *spatial], received the shape {tuple(region.shape)}.")
    if len(cells) != len(spatial):
        raise ValueError(f"cell_size must hold {len(spatial)} numbers for a map of {spatial}, received {cells}.")
    if any(cell < 1 or size < cell or size % cell for size, cell in zip(spatial, cells, strict=True)):
        raise ValueError(
            f"Cells of {cells} do not tile a region map of {spatial}. "
            "Resize or pad the scan to a multiple of cell_size, or choose another cell_size."
        )
    plain = region.as_tensor() if isinstance(region, MetaTensor) else region
    union = plain.to(torch.promote_types(plain.dtype, torch.float32)).amax(dim=0)
    tiled = [side for size, cell in zip(spatial, cells, strict=True) for side in (size // cell, cell)]
    return union.reshape(tiled).mean(dim=tuple(range(1, 2 * len(spatial), 2)))
