# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: many scans at once, each with the region that a prompt named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.data import MetaTensor
from torch import Tensor

from custom.visual.planes import View, mark_sides, view_of

_COLUMNS = 6
_LONGEST_SIDE = 384


class Tile(NamedTuple):
    """A scan and one region as pictures: ``scan`` ``[x, y]`` or ``[x, y, 3]`` and ``region`` ``[x, y]``, in [0, 1].

    ``aspect`` is the height of a pixel over its width; axis 0 runs to the right of the picture, axis 1 down. ``sides``
    are the patient's at the left and the right edge, as far as they are known.
    """

    title: str
    scan: np.ndarray
    region: np.ndarray
    aspect: float
    sides: tuple[str, str] = ("", "")


def make_tiles(image: Tensor, region: Tensor, name: str, prompts: Sequence[str], threshold: float = 0.5) -> list[Tile]:
    """Prepare a scan for the eye, a tile for each prompt.

    Of a volume, the axial slice with the largest region (the middle one where nothing was found) is shown, laid on
    the page as :mod:`custom.visual.planes` says.

    Args:
        image: ``[C, *spatial]``, any intensities; a MetaTensor's affine says how it lies and gives the shape of pixels.
        region: ``[P, *spatial]`` in [0, 1].
        name: title of the scan.
        prompts: the ``P`` phrases.
        threshold: probability from which a voxel counts in the coverage of the title.
    """
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    values, maps = plain.detach().float().cpu().numpy(), np.asarray(region.detach().float().cpu())
    low, high = np.percentile(values, [0.5, 99.5])
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    view = view_of(image)
    aspect = view.aspect(image.pixdim) if isinstance(image, MetaTensor) else 1.0
    tiles = []
    for prompt, each in zip(prompts, maps, strict=True):
        covered = float((each >= threshold).mean())
        title = f"{_short(name)}\n{_short(prompt)}: {_percent(covered)}"
        index = _slice_index(each, threshold, view) if each.ndim == 3 else None
        shown = _thinned(grey, view, index), _thinned(each[None], view, index)
        tiles.append(Tile(title, *shown, aspect, view.sides))
    return tiles


def spread(count: int, wanted: int = 24) -> list[int]:
    """Up to ``wanted`` indices, spread evenly over ``range(count)``."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, wanted)).round()})


def contact_sheet(scans: Sequence[Sequence[Tile]], threshold: float = 0.5) -> Figure:
    """Draw tiles in a grid; the tiles of one scan lie side by side.

    Args:
        scans: the tiles of each scan, the same number for all.
        threshold: where the outline of a region is drawn.
    """
    together = len(scans[0])
    columns = min(len(scans), max(1, _COLUMNS // together)) * together
    tiles = [tile for scan in scans for tile in scan]
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.5 * rows + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for each in axes:
        each.axis("off")
    for each, tile in zip(axes, tiles, strict=False):
        _draw(each, tile, threshold)
    figure.supxlabel(f"orange: probability of the region; line: {threshold:g}; %: share above it", fontsize=8)
    return figure


def save_contact_sheet(file: str | Path, scans: Sequence[Sequence[Tile]], threshold: float = 0.5) -> None:
    """Draw a contact sheet and write it as PNG."""
    contact_sheet(scans, threshold).savefig(file)


def _draw(axes: Axes, tile: Tile, threshold: float) -> None:
    # Arrays are [x, y]; matplotlib wants [row, column].
    axes.imshow(tile.scan.swapaxes(0, 1), cmap="gray", vmin=0, vmax=1, aspect=tile.aspect)
    colour = np.zeros((*tile.region.T.shape, 4))
    colour[..., :3] = 1.0, 0.45, 0.1
    colour[..., 3] = 0.45 * np.clip(tile.region.T, 0, 1)
    axes.imshow(colour, aspect=tile.aspect)
    if tile.region.min() < threshold <= tile.region.max():
        axes.contour(tile.region.T, levels=[threshold], colors=[(1.0, 0.85, 0.2)], linewidths=0.8)
    mark_sides(axes, tile.sides)
    axes.set_title(tile.title, fontsize=7)


def _slice_index(volume: np.ndarray, threshold: float, view: View) -> int:
    for area in ((volume >= threshold).sum(axis=view.axes), volume.sum(axis=view.axes)):
        if area.any():
            return int(area.argmax())
    return len(area) // 2


def _thinned(channels: np.ndarray, view: View, index: int | None) -> np.ndarray:
    plane = view.plane(channels, index)
    step = -(-max(plane.shape[1:]) // _LONGEST_SIDE)
    small = plane[:, ::step, ::step]
    return np.moveaxis(small, 0, -1).copy() if len(small) == 3 else small[0].copy()


def _short(text: str, length: int = 34) -> str:
    return text if len(text) <= length else "…" + text[1 - length :]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share else "nothing"
