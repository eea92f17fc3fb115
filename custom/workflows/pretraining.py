# SPDX-License-Identifier: Apache-2.0
"""The glue between MONAI's trainers and masked image modelling."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import PrepareBatch
from torch import Tensor

from custom.keys import MIMKeys
from custom.losses import MIMTarget
from custom.masking import MaskStrategy
from custom.workflows.prompts import named_prompts

logger = logging.getLogger(__name__)


class MIMPrepareBatch(PrepareBatch):
    """Turn a batch of scans with masks into the network's input, its mask arguments and the loss's target.

    The network is handed its masks on the host: how many cells are visible decides the size of its tensors, and a GPU
    that had to be asked for that number would bring the step to a halt. Wanted are the hidden cells; if the scans come
    with their content (empty cells are left out), those with content.
    """

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, MIMTarget, tuple, dict[str, Tensor]]:
        """Return image ``[B, C, *spatial]``, target, nothing, and ``visible`` and ``wanted`` ``[B, 1, *grid]``."""
        image = _plain(batchdata[MIMKeys.IMAGE]).to(device, non_blocking=non_blocking, **kwargs)
        visible = _plain(batchdata[MIMKeys.VISIBLE]).cpu()
        wanted = ~visible
        if MIMKeys.CONTENT in batchdata:
            wanted = wanted & _plain(batchdata[MIMKeys.CONTENT]).cpu()
        masks = [mask.to(device, non_blocking=non_blocking) for mask in (visible, wanted)]
        return image, MIMTarget(image, *masks), (), {"visible": visible, "wanted": wanted}


def choose_prompts(
    prompt: str | Sequence[str] | None, items: Sequence[Mapping[str, Any]], strategy: MaskStrategy
) -> list[str]:
    """Return the prompts of a run: the user's, or those that come with the scans (phantoms name what they show).

    Args:
        prompt: see :func:`custom.workflows.prompts.named_prompts`.
        items: datalist entries, possibly with ``prompt``.
        strategy: the mask strategy.

    Returns:
        Phrases, without repetition; empty if nothing needs localizing.

    Raises:
        ValueError: if the strategy needs a region and nobody named one.
    """
    prompts = named_prompts(prompt, items)
    if not prompts and strategy.needs_region:
        raise ValueError(
            f'{type(strategy).__name__} hides what a prompt names: give --prompt "brain tumor" (one phrase or a list), '
            "or choose --masking random."
        )
    return prompts


def _plain(value: Tensor) -> Tensor:
    return value.as_tensor() if isinstance(value, MetaTensor) else value
