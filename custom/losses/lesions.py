# SPDX-License-Identifier: Apache-2.0
"""The loss of networks that learn to find lesions from scans of which most were never looked at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class LesionTarget(NamedTuple):
    """What the network should find.

    - ``lesion``: ``[B, 1, *spatial]`` of 0 and 1.
    - ``annotated``: ``[B]``, 1 where everything outside is known to be no lesion, 0 where nobody looked.
    """

    lesion: Tensor
    annotated: Tensor


class LesionLoss(nn.Module):
    """Cross-entropy, with lesion and rest weighed apart, and soft Dice, on scans that may hold unmarked lesions.

    Real scans hold real lesions, which a scan's synthetic mask calls healthy. On scans without annotation the share
    ``trim`` of the voxels that the network takes most surely for lesions, and the mask does not, is left out.

    Args:
        trim: that share, in [0, 1).
        inside: weight of the mean cross-entropy inside lesions; ``outside``: likewise; ``dice``: of the Dice loss.
    """

    def __init__(self, trim: float = 0.03, inside: float = 0.3, outside: float = 2.0, dice: float = 0.5) -> None:
        super().__init__()
        if not 0 <= trim < 1:
            raise ValueError(f"trim is a share in [0, 1), received {trim}.")
        self.trim, self.inside, self.outside, self.dice = trim, inside, outside, dice

    def forward(self, logits: Tensor, target: LesionTarget) -> Tensor:
        """Loss of logits ``[B, 1, *spatial]``."""
        outputs, lesion = logits.flatten(1), target.lesion.flatten(1)
        counted = self._counted(outputs.detach(), lesion, target.annotated)
        entropy = functional.binary_cross_entropy_with_logits(outputs, lesion, reduction="none")
        healthy = (1 - lesion) * counted
        missed = (entropy * lesion).sum() / (lesion.sum() + 1)
        invented = (entropy * healthy).sum() / (healthy.sum() + 1)
        probability = torch.sigmoid(outputs) * counted
        overlap = (2 * (probability * lesion).sum(1) + 1) / (probability.sum(1) + lesion.sum(1) + 1)
        return self.inside * missed + self.outside * invented + self.dice * (1 - overlap.mean())

    def _counted(self, outputs: Tensor, lesion: Tensor, annotated: Tensor) -> Tensor:
        """1 for the voxels that count, ``[B, voxels]``."""
        left_out = int(self.trim * outputs.shape[1])
        if not left_out:
            return torch.ones_like(outputs)
        healthy = outputs.masked_fill(lesion > 0, -torch.inf)
        least = healthy.topk(left_out, dim=1).values[:, -1:]
        above, tied = healthy > least, healthy == least
        # Of voxels with equal logits, so many are left out as are still to be: the first ones, on any processor.
        tied &= tied.cumsum(1) <= left_out - above.sum(1, keepdim=True)
        return (~(above | tied) | (lesion > 0) | (annotated[:, None] > 0)).to(outputs.dtype)
