# SPDX-License-Identifier: Apache-2.0
"""Run a function over a loader and keep what it returns for every scan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm


class Collected(NamedTuple):
    """Results for N scans: ``values`` float32 ``[N, ...]``, ``labels`` ``[N]`` or ``[N, K]``, and the scans' names."""

    values: np.ndarray
    labels: np.ndarray
    scan_ids: list[str]


@torch.no_grad()
def collect(
    function: Callable[[Tensor], Tensor], loader: Iterable, device: torch.device | str, progress: str = ""
) -> Collected:
    """Apply a function to every batch of images, without gradients and in full precision, whatever training used.

    Args:
        function: images ``[B, C, *spatial]`` -> ``[B, ...]``.
        loader: batches with ``image``, ``label`` and ``scan_id``.
        device: where the function runs.
        progress: words beside the progress bar.

    Raises:
        FloatingPointError: if a result is not finite; the message names the scans.
    """
    values, labels, names = [], [], []
    for batch in tqdm(loader, desc=progress, leave=False):
        with torch.autocast(torch.device(device).type, enabled=False):
            values.append(function(batch["image"].to(device)).float().cpu())
        labels.append(torch.as_tensor(batch["label"]))
        names.extend(batch["scan_id"])
    results = torch.cat(values)
    if bad := [name for name, value in zip(names, results, strict=True) if not value.isfinite().all()]:
        raise FloatingPointError(f"The network answers {len(bad)} scans with NaN or infinity: {', '.join(bad[:16])}.")
    return Collected(results.numpy(), torch.cat(labels).numpy(), names)
