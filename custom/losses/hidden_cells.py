# SPDX-License-Identifier: Apache-2.0
"""Reconstruction error on hidden cells, with targets normalised per cell (MAE, SparK)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, NamedTuple

import torch
from monai.utils import convert_to_tensor, ensure_tuple_rep
from torch import Tensor, nn


class MIMTarget(NamedTuple):
    """What a prediction is compared with.

    - ``image``: ``[B, C, *spatial]``.
    - ``visible``: boolean ``[B, *grid]`` or ``[B, 1, *grid]``, True where the network saw the cell.
    - ``wanted``: likewise, True where the cell enters the loss; None: wherever it is hidden.
    """

    image: Tensor
    visible: Tensor
    wanted: Tensor | None = None


class HiddenCellLoss(nn.Module):
    """Mean squared error on the hidden cells only (SparK, arXiv 2301.03580, section 3.3; MAE, section 3).

    With ``normalize`` the target of a cell is ``(image - mean) / sqrt(var + eps)`` over all its voxels and channels.
    The variance is the unbiased one, as in SparK's and MAE's code. The error is averaged over the values of a cell,
    then over all hidden cells of the batch, or those that are wanted. Computed in float32 whatever the prediction's
    type.

    *Cells of constant intensity.* Air and padding have next to no variance. Where it is exactly zero the normalised
    target is zero; where there is a little noise, the normalisation blows the noise up to unit variance and the
    network is asked to predict it, which nothing can. With ``constant_cells="ignore"`` cells whose standard
    deviation lies below ``constant_threshold`` are left out of the average. If no cell remains, the loss is a zero
    that keeps the graph. ``"keep"`` is SparK's behaviour.

    Args:
        cell_size: edge of a cell, one number or one per spatial axis.
        normalize: normalise the target per cell; otherwise compare intensities.
        eps: added to the variance.
        constant_cells: "ignore" or "keep".
        constant_threshold: standard deviation, in units of the image's intensity, below which a cell counts as
            constant. The default, 0.01, suits images scaled to [0, 1]: it is 2.5 of 255 grey levels.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        cell_size: int | Sequence[int],
        normalize: bool = True,
        eps: float = 1e-6,
        constant_cells: Literal["ignore", "keep"] = "ignore",
        constant_threshold: float = 0.01,
    ) -> None:
        super().__init__()
        if constant_cells not in ("ignore", "keep"):
            raise ValueError(f"constant_cells must be 'ignore' or 'keep', received {constant_cells!r}.")
        if eps <= 0 or constant_threshold < 0:
            raise ValueError(
                f"eps must be positive and constant_threshold not negative, received {eps} and {constant_threshold}."
            )
        self.cell_size = cell_size
        self.normalize = normalize
        self.eps = eps
        self.constant_cells = constant_cells
        self.constant_threshold = constant_threshold

    def forward(self, prediction: Tensor, target: MIMTarget) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            prediction: ``[B, C, *spatial]``, normalised per cell if the loss normalises.
            target: the image, the visible and, if not all hidden ones, the wanted cells.

        Raises:
            ValueError: if the shapes do not fit each other or the cell size.
        """
        image = convert_to_tensor(target.image, track_meta=False)
        prediction = convert_to_tensor(prediction, track_meta=False)
        if prediction.shape != image.shape:
            raise ValueError(f"Prediction {tuple(prediction.shape)} and image {tuple(image.shape)} differ in shape.")
        with torch.autocast(image.device.type, enabled=False):
            predicted, truth = to_cells(prediction.float(), self.cell_size), to_cells(image.float(), self.cell_size)
            mean, variance = _cell_statistics(truth)
            counted = self._counted(target, truth, variance)
            if self.normalize:
                truth = (truth - mean) / (variance + self.eps).sqrt()
            error = (predicted - truth).square().mean(dim=2)
            return (error * counted).sum() / counted.sum().clamp_min(1)

    def _counted(self, target: MIMTarget, cells: Tensor, variance: Tensor) -> Tensor:
        """1 for the cells that enter the average, ``[B, cells]``."""
        asked = ~target.visible.bool() if target.wanted is None else target.wanted.bool()
        counted = asked.reshape(asked.shape[0], -1)
        if counted.shape != cells.shape[:2]:
            raise ValueError(
                f"The mask {tuple(asked.shape)} has {counted.shape[1]} cells a sample, an image in cells of "
                f"{self.cell_size} has {cells.shape[1]}. Use the same cell_size for the masking and the loss."
            )
        if self.constant_cells == "ignore":
            counted = counted & (variance[..., 0].sqrt() >= self.constant_threshold)
        return counted.float()


def to_cells(image: Tensor, cell_size: int | Sequence[int]) -> Tensor:
    """Cut an image into cells.

    Args:
        image: ``[B, C, *spatial]``.
        cell_size: edge of a cell, one number or one per spatial axis.

    Returns:
        ``[B, cells, voxels * C]``: cells in row-major order of the grid; within a cell voxels in row-major order,
        channels last.

    Raises:
        ValueError: if ``*spatial`` is not divisible by ``cell_size``.
    """
    batch, channels, *spatial = image.shape
    grid, cell = _grid(spatial, cell_size)
    split = image.reshape(batch, channels, *(size for pair in zip(grid, cell, strict=True) for size in pair))
    axes = len(grid)
    order = [0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1]
    return split.permute(order).reshape(batch, prod(grid), prod(cell) * channels)


def from_cells(cells: Tensor, spatial: Sequence[int], cell_size: int | Sequence[int]) -> Tensor:
    """Put cells together again, the inverse of :func:`to_cells`.

    Args:
        cells: ``[B, cells, voxels * C]``.
        spatial: size of the image.
        cell_size: edge of a cell, one number or one per spatial axis.

    Returns:
        ``[B, C, *spatial]``.
    """
    grid, cell = _grid(spatial, cell_size)
    axes, batch, channels = len(grid), cells.shape[0], cells.shape[2] // prod(cell)
    split = cells.reshape(batch, *grid, *cell, channels)
    pairs = [axis for pair in zip(range(1, 1 + axes), range(1 + axes, 1 + 2 * axes), strict=True) for axis in pair]
    return split.permute([0, 1 + 2 * axes, *pairs]).reshape(batch, channels, *spatial)


def denormalize(prediction: Tensor, image: Tensor, cell_size: int | Sequence[int], eps: float = 1e-6) -> Tensor:
    """Bring a prediction in normalised space back to grey levels, for pictures.

    Uses mean and standard deviation of the **true** cells, which a network that predicts normalised cells does not
    know: a picture made so shows the predicted structure, not predicted brightness.

    Args:
        prediction: ``[B, C, *spatial]``, normalised per cell.
        image: the true image, ``[B, C, *spatial]``.
        cell_size: edge of a cell, one number or one per spatial axis.
        eps: as in the loss.

    Returns:
        ``[B, C, *spatial]`` float32, in the image's intensity scale.
    """
    mean, variance = _cell_statistics(to_cells(image.float(), cell_size))
    grey = to_cells(prediction.float(), cell_size) * (variance + eps).sqrt() + mean
    return from_cells(grey, image.shape[2:], cell_size)


def _cell_statistics(cells: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each cell, ``[B, cells, 1]``."""
    if cells.shape[2] < 2:
        raise ValueError("A cell of one value has no variance: use cells of at least two voxels.")
    return cells.mean(dim=2, keepdim=True), cells.var(dim=2, keepdim=True)


def _grid(spatial: Sequence[int], cell_size: int | Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    cell = ensure_tuple_rep(cell_size, len(spatial))
    if any(edge < 1 or size % edge for size, edge in zip(spatial, cell, strict=True)):
        raise ValueError(f"An image of {tuple(spatial)} cannot be cut into cells of {cell}: sizes must be multiples.")
    return tuple(size // edge for size, edge in zip(spatial, cell, strict=True)), cell
