# SPDX-License-Identifier: Apache-2.0
"""Boxes on a scan as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from custom.visual.planes import View, mark_sides, view_of

TRUTH, FOUND = (0.25, 0.9, 0.35), (1.0, 0.55, 0.1)


def draw_boxes(
    axes: Axes,
    scan: NDArray,
    truth: ArrayLike | None,
    found: ArrayLike,
    words: Sequence[str] = (),
    pixel_sizes: Sequence[float] | None = None,
    view: View | None = None,
) -> None:
    """Draw a scan with the true boxes (green, broken) and those that were found (orange).

    Of a volume the axial slice is shown that goes through the middle of the first true box, or of the first one found;
    boxes that do not meet the slice are left out.

    Args:
        axes: where to draw; x to the right, y down.
        scan: ``[*spatial]`` or, in colour, ``[*spatial, 3]``.
        truth: ``[N, 2 * d]`` voxel edges on the grid of ``scan``; None if unknown.
        found: ``[M, 2 * d]``.
        words: one for each found box.
        pixel_sizes: of the axes, for the shape of pixels.
        view: how the scan is shown, see :mod:`custom.visual.planes`; None: as a picture, or a volume that is RAS+.
    """
    known = np.zeros((0, np.shape(found)[1])) if truth is None else np.asarray(truth, dtype=np.float64)
    boxes = np.asarray(found, dtype=np.float64)
    dims = boxes.shape[1] // 2
    values = np.asarray(scan, dtype=np.float64)
    channels = np.moveaxis(values, -1, 0) if values.ndim > dims else values[None]
    view = view_of(channels) if view is None else view
    index = None
    if view.across is not None:
        index = _slice(known if len(known) else boxes, values.shape[view.across], view.across)
        shown = [_meets(each, index, view.across) for each in boxes]
        words = [word for word, is_shown in zip(words, shown, strict=False) if is_shown]
        known, boxes = known[[_meets(each, index, view.across) for each in known]], boxes[shown]
    picture = view.plane(channels, index)
    low, high = np.percentile(picture, [0.5, 99.5])
    grey = np.clip((picture - low) / max(high - low, 1e-6), 0, 1).T
    aspect = 1.0 if pixel_sizes is None else view.aspect(pixel_sizes)
    # Voxel edges are the picture's coordinates: voxel i spans i to i + 1.
    extent = (0, picture.shape[1], picture.shape[2], 0)
    axes.imshow(grey if len(channels) > 1 else grey[..., 0], cmap="gray", vmin=0, vmax=1, extent=extent, aspect=aspect)
    mark_sides(axes, view.sides)
    if truth is not None:
        name_truth(axes)
    for box in view.boxes(known, values.shape):
        axes.add_patch(_rectangle(box, TRUTH, "--"))
    for number, box in enumerate(view.boxes(boxes, values.shape)):
        axes.add_patch(_rectangle(box, FOUND, "-"))
        if number < len(words):
            axes.text(box[0], box[1], words[number], color=FOUND, fontsize=6, va="bottom")


def name_truth(axes: Axes) -> None:
    """Say in the picture's lower left corner which lines are the truth."""
    axes.text(0.01, 0.01, "- - truth", transform=axes.transAxes, color=TRUTH, fontsize=6, va="bottom")


def _rectangle(box: NDArray, colour: tuple[float, float, float], style: str) -> Rectangle:
    width, height = box[2] - box[0], box[3] - box[1]
    return Rectangle((box[0], box[1]), width, height, fill=False, edgecolor=colour, linestyle=style, linewidth=1.2)


def _slice(boxes: NDArray, count: int, across: int) -> int:
    middle = (boxes[0, across] + boxes[0, 3 + across]) / 2 if len(boxes) else count / 2
    return int(np.clip(middle, 0, count - 1))


def _meets(box: NDArray, index: int, across: int) -> bool:
    return bool(box[across] < index + 1 and box[3 + across] > index)
