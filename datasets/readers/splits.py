# SPDX-License-Identifier: Apache-2.0
"""Splits that depend on names and a seed alone, so that they are the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

VAL_SHARE, TEST_SHARE = 0.15, 0.15


def split_by_hash(names: Iterable[str], seed: int) -> dict[str, str]:
    """Split names 70/15/15 into train, val and test, in the order of a hash of seed and name.

    Args:
        names: of scans, or of groups of scans that must not be torn apart.
        seed: of the split.

    Returns:
        The split of each name. Of three names or more every split has one at least; of two, one is test.
    """
    unique = set(names)
    order = sorted(unique, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
    val, test = (max(1, round(share * len(order))) for share in (VAL_SHARE, TEST_SHARE))
    if len(order) < 3:
        val, test = 0, len(order) - 1
    return {name: "val" if i < val else "test" if i < val + test else "train" for i, name in enumerate(order)}
