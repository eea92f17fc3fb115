# SPDX-License-Identifier: Apache-2.0
"""Which cells of a scan show anything but background."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from custom.regions.coverage import cell_coverage

AIR = 0.05


def content_cells(image: Tensor, cell_size: Sequence[int], threshold: float = AIR, background: float = 0.0) -> Tensor:
    """Cells in which any voxel differs from the background by more than a threshold.

    The defaults suit images that are scaled to [0, 1] by percentiles, as the configs do: there air and padding are
    zero, and the noise that resizing leaves in the air of an MRI mostly stays below 0.05 (``benchmarks/empty_space.py``
    counts). One voxel suffices: a cell is never called empty for being mostly empty.

    Args:
        image: ``[C, *spatial]``.
        cell_size: edge of a cell in voxels, one number per spatial axis.
        threshold: in units of intensity.
        background: intensity of air and padding.

    Returns:
        Boolean ``[*grid]``, False where a cell is empty.

    Raises:
        ValueError: if the cells do not tile the image.
    """
    return cell_coverage((image - background).abs() > threshold, cell_size) > 0
