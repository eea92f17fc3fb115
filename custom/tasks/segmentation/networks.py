# SPDX-License-Identifier: Apache-2.0
"""Segmentation networks: decoders of MONAI on an encoder of this project; one image in, one tensor of logits out."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from monai.networks.nets.flexible_unet import SegmentationHead, UNetDecoder
from torch import Tensor, nn

from custom.networks import Encoder

_LINEAR = {2: "bilinear", 3: "trilinear"}
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
_MOST_CHANNELS = 256


class UNetSegmenter(nn.Module):
    """The decoder of MONAI's FlexibleUNet (Ronneberger et al., 2015) on any encoder, 2D and 3D.

    Skip connections lead from every feature map. An encoder that begins at stride 2 or 4 has none for the finest
    details: convolutions on the image itself give the maps that it lacks, so that the logits are never merely
    interpolated.

    Args:
        encoder: feature maps ``[B, C, *spatial / stride]`` at strides 1, 2 or 4 and on, each twice the one before.
        num_classes: channels K of the logits, background included.
        channels: of the decoder at full resolution; twice as many at each coarser level, up to 256.
        dropout: probability in [0, 1) in the decoder.

    Raises:
        ValueError: if the encoder's strides do not double.
    """

    def __init__(self, encoder: Encoder, num_classes: int, channels: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        _check_strides(encoder.strides)
        dims = encoder.spatial_dims
        self.encoder = encoder
        self.spatial_dims, self.num_classes = dims, num_classes
        levels = encoder.strides[0].bit_length() - 1  # between the image and the encoder's first map
        width = [min(channels * 2**level, _MOST_CHANNELS) for level in range(levels + len(encoder.channels))]
        fine = [encoder.in_channels, *width[:levels]]
        self.fine = nn.ModuleList(
            Convolution(dims, before, after, strides=1 if level == 0 else 2, norm="batch", act="relu")
            for level, (before, after) in enumerate(pairwise(fine))
        )
        maps = [*width[:levels], *encoder.channels]
        self.decoder = UNetDecoder(
            spatial_dims=dims,
            encoder_channels=[encoder.in_channels, *maps],
            decoder_channels=[*width[:-1][::-1], width[0]],
            act=("leakyrelu", {"negative_slope": 0.1}),  # narrow decoders lose classes to units that died
            norm="batch",
            dropout=dropout,
            bias=False,
            upsample="nontrainable",
            pre_conv="default",
            interp_mode="nearest",
            align_corners=None,
            is_pad=False,
        )
        # MONAI's decoder ends with an up-sampling without a skip connection; ours has reached the image's size by then.
        del self.decoder.blocks[-1]
        self.head = SegmentationHead(dims, width[0], num_classes)
        self.to(memory_format=_CHANNELS_LAST[dims])  # as the encoder is: faster

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``[B, K, *spatial]`` of images ``[B, C, *spatial]``."""
        padded = _padded(image, self.encoder.strides[-1])
        maps: list[Tensor] = []
        for layer in self.fine:
            maps.append(layer(maps[-1] if maps else padded))
        maps += self.encoder(padded)
        logits = self.head(self.decoder(maps, skip_connect=len(maps) - 1))
        return logits[(..., *(slice(side) for side in image.shape[2:]))]


class PyramidSegmenter(nn.Module):
    """A light head on MONAI's feature pyramid (Kirillov et al., Panoptic Feature Pyramid Networks, 2019, section 3).

    All levels of the pyramid are brought to the finest one's resolution and added; the logits are interpolated from
    there to the image. Cheaper than :class:`UNetSegmenter`, coarser where the encoder begins at stride 4.

    Args:
        encoder: feature maps ``[B, C, *spatial / stride]``, from fine to coarse.
        num_classes: channels K of the logits, background included.
        channels: of the pyramid.
        dropout: probability in [0, 1) of dropping a channel before the logits.
    """

    def __init__(self, encoder: Encoder, num_classes: int, channels: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        dims = encoder.spatial_dims
        self.encoder = encoder
        self.spatial_dims, self.num_classes = dims, num_classes
        self.pyramid = FeaturePyramidNetwork(dims, list(encoder.channels), channels)
        self.mix = Convolution(dims, channels, channels, norm="batch", act="relu", dropout=dropout)
        self.head = SegmentationHead(dims, channels, num_classes, kernel_size=1)
        self.to(memory_format=_CHANNELS_LAST[dims])

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``[B, K, *spatial]`` of images ``[B, C, *spatial]``."""
        maps = self.encoder(image)
        levels = list(self.pyramid({str(index): each for index, each in enumerate(maps)}).values())
        finest = levels[0]
        for each in levels[1:]:
            finest = finest + self._resized(each, finest.shape[2:])
        return self._resized(self.head(self.mix(finest)), image.shape[2:])

    def _resized(self, values: Tensor, size: torch.Size) -> Tensor:
        if values.shape[2:] == size:
            return values
        return F.interpolate(values, size=tuple(size), mode=_LINEAR[self.spatial_dims], align_corners=False)


def _padded(image: Tensor, multiple: int) -> Tensor:
    """Add zeros behind each axis up to a multiple, so that every up-sampling meets its skip connection."""
    missing = [-side % multiple for side in image.shape[2:]]
    if not any(missing):
        return image
    return F.pad(image, [part for each in reversed(missing) for part in (0, each)])


def _check_strides(strides: list[int]) -> None:
    if strides[0] not in (1, 2, 4, 8) or any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ValueError(f"A U-Net needs feature maps whose strides double, from 1, 2, 4 or 8 on; these are {strides}.")
