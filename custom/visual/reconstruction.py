# SPDX-License-Identifier: Apache-2.0
"""Scan, region, mask and reconstruction, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.data import MetaTensor
from monai.utils import ensure_tuple_rep
from torch import Tensor

from custom.losses import denormalize
from custom.visual.planes import View, mark_sides, view_of

HIDDEN_GREY = 0.5


class Example(NamedTuple):
    """One scan as pictures ``[x, y]`` (or ``[x, y, 3]``) in [0, 1]; ``region`` is None where there is none.

    ``sides`` are the patient's at the left and the right edge, as far as they are known.
    """

    scan: np.ndarray
    region: np.ndarray | None
    masked: np.ndarray
    reconstruction: np.ndarray
    sides: tuple[str, str] = ("", "")


def make_example(
    image: Tensor,
    visible: Tensor,
    prediction: Tensor,
    cell_size: int | Sequence[int],
    region: Tensor | None = None,
    wanted: Tensor | None = None,
    known: bool | None = None,
) -> Example:
    """Prepare one scan for the eye; of a volume, the axial slice with most of the region.

    Hidden cells of the reconstruction are the network's prediction, brought back to grey levels by the true mean and
    spread of each cell, as is usual for a loss that is normalised per cell: it shows structure, not brightness. Hidden
    cells that nobody wanted (empty ones that were left out) were not predicted: there the reconstruction is the scan.

    Args:
        image: ``[C, *spatial]`` in [0, 1]; it is laid on the page as :mod:`custom.visual.planes` says.
        visible: boolean ``[1, *grid]`` or ``[*grid]``.
        prediction: ``[C, *spatial]``, normalised per cell.
        cell_size: in voxels.
        region: ``[P, *spatial]`` in [0, 1].
        wanted: like ``visible``, True where the prediction was asked for; None: in all hidden cells.
        known: whether the patient's sides are known, see :func:`custom.visual.planes.view_of`.
    """
    view = view_of(image, known=known)
    image = image.as_tensor() if isinstance(image, MetaTensor) else image
    sides = ensure_tuple_rep(cell_size, image.ndim - 1)
    shown = _in_voxels(visible, sides)
    asked = ~shown if wanted is None else _in_voxels(wanted, sides)
    restored = torch.where(asked, denormalize(prediction[None].float(), image[None], sides)[0], image)
    masked = torch.where(shown, image, torch.full_like(image, HIDDEN_GREY))
    merged = None if region is None else region.amax(0, keepdim=True)
    index = _slice_index(image if merged is None else merged, view)
    shown, hidden, filled = (_picture(each, view, index) for each in (image, masked, restored))
    return Example(shown, None if merged is None else _picture(merged, view, index), hidden, filled, view.sides)


def reconstruction_figure(examples: Sequence[Example], history: Sequence[Mapping[str, str]] = ()) -> Figure:
    """Draw one row per scan (a column for the region if there is one) and, given the history, the loss curve below."""
    panels = [_panels(example) for example in examples]
    rows, columns = len(panels) + (1 if history else 0), len(panels[0])
    figure = Figure(figsize=(2.25 * columns, 2.35 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, columns)
    for row, pictures in enumerate(panels):
        for column, (title, picture) in enumerate(pictures):
            axes = figure.add_subplot(grid[row, column])
            axes.set_axis_off()
            axes.set_title(title if row == 0 else "", fontsize=10)
            axes.imshow(np.swapaxes(picture, 0, 1), cmap="gray", vmin=0, vmax=1)
            mark_sides(axes, examples[row].sides)
    if history:
        _draw_losses(figure.add_subplot(grid[-1, :]), history)
    return figure


def save_figure(figure: Figure, file: str | Path) -> None:
    """Write a figure as PNG, creating its folder."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, format="png")


def _panels(example: Example) -> list[tuple[str, np.ndarray]]:
    region = [] if example.region is None else [("region of the prompt", _overlay(example.scan, example.region))]
    rest = [("what the network sees", example.masked), ("reconstruction", example.reconstruction)]
    return [("scan", example.scan), *region, *rest]


def _overlay(scan: np.ndarray, region: np.ndarray) -> np.ndarray:
    colour = scan if scan.ndim == 3 else np.repeat(scan[..., None], 3, axis=-1)
    weight = 0.6 * np.clip(region, 0, 1)[..., None]
    return np.clip(colour * (1 - weight) + np.array([1.0, 0.35, 0.1]) * weight, 0, 1)


def _draw_losses(axes: Axes, history: Sequence[Mapping[str, str]]) -> None:
    for name, label in (("train_loss", "training"), ("val_loss", "validation")):
        points = [(int(row["epoch"]), float(row[name])) for row in history if row.get(name)]
        if points:
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss on hidden cells")
    axes.legend(frameon=False)


def _in_voxels(cells: Tensor, sides: Sequence[int]) -> Tensor:
    """Cells ``[*grid]`` or ``[1, *grid]`` as voxels, ``[1, *spatial]``."""
    voxels = cells.reshape((1, *cells.shape[-len(sides) :]))
    for axis, side in enumerate(sides):
        voxels = voxels.repeat_interleave(side, axis + 1)
    return voxels


def _slice_index(volume: Tensor, view: View) -> int | None:
    if view.across is None:
        return None
    mass = volume.sum(dim=(0, *(1 + axis for axis in view.axes)))
    return int(mass.argmax())


def _picture(volume: Tensor, view: View, index: int | None) -> np.ndarray:
    picture = view.plane(volume.detach().float().cpu().numpy(), index)
    return np.moveaxis(picture, 0, -1) if len(picture) == 3 else picture[0]
