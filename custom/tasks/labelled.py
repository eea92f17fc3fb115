# SPDX-License-Identifier: Apache-2.0
"""Labelled scans of a data set: few of them on request, and what must be true of their splits."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Datalist

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
HOW_TO_SPLIT = "Set the column `split` of manifest.csv to train, val or test, or use folders of these names."


def few_labelled(items: Sequence[Mapping[str, Any]], count: int | None, seed: int = 0) -> list[dict[str, Any]]:
    """Return that many of the items, as if no more had been labelled: the first of an order that the seed decides.

    A smaller count gives a subset of a larger one's.

    Args:
        items: labelled items of the training split.
        count: how many; None: all.
        seed: of the order.

    Raises:
        ValueError: if count is not between 1 and the number of items.
    """
    if count is None:
        return [dict(item) for item in items]
    if not 1 <= count <= len(items):
        raise ValueError(f"train_scans must be between 1 and {len(items)}, the labelled training scans; got {count}.")
    ordered = sorted(items, key=lambda item: str(item["scan_id"]))
    random.Random(seed).shuffle(ordered)
    return [dict(item) for item in ordered[:count]]


def scan_groups(datalist: Datalist) -> dict[str, str]:
    """Group (patient) of each scan that has one, by scan id."""
    return {item["scan_id"]: str(item["group"]) for item in datalist.items if item.get("group") not in (None, "")}


def groups_of(cases: Sequence[Any], groups: Mapping[str, Any] | None) -> list[Any] | None:
    """Return the groups of cases; None if one of them has none, so that a bootstrap must draw scans.

    Args:
        cases: with a ``scan_id`` each.
        groups: of :func:`scan_groups`.
    """
    known = groups or {}
    return [known[case.scan_id] for case in cases] if all(case.scan_id in known for case in cases) else None


def warn_of_shared_groups(datalist: Datalist) -> None:
    """Warn if a group (patient) occurs in more than one split: figures would be too good."""
    groups = {split: {item.get("group") for item in datalist.split(split)} - {None, ""} for split in SPLITS}
    shared = (groups["train"] & groups["val"]) | ((groups["train"] | groups["val"]) & groups["test"])
    if shared:
        logger.warning(
            "%d groups (patients) occur in more than one split, e.g. %s: the measured figures will be too good.",
            len(shared),
            sorted(map(str, shared))[0],
        )
