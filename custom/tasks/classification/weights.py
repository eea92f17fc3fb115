# SPDX-License-Identifier: Apache-2.0
"""What a scan of each class counts in training, and the loss that counts so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import yaml
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from custom.tasks.classification.labels import count_per_class

BALANCED = "balanced"


def class_weights(
    items: Sequence[Mapping[str, Any]], classes: Sequence[str], weights: str | Sequence[float] | None = None
) -> list[float] | None:
    """Return the weight of each class.

    With one class per scan, the weight of its scans; balanced: N / (K * scans of the class), as in scikit-learn. With
    several labels per scan, the weight of the scans that have the label, against 1 of those that do not; balanced:
    scans without it / scans with it.

    Args:
        items: of the training scans, with ``label``.
        classes: names of the K classes.
        weights: None, "balanced", or K positive numbers.

    Raises:
        ValueError: if they are none of these, or a class has no scan to be weighted.
    """
    read = yaml.safe_load(weights) if isinstance(weights, str) else weights
    if read is None:
        return None
    if read == BALANCED:
        return _balanced([item["label"] for item in items], classes)
    if not isinstance(read, Sequence) or isinstance(read, str) or not all(_is_positive(value) for value in read):
        raise ValueError(f"class_weights must be null, balanced or a list of positive numbers; received {weights!r}.")
    if len(read) != len(classes):
        raise ValueError(
            f"class_weights has {len(read)} numbers for {len(classes)} classes; give one for each of "
            f"{', '.join(classes)}, in this order."
        )
    return [float(value) for value in read]


def classification_loss(multi_label: bool, weights: Sequence[float] | None = None) -> nn.Module:
    """Return the loss of logits ``[B, K]``: cross-entropy, with several labels per scan the binary one of each class.

    Args:
        multi_label: targets are float ``[B, K]``, otherwise integers ``[B]``.
        weights: of :func:`class_weights`.
    """
    values = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    return nn.BCEWithLogitsLoss(pos_weight=values) if multi_label else nn.CrossEntropyLoss(weight=values)


def _balanced(labels: Sequence[Any], classes: Sequence[str]) -> list[float]:
    counts = count_per_class(labels, len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if absent:
        raise ValueError(f"class_weights balanced: no training scan has {absent}.")
    if np.ndim(labels) == 2:
        return [float((len(labels) - count) / count) for count in counts]
    return compute_class_weight(BALANCED, classes=np.arange(len(classes)), y=np.asarray(labels)).tolist()


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
