# SPDX-License-Identifier: Apache-2.0
"""A feature pyramid on an encoder: the body that detectors share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torch import Tensor, nn

from custom.networks import Encoder

FINEST_STRIDE = 4


class FeaturePyramid(nn.Module):
    """Feature maps of equal width at several strides, the coarse ones added to the fine.

    MONAI's block after Lin et al., "Feature Pyramid Networks for Object Detection", arXiv 1612.03144, section 3.

    Args:
        encoder: where the maps come from.
        levels: which of the encoder's maps to use, counted from the finest (0), or from the coarsest (-1); None: those
            with strides of 4 and more (finer maps cost most of the time and find little), or the coarsest.
        out_channels: width of every map.
        extra_level: add one map of half the coarsest resolution (max pooling), for objects larger than its cells.

    Attributes:
        out_channels: as given (torchvision's and MONAI's detectors read it).
        strides: down-sampling factor of every map that comes out, fine to coarse.

    Raises:
        ValueError: if a level is unknown or none is chosen.
    """

    def __init__(
        self,
        encoder: Encoder,
        levels: Sequence[int] | None = None,
        out_channels: int = 64,
        extra_level: bool = False,
    ) -> None:
        super().__init__()
        self.levels = _chosen(levels, encoder.strides)
        self.encoder = encoder
        self.out_channels = int(out_channels)
        self.strides = [encoder.strides[level] for level in self.levels]
        if extra_level:
            self.strides.append(2 * self.strides[-1])
        extra = LastLevelMaxPool(encoder.spatial_dims) if extra_level else None
        widths = [encoder.channels[level] for level in self.levels]
        self.pyramid = FeaturePyramidNetwork(encoder.spatial_dims, widths, self.out_channels, extra)

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.encoder.spatial_dims

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return maps ``[B, out_channels, *spatial / stride]``, fine to coarse.

        Args:
            images: ``[B, C, *spatial]``, sides divisible by the coarsest stride (else coarse maps are rounded up).
        """
        maps = self.encoder(images)
        return list(self.pyramid(OrderedDict((str(level), maps[level]) for level in self.levels)).values())


def _chosen(levels: Sequence[int] | None, strides: Sequence[int]) -> list[int]:
    count = len(strides)
    if levels is None:
        return [level for level, stride in enumerate(strides) if stride >= FINEST_STRIDE] or [count - 1]
    wanted = [int(level) for level in levels]
    if not wanted or not all(-count <= level < count for level in wanted):
        raise ValueError(f"levels must name some of the encoder's {count} maps (0 to {count - 1}), got {levels!r}.")
    return sorted({level % count for level in wanted})
