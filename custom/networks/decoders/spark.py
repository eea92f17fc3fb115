# SPDX-License-Identifier: Apache-2.0
"""SparK's decoder: dense, at every resolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from custom.networks.decoders.densify import Densify
from custom.networks.packed.rows import Rows
from custom.networks.visibility import Visibility


class SparKDecoder(nn.Module):
    """The "light decoder" of SparK (arXiv 2301.03580, section 3.2) in 2D and 3D: a UNet's upward half.

    From the coarsest map, each block doubles the resolution (transposed convolution, two 3-wide convolutions) and
    halves the width; the densified encoder map of that resolution is added first. It costs three quarters of a
    ResNet-50's pretraining; :class:`ThinDecoder` is the cheap alternative. Weights start as in SparK's code.

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
        coarse_first = list(reversed(channels))[:steps]  # a map of full resolution would enter after the last block
        self.densify = nn.ModuleList(
            Densify(spatial_dims, source, target, kernel_size=1 if level == 0 else 3)
            for level, (source, target) in enumerate(zip(coarse_first, widths, strict=False))
        )
        self.blocks = nn.ModuleList(_UpBlock(spatial_dims, wide, narrow) for wide, narrow in pairwise(widths))
        self.head = Conv[Conv.CONV, spatial_dims](widths[-1], out_channels, 1)
        self.blocks.apply(_start)
        self.head.apply(_start)

    def forward(
        self, features: Sequence[Tensor | Rows], visibility: Visibility | None, wanted: Visibility | None = None
    ) -> Tensor:
        """Return the reconstruction ``[B, out_channels, *image]``; see :class:`custom.networks.decoders.Decoder`.

        All of it is computed, whatever is wanted, as in SparK.
        """
        dense = [densify(values, visibility) for densify, values in zip(self.densify, reversed(features), strict=False)]
        values = dense[0]
        for level, block in enumerate(self.blocks):
            if 0 < level < len(dense):
                values = values + dense[level]
            values = block(values)
        result: Tensor = self.head(values)
        return result


def _start(layer: nn.Module) -> None:
    """Convolutions: a truncated normal of 0.02; transposed ones: Kaiming's normal, by the fan out; biases: zero."""
    if not isinstance(layer, _ConvNd):
        return
    if isinstance(layer, _ConvTransposeNd):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


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
