# SPDX-License-Identifier: Apache-2.0
"""Outlines of objects on a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from custom.visual.boxes import FOUND, TRUTH, draw_boxes, name_truth
from custom.visual.planes import View


def draw_outlines(
    axes: Axes,
    scan: NDArray,
    truth: NDArray | None,
    found: NDArray,
    words: Sequence[str] = (),
    pixel_sizes: Sequence[float] | None = None,
    view: View | None = None,
) -> None:
    """Draw a picture with the outlines of the true objects (green, broken) and of those that were found (orange).

    Args:
        axes: where to draw; x to the right, y down.
        scan: ``[X, Y]``, or in colour ``[X, Y, 3]``.
        truth: masks ``[N, X, Y]``; None if unknown.
        found: masks ``[M, X, Y]``.
        words: one for each found object, written at its upper left.
        pixel_sizes: of the axes, for the shape of pixels.
        view: of a slice whose sides are known, see :mod:`custom.visual.planes`.
    """
    draw_boxes(axes, scan, None, np.zeros((0, 4)), (), pixel_sizes, view)
    if truth is not None:
        name_truth(axes)
    for mask in () if truth is None else truth:
        _outline(axes, mask, TRUTH, "--")
    for index, mask in enumerate(found):
        _outline(axes, mask, FOUND, "-")
        if index < len(words) and mask.any():
            x, y = np.argwhere(mask).min(axis=0)
            axes.text(x, y, words[index], color=FOUND, fontsize=6, va="bottom")


def _outline(axes: Axes, mask: NDArray, colour: tuple[float, float, float], style: str) -> None:
    closed = np.pad(mask.T.astype(np.float32), 1)  # outlines close at the border, too
    if closed.any():
        centres = [np.arange(-1, side + 1) + 0.5 for side in mask.shape]
        axes.contour(*centres, closed, levels=[0.5], colors=[colour], linestyles=style, linewidths=1.2)
