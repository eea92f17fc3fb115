# SPDX-License-Identifier: Apache-2.0
"""A study as a picture: the figure of merit against the share of cells that was hidden."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from custom.workflows.study.plan import SCRATCH, Condition
from custom.workflows.study.results import SPLITS, Comparison

_COLOURS = ("#2f6fb2", "#d97b29", "#4c9f70", "#8a5fb0", "#b23a48")
_SCRATCH_COLOUR = "#777777"


def study_figure(comparisons: Mapping[str, Comparison], figure_name: str, title: str) -> Figure:
    """Draw a row of two panels, val and test, for each way of learning.

    Bars are the intervals of the means; dots are the single runs.

    Args:
        comparisons: way of learning -> its outcomes.
        figure_name: of the figure of merit.
        title: of the picture.
    """
    figure = Figure(figsize=(9.5, 3.6 * len(comparisons) + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(comparisons), len(SPLITS), squeeze=False, sharey="row")
    for row, (learning, comparison) in zip(grid, comparisons.items(), strict=True):
        for axes, split in zip(row, SPLITS, strict=True):
            _draw(axes, comparison, split)
            axes.set_title(f"{learning}, {split}", fontsize=10)
            axes.set_xlabel("cells hidden in pretraining, %", fontsize=9)
        row[0].set_ylabel(figure_name, fontsize=9)
        row[-1].legend(fontsize=8, loc="best")
    figure.suptitle(title, fontsize=11)
    return figure


def _draw(axes: Axes, comparison: Comparison, split: str) -> None:
    _draw_scratch(axes, comparison, split)
    arms = list(dict.fromkeys(each.arm for each in comparison.conditions if each.arm != SCRATCH))
    for index, (arm, colour) in enumerate(zip(arms, cycle(_COLOURS))):
        shift = 0.6 * (index - (len(arms) - 1) / 2)  # arms at one ratio stand side by side
        _draw_arm(axes, comparison, split, arm, colour, shift)
    hidden = [100 * share for each in comparison.conditions if (share := comparison.hidden(each)) is not None]
    if hidden:
        axes.set_xlim(min(hidden) - 5, max(hidden) + 5)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#e6e6e6")


def _draw_arm(axes: Axes, comparison: Comparison, split: str, arm: str, colour: str, shift: float) -> None:
    places, means, below, above = [], [], [], []
    for condition in [each for each in comparison.conditions if each.arm == arm]:
        found, hidden = comparison.estimate(condition, split), comparison.hidden(condition)
        if found is None or hidden is None:
            continue
        place = 100 * hidden + shift
        runs = list(comparison.figures(condition, split).values())
        axes.plot([place] * len(runs), runs, ".", color=colour, alpha=0.4)
        places.append(place)
        means.append(found.mean)
        below.append(0.0 if found.low is None else found.mean - found.low)
        above.append(0.0 if found.high is None else found.high - found.mean)
    if places:
        axes.errorbar(places, means, [below, above], fmt="o-", color=colour, capsize=3, label=arm, linewidth=1.2)


def _draw_scratch(axes: Axes, comparison: Comparison, split: str) -> None:
    found = comparison.estimate(Condition(SCRATCH), split)
    if found is None:
        return
    axes.axhline(found.mean, color=_SCRATCH_COLOUR, linestyle="--", linewidth=1.2, label=SCRATCH)
    if found.low is not None and found.high is not None:
        axes.axhspan(found.low, found.high, color=_SCRATCH_COLOUR, alpha=0.12, linewidth=0)
