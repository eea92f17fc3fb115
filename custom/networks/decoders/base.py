# SPDX-License-Identifier: Apache-2.0
"""Protocol of the decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from custom.networks.packed.rows import Rows
from custom.networks.visibility import Visibility


def mask_token(*shape: int) -> nn.Parameter:
    """A token as SparK starts it: a normal of 0.02, cut off at 0.02, which leaves a standard deviation of 0.0108."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02, a=-0.02, b=0.02))


class Decoder(Protocol):
    """From the visible cells' features to the image."""

    def __call__(
        self, features: Sequence[Tensor | Rows], visibility: Visibility | None, wanted: Visibility | None = None
    ) -> Tensor:
        """Return the reconstruction ``[B, out_channels, *image]``.

        Args:
            features: the encoder's maps, fine to coarse: ``[B, channels, *spatial]``, or packed.
            visibility: what the encoder saw; None: everything.
            wanted: cells whose reconstruction is wanted (True); elsewhere a decoder may leave zeros. None: everywhere.
        """
