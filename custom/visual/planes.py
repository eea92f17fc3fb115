# SPDX-License-Identifier: Apache-2.0
"""How every picture lays a plane of a scan on the page, and says where the patient's sides are.

Planes of volumes are shown in radiological convention, front and head up: the patient's right lies on the left, in
sagittal planes the front. Slices and pictures of 2D scans stay as they are read, which is upright.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from monai.data import MetaTensor
from nibabel.orientations import io_orientation
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from datasets.errors import ScanError
from datasets.geometry import slice_axes
from datasets.orientation import knows_sides

AXIAL, CORONAL, SAGITTAL = 2, 1, 0
"""World axes that planes lie across."""
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))  # low and high end of the world's axes
_UNKNOWN = ("", "")


@dataclass(frozen=True)
class View:
    """How a plane is laid on the page: axis 0 of what it gives runs to the right, axis 1 down.

    Attributes:
        axes: of the scan, that run to the right and down.
        flips: whether each is turned round.
        across: axis of the scan that the plane lies across; None for 2D scans.
        sides: letters of the patient's sides at the left and the right edge; empty where they are not known.
    """

    axes: tuple[int, int]
    flips: tuple[bool, bool] = (False, False)
    across: int | None = None
    sides: tuple[str, str] = _UNKNOWN

    def plane(self, values: Any, index: int | None = None) -> NDArray[Any]:
        """Return a plane ``[..., right, down]`` of values ``[..., *spatial]``; ``index`` counts along ``across``."""
        array = np.asarray(values)
        dims = 2 if self.across is None else 3
        if self.across is not None and index is not None:
            array = array.take(index, axis=self.across - dims)
        if self.axes[0] > self.axes[1]:
            array = array.swapaxes(-2, -1)
        right, down = (slice(None, None, -1 if is_flipped else 1) for is_flipped in self.flips)
        return array[..., right, down]

    def boxes(self, boxes: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return boxes ``[N, 2 * d]`` of a scan of that shape, voxel edges, as ``[N, 4]`` on the page."""
        values = np.asarray(boxes, dtype=np.float64)
        dims = values.shape[1] // 2
        edges = []
        for axis, is_flipped in zip(self.axes, self.flips, strict=True):
            low, high = values[:, axis], values[:, dims + axis]
            edges.append((shape[axis] - high, shape[axis] - low) if is_flipped else (low, high))
        return np.stack([edges[0][0], edges[1][0], edges[0][1], edges[1][1]], axis=1)

    def aspect(self, spacing: ArrayLike) -> float:
        """Return the height of a pixel over its width, from the size of a voxel along each axis of the scan."""
        sizes = np.asarray(spacing, dtype=np.float64)
        return float(sizes[self.axes[1]] / sizes[self.axes[0]])


def view_of(scan: Any, across: int = AXIAL, known: bool | None = None) -> View:
    """Return how a scan is shown.

    Args:
        scan: ``[C, *spatial]``. A MetaTensor's affine says how it lies; volumes without one are RAS+, as
            `datasets.LoadScand` turns them.
        across: axis of the world that the plane of a volume lies across.
        known: whether the patient's sides are known; None: the scan's file is asked, volumes without one are RAS+.
    """
    dims = scan.ndim - 1
    if known is None:
        file = scan.meta.get("filename_or_obj") if isinstance(scan, MetaTensor) else None
        known = are_sides_known(file, dims)
    affine = np.asarray(scan.affine, dtype=np.float64) if isinstance(scan, MetaTensor) else np.eye(4)
    if dims == 2:
        return View((0, 1), sides=_sides_of_slice(scan, affine) if known else _UNKNOWN)
    if not isinstance(scan, MetaTensor) or affine.shape != (4, 4):
        affine = np.eye(4)
    worlds, directions = io_orientation(affine).T
    axis_of = {int(world): axis for axis, world in enumerate(worlds)}
    right, down = ((axis_of[0], axis_of[1]), (axis_of[0], axis_of[2]), (axis_of[1], axis_of[2]))[2 - across]
    flips = bool(directions[right] > 0), bool(directions[down] > 0)  # to the left, to the back, to the feet
    low, high = _ENDS[int(worlds[right])]
    return View((right, down), flips, axis_of[across], (high, low) if known else _UNKNOWN)


def mark_sides(axes: Axes, sides: tuple[str, str]) -> None:
    """Write the letters of the patient's sides, if known, into a drawn plane, at the middle of its edges."""
    if any(sides):
        style = {"color": "white", "fontsize": 8, "path_effects": [withStroke(linewidth=1.5, foreground="black")]}
        for letter, place, alignment in zip(sides, (0.02, 0.98), ("left", "right"), strict=True):
            axes.text(place, 0.5, letter, transform=axes.transAxes, ha=alignment, va="center", **style)


def mark_picture(picture: Image.Image, sides: tuple[str, str]) -> Image.Image:
    """Write the letters, if known, into a picture of pixels, grey or RGB, which is changed and returned."""
    font, middle = ImageFont.load_default(max(9, min(picture.size) // 12)), picture.height / 2
    for letter, place, anchor in zip(sides, (2, picture.width - 2), ("lm", "rm"), strict=True):
        if letter:
            style = {"font": font, "anchor": anchor, "stroke_width": 1, "fill": "white", "stroke_fill": "black"}
            ImageDraw.Draw(picture).text((place, middle), letter, **style)
    return picture


def are_sides_known(file: Any, dims: int) -> bool:
    """Whether a scan's file tells the patient's sides; where there is no such file, volumes are taken to be RAS+."""
    if not isinstance(file, str | Path):
        return dims == 3
    try:
        return knows_sides(file)
    except (ScanError, OSError):  # no longer there, or a folder of several series
        return dims == 3


def _sides_of_slice(scan: Any, affine: NDArray[np.float64]) -> tuple[str, str]:
    """Letters of a slice of `datasets.LoadScand`, whose affine has the axes of the plane first."""
    if not isinstance(scan, MetaTensor) or "across" not in scan.meta:
        return _UNKNOWN
    step = affine[:3, 0]
    row = int(np.abs(step).argmax())
    low, high = _ENDS[slice_axes(int(scan.meta["across"]))[row]]
    return (low, high) if step[row] > 0 else (high, low)
