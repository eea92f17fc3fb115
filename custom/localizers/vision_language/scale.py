# SPDX-License-Identifier: Apache-2.0
"""From saliency to probability: published maps are stretched to [0, 1] whatever there is to see; these are not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = ("evidence", "minmax")


def log_odds(pictures: Tensor, blank: Tensor, texts: Tensor, null: Tensor, logit_scale: float) -> Tensor:
    """By how much a picture speaks for each text, in the model's own unit.

    A contrastive model is trained so that ``logit_scale * cosine`` is the logarithm of how much likelier picture and
    text are together than apart, up to a constant (van den Oord et al., 2018, section 2.3). The constant, and what
    depends on the text alone or the picture alone, cancels in

    ``L = s(picture, text) - s(blank, text) - s(picture, null) + s(blank, null)``, ``s = logit_scale * cosine``:

    by how much the picture, rather than a blank one, raises the log-odds of the text against a null text.

    Args:
        pictures: features ``[N, D]``.
        blank: of the blank picture, ``[1, D]``.
        texts: ``[P, D]``.
        null: of the null text, ``[1, D]``.
        logit_scale: the model's.

    Returns:
        ``[N, P]``.
    """
    pictures, blank, texts, null = (F.normalize(each.float(), dim=-1) for each in (pictures, blank, texts, null))
    return logit_scale * (pictures - blank) @ (texts - null).T


def evidence(pictures: Tensor, blank: Tensor, texts: Tensor, null: Tensor, logit_scale: float) -> Tensor:
    """How much a picture speaks for each text, in [0, 1).

    ``max(0, tanh(L / 2))``, which is ``2 p - 1`` for the probability ``p`` that belongs to the :func:`log_odds` ``L``:
    0 for a blank picture, for the null text, and for every text that the picture speaks against.

    For arguments and result see :func:`log_odds`.
    """
    return (log_odds(pictures, blank, texts, null, logit_scale) / 2).tanh().clamp(min=0)


def stretch(maps: Tensor, floor: float = 0.0) -> Tensor:
    """Move the lowest value of each map to 0, and the highest to 1 if they lie at least ``floor`` apart.

    Args:
        maps: ``[..., H, W]``.
        floor: differences below it stay proportionally small; 0: min-max, as published (a constant map becomes 0).

    Returns:
        ``[..., H, W]`` in [0, 1].
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    width = maps.amax(dim=(-2, -1), keepdim=True) - low
    limit = width.clamp(min=floor)
    return torch.where(limit > 0, (maps - low) / limit.clamp(min=torch.finfo(maps.dtype).tiny), 0)
