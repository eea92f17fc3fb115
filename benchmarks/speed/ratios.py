# SPDX-License-Identifier: Apache-2.0
"""From single measurements to medians, ratios within a round, physical limits, and bars that are met or not."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.speed.cases import Bar, Comparison

Row = Mapping[str, Any]
SETTING = ("comparison", "device", "threads", "image_size", "batch", "masked")


class Spread(NamedTuple):
    """Median, smallest and largest of some values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize at least one value."""
        return cls(statistics.median(values), min(values), max(values))


class Verdict(NamedTuple):
    """A bar and what was measured.

    - ``setting``: values of ``SETTING``;
    - ``wanted``: the number to reach;
    - ``ratio``: None where nothing was measured;
    - ``block``, ``submanifold``: physical limits of the multiply-adds, see :func:`limit`.
    """

    bar: Bar
    setting: tuple[Any, ...]
    wanted: float
    ratio: Spread | None
    block: float | None
    submanifold: float | None

    @property
    def word(self) -> str:
        """``met``, ``not met`` or ``not measured``."""
        if self.ratio is None:
            return "not measured"
        return "met" if self.bar.is_met(self.ratio.median, self.setting[-1]) else "not met"


def by_setting(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Group rows by what was measured, in the order in which they come."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in SETTING), []).append(row)
    return groups


def spread(rows: Iterable[Row], contender: str, figure: str) -> Spread | None:
    """Summarize a contender's figure over the rounds of one setting; None where it was not measured."""
    values = list(_by_round(rows, contender, figure).values())
    return Spread.of(values) if values else None


def ratio(rows: Sequence[Row], ours: str, against: str, figure: str) -> Spread | None:
    """Summarize the ratios within the rounds of one setting; None where there is no round with both."""
    above, below = _by_round(rows, ours, figure), _by_round(rows, against, figure)
    values = [above[turn] / below[turn] for turn in above if below.get(turn)]
    return Spread.of(values) if values else None


def counted(rows: Iterable[Row], contender: str, figure: str) -> float | None:
    """A figure that is the same in all rounds and counted in one of them."""
    return next(iter(_by_round(rows, contender, figure).values()), None)


def limit(rows: Sequence[Row], ours: str, against: str, kind: str) -> float | None:
    """The share of the peer's multiply-adds that is left if our encoder is executed exactly and nothing is wasted.

    Args:
        rows: of one setting.
        ours: contender whose encoder has a mask; what is not encoder in its step is counted as it is executed.
        against: contender that is compared with.
        kind: ``block`` or ``submanifold``, see :class:`benchmarks.speed.need.Need`.
    """
    step, encoder, needed = (counted(rows, ours, figure) for figure in ("multiply_adds", "encoder_multiply_adds", kind))
    whole = counted(rows, against, "multiply_adds")
    if step is None or encoder is None or needed is None or not whole:
        return None
    return (step - encoder + needed) / whole


def verdicts(comparisons: Iterable[Comparison], rows: Iterable[Row], threads: int) -> Iterator[Verdict]:
    """Hold every bar against the rows of the CPU, setting by setting."""
    groups = by_setting(rows)
    for comparison in comparisons:
        for bar in comparison.bars:
            for setting in comparison.settings(threads):
                wanted = bar.limit(setting.masked)
                if wanted is not None:
                    size = "x".join(map(str, setting.image_size))
                    key = (comparison.name, "cpu", setting.threads, size, setting.batch, setting.masked)
                    group = groups.get(key, [])
                    found = ratio(group, bar.ours, bar.against, bar.figure)
                    limits = (limit(group, bar.ours, bar.against, kind) for kind in ("block", "submanifold"))
                    yield Verdict(bar, key, wanted, found, *limits)


def _by_round(rows: Iterable[Row], contender: str, figure: str) -> dict[int, float]:
    return {
        row["round"]: row[figure]
        for row in rows
        if row["contender"] == contender and isinstance(row.get(figure), int | float)
    }
