# SPDX-License-Identifier: Apache-2.0
"""Several maps of the same thing made into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FUSIONS = ("mean", "max", "geometric", "product", "vote")
VOTE_FROM = 0.5


def fuse(maps: Tensor, how: str = "mean", weights: Sequence[float] | None = None) -> Tensor:
    """Combine maps; with weights ``w`` that sum to 1 (equal ones unless given), for ``M`` members ``p``:

    - ``mean``: ``sum(w p)``. When members err independently: what only one of them sees is damped.
    - ``max``: the largest. When a structure may show in one member only (a thin vessel, in one of three axes) and a
      miss is worse than a false alarm.
    - ``geometric``: ``prod(p ** w)``. All must agree, a zero of one is a zero; the scale stays, however many members.
    - ``product``: ``prod(p ** (M w))``, the plain product for equal weights. As geometric, and doubts add up.
    - ``vote``: ``sum(w [p >= 0.5])``. When members are calibrated differently; cut it at 0.5 for the majority.

    Args:
        maps: ``[M, ...]`` in [0, 1].
        how: one of the above.
        weights: ``M`` numbers of at least 0, scaled to sum 1; not for ``max``.

    Returns:
        ``[...]`` in [0, 1], float32.

    Raises:
        ValueError: if there is no map, ``how`` is none of the above, or the weights do not fit.
    """
    check_fusion(how, weights, len(maps))
    fused = unfused(maps.shape[1:], how).to(maps.device)
    for share, each in zip(_shares(weights, len(maps)), maps, strict=True):
        fuse_into(fused, each.float(), how, share, len(maps))
    return fused.clamp_(0, 1)


def unfused(shape: Sequence[int], how: str) -> Tensor:
    """Return what members are fused into: maps that leave the first one as it is."""
    return torch.ones(tuple(shape)) if how in ("geometric", "product") else torch.zeros(tuple(shape))


def fuse_into(fused: Tensor, values: Tensor, how: str, share: float, members: int) -> None:
    """Fuse one more member into maps, or a part of them, in place; :func:`fuse` says how.

    Args:
        fused: what the members before were fused into; see :func:`unfused`.
        values: of this member, in [0, 1], of the same shape.
        how: see :func:`fuse`.
        share: this member's weight; those of all members sum to 1.
        members: how many there are.
    """
    if how == "max":
        torch.maximum(fused, values, out=fused)
    elif how == "mean":
        fused.add_(share * values)
    elif how == "vote":
        fused.add_(share * (values >= VOTE_FROM).float())
    else:
        fused.mul_(values ** (share if how == "geometric" else share * members))


def check_fusion(how: str, weights: Sequence[float] | None, members: int) -> None:
    """Raise ValueError where :func:`fuse` would, before maps are there."""
    if how not in FUSIONS:
        raise ValueError(f"Maps are combined by one of {', '.join(FUSIONS)}, received {how!r}.")
    if not members:
        raise ValueError("Nothing to combine: give at least one member.")
    if weights is None:
        return
    if how == "max":
        raise ValueError(
            "The maximum knows no weights: leave them out, or combine by mean, geometric, product or vote."
        )
    if len(weights) != members or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights must be {members} numbers of at least 0, not all 0, received {list(weights)}.")


def _shares(weights: Sequence[float] | None, members: int) -> list[float]:
    return [1 / members] * members if weights is None else [each / sum(weights) for each in weights]
