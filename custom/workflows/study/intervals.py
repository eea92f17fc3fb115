# SPDX-License-Identifier: Apache-2.0
"""Means over seeds, paired differences, and how far either can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    - ``mean``: of the units' means.
    - ``spread``: standard deviation (n - 1) of the single runs; None for one run.
    - ``low``, ``high``: Student's t interval of the mean; None for one unit.
    - ``runs``: how many runs; ``units``: how many of them are independent of each other.
    """

    mean: float
    spread: float | None
    low: float | None
    high: float | None
    runs: int
    units: int


def estimate(values: Sequence[float], units: Sequence[Hashable], level: float = 0.95) -> Estimate | None:
    """Estimate a mean from runs, some of which may belong together.

    Runs of one unit (fine-tunings from the same encoder) are averaged first; the interval is
    ``mean ± t(n - 1) * s / sqrt(n)`` over the ``n`` units' means (Student, Biometrika 6, 1908).

    Args:
        values: a figure of each run.
        units: what each run belongs to; runs of different units are independent.
        level: of the interval, in (0, 1).

    Returns:
        The estimate; None if there are no runs.

    Raises:
        ValueError: if the level does not lie in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), received {level}.")
    if not values:
        return None
    members: dict[Hashable, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        members.setdefault(unit, []).append(value)
    means = [statistics.fmean(each) for each in members.values()]
    mean, count = statistics.fmean(means), len(means)
    spread = statistics.stdev(values) if len(values) > 1 else None
    if count < 2:
        return Estimate(mean, spread, None, None, len(values), count)
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * statistics.stdev(means) / math.sqrt(count)
    return Estimate(mean, spread, mean - half, mean + half, len(values), count)


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], units: Mapping[int, Hashable], level: float = 0.95
) -> Estimate | None:
    """Estimate what the first has more than the second, seed by seed.

    Args:
        first: pair -> figure; pairs that only one of the two has do not count.
        second: likewise.
        units: pair -> what it belongs to, see :func:`estimate`.
        level: of the interval.
    """
    shared = [pair for pair in first if pair in second]
    return estimate([first[pair] - second[pair] for pair in shared], [units[pair] for pair in shared], level)
