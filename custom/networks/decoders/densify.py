# SPDX-License-Identifier: Apache-2.0
"""From sparse feature maps to dense ones: a learned token wherever nothing was seen."""

from __future__ import annotations

from math import prod

from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from custom.networks.decoders.base import mask_token
from custom.networks.packed.normalisation import batch_norm
from custom.networks.packed.rows import Rows
from custom.networks.visibility import Visibility


class Densify(nn.Module):
    """Fill hidden positions with a mask token, then project to the decoder's width.

    Source: SparK, arXiv 2301.03580, section 3.2.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the encoder's map.
        out_channels: channels that the decoder wants.
        kernel_size: of the projection; SparK takes 1 for the coarsest map, 3 for the others.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int = 1) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.norm = Norm[Norm.BATCH, spatial_dims](in_channels)
        self.token = mask_token(1, in_channels, *(1,) * spatial_dims)
        self.projection = Conv[Conv.CONV, spatial_dims](
            in_channels, out_channels, kernel_size, padding=kernel_size // 2
        )

    def forward(self, values: Tensor | Rows, visibility: Visibility | None) -> Tensor:
        """Return ``[B, out_channels, *spatial]`` from ``[B, in_channels, *spatial]``; None: everything is visible."""
        if visibility is None:
            return self.projection(self.norm(values))
        rows = values if isinstance(values, Rows) else Rows.of(values, visibility.sites(values.shape[2:]))
        normalised = batch_norm(self.norm, rows.values, self.spatial_dims)
        batch, channels, *spatial = rows.shape
        tokens = self.token.flatten().to(normalised.dtype).expand(batch * prod(spatial), channels)
        filled = tokens.index_copy(0, rows.sites.index, normalised)
        return self.projection(filled.reshape(batch, *spatial, channels).movedim(-1, 1))
