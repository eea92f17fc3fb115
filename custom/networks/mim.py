# SPDX-License-Identifier: Apache-2.0
"""The network of masked image modelling: sparse encoder, dense decoder."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from custom.networks.decoders import Decoder
from custom.networks.encoder import Encoder
from custom.networks.visibility import Visibility


class MaskedImageModel(nn.Module):
    """Reconstruct an image from its visible cells (SparK, arXiv 2301.03580).

    Args:
        encoder: the encoder to pretrain.
        decoder: called with the encoder's maps and the visibility; discarded after pretraining.
        cell_size: side of a cell in voxels, one number or one per axis. Cells may be smaller than the encoder's stride.

    Raises:
        ValueError: if ``cell_size`` is not positive.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, cell_size: int | Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.cell_size = ensure_tuple_rep(cell_size, encoder.spatial_dims)
        if min(self.cell_size) < 1:
            raise ValueError(f"cell_size must be at least 1 voxel, got {self.cell_size}.")

    @property
    def size_divisor(self) -> tuple[int, ...]:
        """What the image's sides must be divisible by: cells and the encoder's stride must both fit."""
        return tuple(lcm(side, self.encoder.strides[-1]) for side in self.cell_size)

    def forward(self, image: Tensor, visible: Tensor | None = None, wanted: Tensor | None = None) -> Tensor:
        """Return the reconstruction ``[B, C, *spatial]``.

        Args:
            image: ``[B, C, *spatial]``.
            visible: boolean ``[B, *grid]`` or ``[B, 1, *grid]``, True = visible; None: everything is. On the host, a
                GPU does not wait for the number of visible cells.
            wanted: likewise, True = the cell's reconstruction is wanted; elsewhere the decoder may leave zeros. None:
                what is hidden.

        Raises:
            ValueError: if the image's sides do not fit cells and stride, or the grid does not fit the image.
        """
        self._check_size(image)
        if visible is None:
            return self.decoder(self.encoder.encode(image), None)
        visibility = self._cells(image, visible)
        asked = self._cells(image, ~visible if wanted is None else wanted)
        return self.decoder(self.encoder.encode(image, visibility), visibility, asked)

    def _cells(self, image: Tensor, visible: Tensor) -> Visibility:
        visibility = Visibility(visible, self.encoder.spatial_dims, image.device)
        grid = tuple(side // cell for side, cell in zip(image.shape[2:], self.cell_size, strict=True))
        if tuple(visibility.cells.shape[2:]) != grid or len(visible) != len(image):
            raise ValueError(
                f"{len(image)} images of {tuple(image.shape[2:])} voxels with cells of {self.cell_size} need visible "
                f"cells {(len(image), *grid)}, got {tuple(visible.shape)}."
            )
        return visibility

    def _check_size(self, image: Tensor) -> None:
        spatial, divisor = tuple(image.shape[2:]), self.size_divisor
        if len(spatial) != len(divisor) or any(side % factor for side, factor in zip(spatial, divisor, strict=True)):
            raise ValueError(
                f"Image sides {spatial} must be divisible by {divisor} (cells of {self.cell_size} voxels, encoder "
                f"stride {self.encoder.strides[-1]}): choose another `image_size`, or pad with DivisiblePadd."
            )
