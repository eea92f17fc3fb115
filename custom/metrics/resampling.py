# SPDX-License-Identifier: Apache-2.0
"""Percentile bootstrap (Efron, 1979) of figures that are computed from per-scan parts.

A draw is kept as how often it holds each scan: what was matched or counted once per scan is then only weighted.
One scan, or scans of one patient, cannot be drawn otherwise than they are: there are no draws, and no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def drawn_weights(
    count: int, groups: Sequence[Any] | None = None, resamples: int = 1000, seed: int = 0
) -> NDArray[np.int64]:
    """How often each scan is in each bootstrap draw, ``[resamples, count]``; of a single patient or scan ``[0, ...]``.

    Args:
        count: number of scans, at least 1.
        groups: patient of each scan; whole patients are then drawn. None: scans are drawn.
        resamples: number of draws, at least 1.
        seed: of the draws.

    Raises:
        ValueError: if the numbers do not fit.
    """
    if count < 1 or resamples < 1:
        raise ValueError(f"Need at least one scan and one draw, received {count} and {resamples}.")
    names = np.arange(count) if groups is None else np.asarray([str(group) for group in groups])
    if len(names) != count:
        raise ValueError(f"{len(names)} groups were given for {count} scans.")
    _, group_of = np.unique(names, return_inverse=True)
    number = int(group_of.max()) + 1
    if number < 2:
        return np.zeros((0, count), dtype=np.int64)
    chosen = np.random.default_rng(seed).integers(number, size=(resamples, number))
    times = np.zeros((resamples, number), dtype=np.int64)
    np.add.at(times, (np.arange(resamples)[:, None], chosen), 1)
    return times[:, group_of]


def interval(values: ArrayLike, level: float = 0.95) -> list[float] | None:
    """Percentile interval ``[lower, upper]`` of the draws' figures; NaN are left out, None if nothing is left.

    Raises:
        ValueError: if the level does not lie in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), received {level}.")
    drawn = np.asarray(values, dtype=np.float64)
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return None
    return [float(bound) for bound in np.quantile(known, [(1 - level) / 2, (1 + level) / 2])]


def bootstrap(
    figure: Callable[[NDArray[np.int64]], float | None],
    count: int,
    groups: Sequence[Any] | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[float] | None:
    """Interval of a figure that is a function of how often each scan counts, ``[count]`` (None where undefined)."""
    drawn = (figure(weights) for weights in drawn_weights(count, groups, resamples, seed))
    return interval([float("nan") if value is None else value for value in drawn], level)
