# SPDX-License-Identifier: Apache-2.0
"""A decoder that costs little: narrow, without full resolution, and only where something is to be filled in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, cast

import torch
from monai.networks.layers.factories import Conv, Norm
from monai.networks.utils import pixelshuffle
from torch import Tensor, nn
from torch.nn import functional as F

from custom.networks.decoders.base import mask_token
from custom.networks.packed.convolution import convolve
from custom.networks.packed.normalisation import batch_norm
from custom.networks.packed.rows import Rows
from custom.networks.packed.sites import Sites, Stencil, Window
from custom.networks.visibility import Visibility


class ThinDecoder(nn.Module):
    """A decoder of one narrow width that predicts blocks of voxels from a coarse map.

    The encoder's maps are projected to one width, a token standing where nothing was seen, and added from coarse to
    fine (as in a feature pyramid) with one convolution block a level. The finest level predicts all voxels below each
    of its positions (sub-pixel convolution, arXiv 1609.05158): no convolution runs at full resolution. Encoder maps
    finer than that level are folded into it by a convolution with a stride. All levels are packed: a position is
    computed only if a wanted voxel depends on it, and batch normalisation takes its statistics of those positions.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of the encoder's maps, fine to coarse.
        strides: their down-sampling factors, each a multiple of the one before.
        out_channels: channels of the image.
        width: channels everywhere in the decoder.
        block: voxels, along each axis, that one position of the finest level predicts at least. Maps of a smaller
            stride are folded into the first one that has it.

    Raises:
        ValueError: if a stride is not a multiple of the one before.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int = 1,
        width: int = 64,
        block: int = 4,
    ) -> None:
        super().__init__()
        if any(coarse % fine for fine, coarse in pairwise(strides)):
            raise ValueError(f"Each stride must be a multiple of the one before, got {list(strides)}.")
        self.spatial_dims = spatial_dims
        self.folded = min(sum(stride < block for stride in strides), len(strides) - 1)
        self.stride = strides[self.folded]
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
        levels = range(len(strides) - self.folded)
        folds = [max(1, self.stride // stride) for stride in strides]
        self.norms = nn.ModuleList(norm(source) for source in channels)
        self.projections = nn.ModuleList(
            conv(source, width, fold, stride=fold) for source, fold in zip(channels, folds, strict=True)
        )
        self.tokens = nn.ParameterList(mask_token(1, width) for _ in levels)
        self.convolutions = nn.ModuleList(conv(width, width, 3, padding=1, bias=False) for _ in levels)
        self.block_norms = nn.ModuleList(norm(width) for _ in levels)
        self.head = nn.Linear(width, out_channels * self.stride**spatial_dims)

    def forward(
        self, features: Sequence[Tensor | Rows], visibility: Visibility | None, wanted: Visibility | None = None
    ) -> Tensor:
        """Return the reconstruction, see :class:`custom.networks.decoders.Decoder`; zero where it is not wanted."""
        seen = self._project([_packed(values, visibility) for values in features])
        places = _places([rows.sites for rows in seen], wanted)
        coarser: Rows | None = None
        for level in reversed(range(len(seen))):
            coarser = self._level(level, seen[level], coarser, *places[level])
        finest = cast(Rows, coarser)
        voxels = Rows(self.head(finest.values), finest.sites).dense()
        return pixelshuffle(voxels, self.spatial_dims, self.stride) if self.stride > 1 else voxels

    def _project(self, features: Sequence[Rows]) -> list[Rows]:
        """Normalise the encoder's maps and bring them to the decoder's width, fine ones to its finest level."""
        target = features[self.folded].sites
        places = [target] * self.folded + [rows.sites for rows in features[self.folded :]]
        projected = [
            self._at(layer, batch_norm(norm, rows.values, self.spatial_dims), rows.sites, sites)
            for rows, norm, layer, sites in zip(features, self.norms, self.projections, places, strict=True)
        ]
        finest, coarser = projected[: self.folded + 1], projected[self.folded + 1 :]
        return [Rows(reduce(torch.add, [rows.values for rows in finest]), target), *coarser]

    def _level(self, level: int, seen: Rows, coarser: Rows | None, inputs: Sites, outputs: Sites) -> Rows:
        """Add what was seen to what is coarser, and convolve."""
        values = _seen_or_token(seen, self.tokens[level], inputs)
        if coarser is not None:
            values = values + _from_coarser(coarser, inputs)
        convolved = self._at(self.convolutions[level], values, inputs, outputs)
        return Rows(F.relu(batch_norm(self.block_norms[level], convolved.values, self.spatial_dims)), outputs)

    def _at(self, layer: Any, values: Tensor, inputs: Sites, outputs: Sites) -> Rows:
        stencil = Stencil(inputs, outputs, Window.of(layer, self.spatial_dims))
        return Rows(convolve(values, layer.weight, layer.bias, 1, stencil), outputs)


def _packed(values: Tensor | Rows, visibility: Visibility | None) -> Rows:
    if isinstance(values, Rows):
        return values
    if visibility is None:
        return Rows.of(values, Sites(torch.ones(len(values), *values.shape[2:], dtype=torch.bool), values.device))
    return Rows.of(values, visibility.sites(values.shape[2:]))


def _places(seen: Sequence[Sites], wanted: Visibility | None) -> list[tuple[Sites, Sites]]:
    """For each level, fine to coarse, the positions that enter its convolution and those that leave it."""
    device, sizes = seen[0].device, [sites.spatial for sites in seen]
    needed = torch.ones_like(seen[0].mask) if wanted is None else wanted.mask(sizes[0])
    places = []
    for size in sizes:
        needed = needed if tuple(needed.shape[1:]) == size else _pool(needed, size)
        around = _dilate(needed)
        outputs = Sites(needed, device)
        places.append((outputs if bool(needed.all()) else Sites(around, device), outputs))
        needed = around
    return places


def _dilate(mask: Tensor) -> Tensor:
    pool = F.max_pool2d if mask.ndim == 3 else F.max_pool3d
    return pool(mask[:, None].float(), 3, 1, 1)[:, 0] > 0


def _pool(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    pool = F.adaptive_max_pool2d if mask.ndim == 3 else F.adaptive_max_pool3d
    return pool(mask[:, None].float(), size)[:, 0] > 0


def _seen_or_token(seen: Rows, token: Tensor, places: Sites) -> Tensor:
    """Values ``[N, width]`` at some positions: what was seen there, or the token."""
    rows = seen.sites.row_numbers.flatten().index_select(0, places.index)
    token = token.to(seen.values.dtype)
    values = torch.cat([seen.values, token.detach()]).index_select(0, rows)
    # Beside it, not gathered like the rest: the token's gradient is a sum over all places, which gathering would carry
    # from row to row.
    return torch.where((rows == len(seen.sites))[:, None], token, values)


def _from_coarser(coarse: Rows, places: Sites) -> Tensor:
    """Values ``[N, width]`` at some positions, each from the coarse position above it."""
    sample, *axes = places.coordinates()
    flat = sample
    for axis, fine, side in zip(axes, places.spatial, coarse.sites.spatial, strict=True):
        flat = flat * side + axis * side // fine
    rows = coarse.sites.row_numbers.flatten().index_select(0, flat)
    return coarse.values.index_select(0, rows)
