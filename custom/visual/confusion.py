# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def confusion_figure(counts: Mapping[str, Sequence[Sequence[int]]], classes: Sequence[str]) -> Figure:
    """Draw one confusion matrix per split: counts as text, shares of the true class as shade.

    Args:
        counts: split -> ``[K][K]``, rows are the true classes.
        classes: names of the K classes.
    """
    side = 1.8 + 0.6 * len(classes)
    figure = Figure(figsize=(side * len(counts), side), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (split, matrix) in zip(figure.subplots(1, len(counts), squeeze=False)[0], counts.items(), strict=True):
        _draw(axes, np.asarray(matrix), classes)
        axes.set_title(f"{split}, {np.sum(matrix)} scans")
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
