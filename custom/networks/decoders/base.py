# SPDX-License-Identifier: Apache-2.0
"""Protocol of the decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from custom.networks.packed.rows import Rows
from custom.networks.visibility import Visibility


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
