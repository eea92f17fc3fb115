# SPDX-License-Identifier: Apache-2.0
"""A study's answer in plain words, which say no more than the intervals do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from custom.workflows.study.intervals import Estimate
from custom.workflows.study.plan import SCRATCH, Condition
from custom.workflows.study.results import Comparison

BETTER, WORSE, EQUAL, OPEN, UNKNOWN = "better", "worse", "equal", "not told apart", "unknown"


@dataclass(frozen=True)
class Roles:
    """Which arms play which part.

    - ``guided``: arms that mask as the prompt says; ``control``: the arm that they are compared with.
    - ``one_encoder``: whether all runs of an arm start from one encoder, so that no interval knows another's luck.
    """

    guided: Collection[str]
    control: str
    one_encoder: bool = False

    def is_guided(self, condition: Condition) -> bool:
        """Whether the prompt decided what was hidden."""
        return condition.arm in self.guided

    def is_unguided(self, condition: Condition) -> bool:
        """Whether it was pretrained without the prompt."""
        return condition.arm not in self.guided and condition.arm != SCRATCH

    def control_of(self, condition: Condition) -> Condition:
        """What a condition is compared with: the control at the same ratio; the control itself with no pretraining."""
        return Condition(SCRATCH) if condition.arm == self.control else Condition(self.control, condition.ratio)


def judge(difference: Estimate | None, higher_is_better: bool = True) -> str:
    """Say what an interval of a difference says: one of :data:`BETTER`, ..., :data:`UNKNOWN`."""
    if difference is None or difference.low is None or difference.high is None:
        return UNKNOWN
    if difference.low == difference.high == 0:
        return EQUAL
    if difference.low <= 0 <= difference.high:
        return OPEN
    return BETTER if (difference.low > 0) == higher_is_better else WORSE


def verdict(comparison: Comparison, roles: Roles, figure: str) -> list[str]:
    """Return the sentences of the verdict on one way of learning.

    The conditions are chosen by their means on val; what is said of them is the difference on test.

    Args:
        comparison: the outcomes.
        roles: of the arms.
        figure: name of the figure of merit.
    """
    guided, unguided = comparison.best(roles.is_guided), comparison.best(roles.is_unguided)
    said = [_chosen(comparison, guided, unguided)]
    scratch = Condition(SCRATCH)
    if unguided and scratch in comparison.conditions:
        said.append(_sentence(comparison, "Pretraining without the prompt", unguided, scratch, figure, roles))
    if guided:
        control = roles.control_of(guided)
        said.append(_sentence(comparison, "Masking by the prompt", guided, control, figure, roles))
        if unguided and unguided != control:
            what = "Masking by the prompt, against the best without it"
            said.append(_sentence(comparison, what, guided, unguided, figure, roles))
    elif roles.guided:
        said.append("Masking by the prompt: no arm has a figure for every seed; nothing is concluded.")
    return said


def _chosen(comparison: Comparison, guided: Condition | None, unguided: Condition | None) -> str:
    parts = []
    for words, condition in (("with the prompt", guided), ("without it", unguided)):
        found = comparison.estimate(condition, "val") if condition else None
        parts.append(f"{words} {condition.name} ({found.mean:.3f})" if condition and found else "")
    known = [part for part in parts if part]
    if not known:
        return "No arm has a figure for every seed: nothing is chosen, nothing is concluded."
    return f"Best on val: {', '.join(known)}."


def _sentence(comparison: Comparison, what: str, first: Condition, second: Condition, figure: str, roles: Roles) -> str:
    difference = comparison.difference(first, second, "test")
    pair = f"{what} ({first.name} − {second.name})"
    if difference is None:
        return f"{pair}: no seed has both; not compared."
    runs = f"{difference.runs} seed{'s' if difference.runs > 1 else ''}"
    start = f"{pair}, test, {runs}: {figure} {signed(difference)}"
    return f"{start}: {_ending(difference, comparison.higher_is_better, roles.one_encoder)}."


def _ending(difference: Estimate, higher_is_better: bool, one_encoder: bool) -> str:
    found = judge(difference, higher_is_better)
    if found == EQUAL:
        return "no difference in any seed"
    if difference.low is None or difference.high is None:
        return "one independent repetition has no interval and tells nothing apart from luck; give more seeds"
    if found == OPEN:
        gain, loss = (difference.high, -difference.low) if higher_is_better else (-difference.low, difference.high)
        return f"**not told apart**: anything from a loss of {loss:.3f} to a gain of {gain:.3f} fits"
    luck = "; of one encoder an arm: the luck of pretraining is not in it" if one_encoder else ""
    return f"**{found}**; the interval leaves out zero{luck}"


def signed(difference: Estimate | None) -> str:
    """Write a difference with its interval; "–" if there is none."""
    if difference is None:
        return "–"
    interval = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return f"{difference.mean:+.3f}{interval}"
