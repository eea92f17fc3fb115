# SPDX-License-Identifier: Apache-2.0
"""What the runs of a study found, and how the arms differ."""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from custom.handlers import read_history
from custom.metrics.segmentation import left_out
from custom.workflows.study.intervals import Estimate, estimate, paired_difference
from custom.workflows.study.plan import SCRATCH, Condition, Pair, Step
from custom.workflows.study.running import RECORD, read_json

SPLITS = ("val", "test")
# The figure that is looked at where none is named: the first that the task reports.
USUAL_FIGURES: Mapping[str, tuple[str, ...]] = {
    "classification": ("macro_auroc",),
    "detection": ("ap",),
    "instances": ("masks.ap",),
    "segmentation": ("dice",),
}
_MASKING = ("hidden_ratio", "region_share", "fallback_share")


@dataclass(frozen=True)
class Outcome:
    """A run of a task.

    - ``step``: the run; ``problem``: why it has no figures, None if it has.
    - ``figures``: split -> figure of merit; ``left_out``: split -> what that mean leaves out, and how often.
    - ``masking``: realised ``hidden_ratio``, ``region_share`` and ``fallback_share`` of its pretraining.
    """

    step: Step
    problem: str | None
    figures: Mapping[str, float]
    masking: Mapping[str, float]
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def condition(self) -> Condition:
        """What was compared."""
        assert self.step.condition is not None
        return self.step.condition

    @property
    def pair(self) -> Pair:
        """The seeds."""
        assert self.step.pair is not None
        return self.step.pair

    def as_row(self) -> dict[str, Any]:
        """Return the row of ``study.csv``."""
        pretrained = self.condition.arm != SCRATCH
        return {
            "learning": self.step.kind,
            "arm": self.condition.arm,
            "ratio": self.condition.ratio,
            "pretrain_seed": self.pair.pretrain_seed if pretrained else None,
            "seed": self.pair.seed,
            **{split: self.figures.get(split) for split in SPLITS},
            **{f"{split}_left_out": sum(self.left_out.get(split, {}).values()) for split in SPLITS},
            **{name: self.masking.get(name) for name in _MASKING},
            "seconds": read_json(self.step.folder / RECORD).get("seconds"),
            "folder": str(self.step.folder),
            "problem": self.problem,
        }


def read_outcome(step: Step, problem: str | None, figure: str | None) -> Outcome:
    """Read what a run of a task found.

    Args:
        step: the run.
        problem: why it has no figures.
        figure: place of the figure of merit in the blocks of ``metrics.json``; None: the task's usual one.

    Raises:
        ValueError: if there is no such figure.
    """
    masking = realised_masking(step.after) if step.after else {}
    if problem is not None:
        return Outcome(step, problem, {}, masking)
    metrics = read_json(step.folder / "metrics.json")
    where = figure_of(metrics, figure)
    found = {split: look_up(metrics[split], where) for split in SPLITS}
    known = {split: value for split, value in found.items() if value is not None}
    undefined = [split for split in SPLITS if split not in known]
    problem = f"{where} is undefined on {' and '.join(undefined)}" if undefined else None
    return Outcome(step, problem, known, masking, {split: _left_out(metrics[split], where) for split in SPLITS})


def figure_of(metrics: Mapping[str, Any], figure: str | None) -> str:
    """Return the place of the figure of merit: the one given, or the usual one of the task.

    Raises:
        ValueError: if it has none.
    """
    if figure is not None:
        return figure
    usual = USUAL_FIGURES.get(metrics["task"], ())
    for place in usual:
        if place.split(".")[0] in metrics["val"]:
            return place
    raise ValueError(
        f"No usual figure of {metrics['task']} is among {', '.join(metrics['val'])}: name one with --figure_of_merit."
    )


def look_up(report: Mapping[str, Any], place: str) -> float | None:
    """Return a figure by its place, "froc.mean_sensitivity"; None where it is undefined.

    Raises:
        ValueError: if there is no such figure.
    """
    value: Any = report
    for key in place.split("."):
        if not isinstance(value, Mapping) or key not in value:
            names = ", ".join(report)
            raise ValueError(f"--figure_of_merit {place}: metrics.json has no such figure; val and test hold {names}.")
        value = value[key]
    if value is None:
        return None
    if isinstance(value, bool | str | Mapping | list):
        raise ValueError(f"--figure_of_merit {place} is no single number; name one within it.")
    return float(value) if math.isfinite(value) else None


def _left_out(report: Mapping[str, Any], place: str) -> dict[str, int]:
    *keys, figure = place.split(".")
    return left_out(functools.reduce(operator.getitem, keys, report), figure)


def realised_masking(pretraining: Step) -> dict[str, float]:
    """Mean over the epochs of what the masks of a pretraining hid; empty if it has not begun."""
    rows = read_history(pretraining.folder / "history.csv")
    found = {name: [float(row[name]) for row in rows if row.get(name)] for name in _MASKING}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


class Comparison:
    """The outcomes of one way of learning, arm by arm.

    Args:
        outcomes: of this way of learning.
        level: of the intervals.
        higher_is_better: whether more of the figure is better.
    """

    def __init__(self, outcomes: Sequence[Outcome], level: float, higher_is_better: bool = True) -> None:
        self.outcomes, self.level, self.higher_is_better = list(outcomes), level, higher_is_better
        self.units = {each.pair.index: each.pair.unit for each in outcomes}
        self.conditions = list(dict.fromkeys(each.condition for each in outcomes))

    def of(self, condition: Condition) -> list[Outcome]:
        """Outcomes of a condition."""
        return [each for each in self.outcomes if each.condition == condition]

    def figures(self, condition: Condition, split: str) -> dict[int, float]:
        """Figures of a condition, by the index of the pair of seeds."""
        return {each.pair.index: each.figures[split] for each in self.of(condition) if split in each.figures}

    def estimate(self, condition: Condition, split: str) -> Estimate | None:
        """Mean of a condition; None if it has no run."""
        found = self.figures(condition, split)
        return estimate(list(found.values()), [self.units[index] for index in found], self.level)

    def difference(self, first: Condition, second: Condition, split: str) -> Estimate | None:
        """What the first condition has more than the second, seed by seed; None if they share no seed."""
        return paired_difference(self.figures(first, split), self.figures(second, split), self.units, self.level)

    def hidden(self, condition: Condition) -> float | None:
        """Share of the cells that was hidden, mean of the runs; None without pretraining."""
        found = [share for each in self.of(condition) if (share := each.masking.get("hidden_ratio")) is not None]
        return sum(found) / len(found) if found else None

    def left_out(self, condition: Condition, split: str) -> dict[str, int]:
        """What the figures of a condition leave out, and how often in all its runs."""
        return dict(sum((Counter(each.left_out.get(split, {})) for each in self.of(condition)), Counter()))

    def best(self, allowed: Callable[[Condition], bool]) -> Condition | None:
        """The condition with the best mean on val, of those allowed that have every seed; the first of equals."""
        complete = [
            each
            for each in self.conditions
            if allowed(each) and len(self.figures(each, "val")) == len(self.units) == len(self.figures(each, "test"))
        ]
        sign = 1 if self.higher_is_better else -1
        return max(complete, key=lambda each: sign * self._mean(each), default=None)

    def _mean(self, condition: Condition) -> float:
        found = self.estimate(condition, "val")
        assert found is not None
        return found.mean
