# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MOST_COLUMNS = 4


def confusion_figure(counts: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str]) -> Figure:
    """Draw one confusion matrix per split: counts as text, shares of the true class as shade.

    Args:
        counts: split, or another title -> ``[K][K]``, rows are the true classes.
        classes: names of the K classes.
    """
    side, columns = 1.8 + 0.6 * len(classes), min(len(counts), MOST_COLUMNS)
    rows = -(-len(counts) // columns)
    figure = Figure(figsize=(side * columns, side * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, matrix) in enumerate(counts.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw(axes, np.asarray(matrix), classes)
        axes.set_title(f"{title}, {np.sum(matrix)} scans")
    return figure


def _draw(axes: Axes, matrix: np.ndarray, classes: Sequence[str]) -> None:
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
