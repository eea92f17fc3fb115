# SPDX-License-Identifier: Apache-2.0
"""Pictures with words on them, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from custom.visual.planes import mark_sides


def confidence_figure(pictures: Mapping[str, tuple[NDArray[np.uint8], str, tuple[str, str]]]) -> Figure:
    """Draw pictures in a row.

    Args:
        pictures: title -> ``[height, width]`` or ``[height, width, 3]``, words to put below it, and the patient's
            sides at its left and right edge, empty where they are not known.
    """
    figure = Figure(figsize=(3.2 * len(pictures), 3.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    row = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axes, (title, (picture, words, sides)) in zip(row, pictures.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        mark_sides(axes, sides)
        axes.set_title(title, fontsize=8)
        axes.set_xlabel(words, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure
