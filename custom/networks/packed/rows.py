# SPDX-License-Identifier: Apache-2.0
"""Packed maps: one row of channels for each position that is computed."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from custom.networks.packed.sites import Sites


@dataclass(frozen=True)
class Rows:
    """A feature map of which only some positions exist.

    - ``values``: ``[N, C]``;
    - ``sites``: where they are.
    """

    values: Tensor
    sites: Sites

    @property
    def shape(self) -> torch.Size:
        """Shape of the dense map that this stands for, ``[B, C, *spatial]``."""
        return torch.Size((self.sites.batch, self.values.shape[1], *self.sites.spatial))

    @property
    def ndim(self) -> int:
        """Number of axes of the dense map."""
        return len(self.shape)

    def dense(self) -> Tensor:
        """Return the map ``[B, C, *spatial]`` (channels last in memory), zero where nothing was computed."""
        batch, channels, *spatial = self.shape
        flat = self.values.new_zeros(batch * prod(spatial), channels).index_copy(0, self.sites.index, self.values)
        return flat.reshape(batch, *spatial, channels).movedim(-1, 1)

    @classmethod
    def of(cls, values: Tensor, sites: Sites) -> Rows:
        """Take the rows of a dense map ``[B, C, *spatial]``."""
        return cls(values.movedim(1, -1).flatten(0, -2).index_select(0, sites.index), sites)


@dataclass(frozen=True)
class MaskedImage:
    """The image that enters a network: dense, because the first layer reads it better so.

    - ``dense``: ``[B, C, *spatial]``, zero where hidden;
    - ``sites``: the visible voxels.
    """

    dense: Tensor
    sites: Sites

    @property
    def rows(self) -> Rows:
        """The image as a packed map."""
        return Rows.of(self.dense, self.sites)
