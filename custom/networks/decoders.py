# SPDX-License-Identifier: Apache-2.0
"""Decoders of masked image modelling: from the visible cells' features to the whole image.

Both take ``features`` (fine to coarse, zero where hidden) and the visibility, and return ``[B, C, *image]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from monai.networks.utils import pixelshuffle
from torch import Tensor, nn

from custom.networks.densify import Densify
from custom.networks.visibility import Visibility


class SparKDecoder(nn.Module):
    """The "light decoder" of SparK (arXiv 2301.03580, section 3.2) in 2D and 3D: a UNet's upward half.

    From the coarsest map, each block doubles the resolution (transposed convolution, two 3-wide convolutions) and
    halves the width; the densified encoder map of that resolution is added first. It costs three quarters of a
    ResNet-50's pretraining; :class:`ThinDecoder` is the cheap alternative.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the encoder's maps, fine to coarse.
        strides: their down-sampling factors, powers of two, each twice the one before.
        out_channels: channels of the image.
        width: channels at the coarsest map (SparK: 768).

    Raises:
        ValueError: if the strides do not double, or the width cannot be halved that often.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int = 1,
        width: int = 768,
    ) -> None:
        super().__init__()
        steps = strides[-1].bit_length() - 1
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)) or strides[-1] != 2**steps:
            raise ValueError(f"SparK's decoder needs strides that double from a power of two, got {list(strides)}.")
        if width % 2**steps:
            raise ValueError(f"width is halved {steps} times, so {2**steps} must divide it; got {width}.")
        widths = [width // 2**step for step in range(steps + 1)]
        coarse_first = list(reversed(channels))
        self.densify = nn.ModuleList(
            Densify(spatial_dims, source, target, kernel_size=1 if level == 0 else 3)
            for level, (source, target) in enumerate(zip(coarse_first, widths, strict=False))
        )
        self.blocks = nn.ModuleList(_UpBlock(spatial_dims, wide, narrow) for wide, narrow in pairwise(widths))
        self.head = Conv[Conv.CONV, spatial_dims](widths[-1], out_channels, 1)

    def forward(self, features: Sequence[Tensor], visibility: Visibility | None) -> Tensor:
        """Return the reconstruction ``[B, out_channels, *image]``; ``visibility`` None: everything was seen."""
        dense = [densify(values, visibility) for densify, values in zip(self.densify, reversed(features), strict=True)]
        values = dense[0]
        for level, block in enumerate(self.blocks):
            if 0 < level < len(dense):
                values = values + dense[level]
            values = block(values)
        result: Tensor = self.head(values)
        return result


class _UpBlock(nn.Sequential):
    """Double the resolution, then two convolutions; the second one changes the width."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
        super().__init__(
            Conv[Conv.CONVTRANS, spatial_dims](in_channels, in_channels, 4, stride=2, padding=1),
            conv(in_channels, in_channels, 3, padding=1, bias=False),
            norm(in_channels),
            nn.ReLU6(inplace=True),
            conv(in_channels, out_channels, 3, padding=1, bias=False),
            norm(out_channels),
        )


class ThinDecoder(nn.Module):
    """A decoder of one narrow width that predicts blocks of voxels from the finest encoder map.

    The maps are densified, added from coarse to fine (as in a feature pyramid) with one convolution block a level, and
    the finest one predicts all ``stride ** spatial_dims`` voxels below each of its positions (sub-pixel convolution,
    arXiv 1609.05158): no convolution runs at full resolution.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the encoder's maps, fine to coarse.
        strides: their down-sampling factors, each a multiple of the one before.
        out_channels: channels of the image.
        width: channels everywhere in the decoder.

    Raises:
        ValueError: if a stride is not a multiple of the one before.
    """

    def __init__(
        self, spatial_dims: int, channels: Sequence[int], strides: Sequence[int], out_channels: int = 1, width: int = 64
    ) -> None:
        super().__init__()
        if any(coarse % fine for fine, coarse in pairwise(strides)):
            raise ValueError(f"Each stride must be a multiple of the one before, got {list(strides)}.")
        self.spatial_dims = spatial_dims
        self.stride = strides[0]
        self.densify = nn.ModuleList(Densify(spatial_dims, source, width) for source in channels)
        self.blocks = nn.ModuleList(_conv_block(spatial_dims, width) for _ in channels)
        self.head = Conv[Conv.CONV, spatial_dims](width, out_channels * self.stride**spatial_dims, 1)

    def forward(self, features: Sequence[Tensor], visibility: Visibility | None) -> Tensor:
        """Return the reconstruction ``[B, out_channels, *image]``; ``visibility`` None: everything was seen."""
        values: Tensor | None = None
        for level in reversed(range(len(features))):
            dense = self.densify[level](features[level], visibility)
            if values is not None:
                dense = dense + F.interpolate(values, size=dense.shape[2:], mode="nearest")
            values = self.blocks[level](dense)
        voxels = self.head(values)
        return pixelshuffle(voxels, self.spatial_dims, self.stride) if self.stride > 1 else voxels


def _conv_block(spatial_dims: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        Conv[Conv.CONV, spatial_dims](width, width, 3, padding=1, bias=False),
        Norm[Norm.BATCH, spatial_dims](width),
        nn.ReLU(inplace=True),
    )
