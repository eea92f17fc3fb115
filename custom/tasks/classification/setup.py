# SPDX-License-Identifier: Apache-2.0
"""What must be true before a classifier is trained, checked before any work is done."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from custom.metrics.classification import check_figure
from custom.metrics.thresholds import check_rule
from custom.tasks.classification.labels import ScanLabels, count_per_class, labels_by_split
from custom.tasks.classification.weights import class_weights
from custom.tasks.labelled import HOW_TO_SPLIT, few_labelled, warn_of_shared_groups

logger = logging.getLogger(__name__)

_HOW_TO_LABEL = "Name the column with --label_column, or sort the scans into one folder per class."


def check_classification(
    labels: ScanLabels,
    classes: Sequence[str],
    train_scans: int | None = None,
    seed: int = 0,
    key_metric: str = "macro_auroc",
    threshold_rule: str = "youden",
    weights: str | Sequence[float] | None = None,
    model: str | Path | None = None,
) -> None:
    """Refuse what cannot give a classifier, or a measured one, and say what to do.

    Args:
        labels: of the scans.
        classes: names of the classes.
        train_scans: how many labelled scans to learn from; None: all.
        seed: of their choice.
        key_metric: figure by which the best epoch is chosen.
        threshold_rule: how thresholds are chosen.
        weights: of the classes.
        model: a trained model: nothing is learnt, nothing is checked.

    Raises:
        ValueError: no or too few labels, an empty split, a class without training scans, or unknown options.
    """
    if model:
        return
    check_figure(key_metric, labels.multi_label)
    check_rule(threshold_rule)
    root = labels.datalist.root
    found = labels_by_split(labels, classes)
    if not any(found.values()):
        raise ValueError(f"{root}: no scan has a label. {_HOW_TO_LABEL}")
    _check_classes(root, labels, classes)
    for split, values in found.items():
        if not values:
            raise ValueError(
                f"{root}: no labelled scan in the split {split!r}. Val chooses the best epoch, test is used once: all "
                f"three splits are needed. {HOW_TO_SPLIT}"
            )
    _check_training(root, found["train"], classes, HOW_TO_SPLIT)
    few = few_labelled(labels.items("train", classes), train_scans, seed)
    more = "Raise --train_scans, or draw other scans with another --seed."
    _check_training(root, [item["label"] for item in few], classes, more)
    _check_validation(root, found["val"], classes)
    class_weights(few, classes, weights)
    counts = count_per_class([item["label"] for item in few], len(classes))
    words = ", ".join(f"{name} {int(count)}" for name, count in zip(classes, counts, strict=True))
    kind = "Any number of labels per scan" if labels.multi_label else "One class per scan"
    logger.info("%s; of %d training scans: %s.", kind, len(few), words)
    warn_of_shared_groups(labels.datalist)


def _check_classes(root: Path, labels: ScanLabels, classes: Sequence[str]) -> None:
    if not classes or (len(classes) < 2 and not labels.multi_label):
        raise ValueError(
            f"{root}: all labels are {list(classes)}, and one class cannot be told from another. {_HOW_TO_LABEL}"
        )
    joined = [name for name in classes if "|" in name]
    if joined and labels.separator is None:
        logger.warning("Classes such as %s: --label_separator '|' would read several labels per scan.", joined[0])


def _check_training(root: Path, labels: Sequence[Any], classes: Sequence[str], remedy: str) -> None:
    counts = count_per_class(labels, len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if missing:
        raise ValueError(f"{root}: the split 'train' has no scan of {missing} ({len(labels)} scans). {remedy}")
    always = [name for name, count in zip(classes, counts, strict=True) if count == len(labels)]
    if always:
        raise ValueError(
            f"{root}: all {len(labels)} scans of the split 'train' have {always}: nothing to learn. {remedy}"
        )


def _check_validation(root: Path, labels: Sequence[Any], classes: Sequence[str]) -> None:
    counts = count_per_class(labels, len(classes))
    useless = [name for name, count in zip(classes, counts, strict=True) if count in (0, len(labels))]
    if len(useless) == len(classes):
        raise ValueError(
            f"{root}: the split 'val' has one class, or every label in all scans or in none: no choice is possible. "
            f"{HOW_TO_SPLIT}"
        )
    if useless and np.ndim(labels) == 2:
        logger.warning("In the split 'val' all scans or none have %s: no choice heeds these labels.", useless)
