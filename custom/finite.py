# SPDX-License-Identifier: Apache-2.0
"""Weights that are no numbers: found before they are kept, and refused when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def first_not_finite(content: Any) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity; None if all are finite.

    A GPU is waited for once, however many tensors there are.

    Args:
        content: tensors, nested in mappings and sequences, as in a state dict or a checkpoint; what else there is in it
            is not looked at.
    """
    tensors = {name: value for name, value in _tensors(content) if value.is_floating_point() or value.is_complex()}
    if not tensors:
        return None
    finite = torch.stack([value.isfinite().all().to(_device_of(tensors)) for value in tensors.values()]).tolist()
    return next((name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite), None)


def check_finite(path: str | Path, content: Any) -> None:
    """Refuse weights that are not finite.

    Args:
        path: the file that they come from, for the message.
        content: see :func:`first_not_finite`.

    Raises:
        ValueError: if a weight is NaN or infinite; the message names the file and the weight.
    """
    name = first_not_finite(content)
    if name is not None:
        raise ValueError(
            f"{path}: its weights are not finite ({name} holds NaN or infinity), so that it computes nothing. It comes "
            "from a training that diverged: take an earlier file, or train again with a lower --learning_rate."
        )


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for index, value in enumerate(content):
            yield from _tensors(value, f"{name}.{index}" if name else str(index))


def _device_of(tensors: Mapping[str, Tensor]) -> torch.device:
    return next(iter(tensors.values())).device
