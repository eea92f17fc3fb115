# SPDX-License-Identifier: Apache-2.0
"""A scan with a segmentation and its truth laid over it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from custom.visual.planes import View, mark_sides, view_of

_LONGEST_SIDE = 512


class Plane(NamedTuple):
    """One slice of a segmented scan, for the eye: axis 0 runs to the right of the picture, axis 1 down.

    ``scan`` ``[x, y]`` is grey in [0, 1]; ``prediction`` and ``truth`` ``[x, y]`` hold classes, 0 the background;
    ``truth`` is None where it is not known. ``aspect`` is the height of a pixel over its width, ``sides`` are the
    patient's at the left and the right edge, as far as they are known.
    """

    scan: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray | None
    aspect: float
    sides: tuple[str, str] = ("", "")


def plane_of(scan: Any, prediction: np.ndarray, truth: np.ndarray | None, spacing: tuple[float, ...]) -> Plane:
    """Choose what to show: a picture itself; of a volume the axial slice with most of the truth, or of the prediction.

    It is laid on the page as :mod:`custom.visual.planes` says.

    Args:
        scan: ``[C, *spatial]``, any intensities; a MetaTensor's affine says how it lies, arrays are RAS+.
        prediction: ``[*spatial]``.
        truth: ``[*spatial]``, or None.
        spacing: size of a voxel an axis.
    """
    view, grey = view_of(scan), np.asarray(scan).mean(axis=0)
    low, high = np.percentile(grey, [0.5, 99.5])
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1)
    index = None
    if grey.ndim == 3:
        index = _fullest(truth if truth is not None and truth.any() else prediction, view)
    true = None if truth is None else _thinned(truth, view, index)
    found, shown = _thinned(prediction, view, index), _thinned(grey.astype(np.float16), view, index)
    return Plane(shown, found, true, view.aspect(spacing), view.sides)


def draw_plane(axes: Axes, plane: Plane) -> None:
    """Draw the scan, the prediction as colour, and the truth as an outline, a colour each class."""
    axes.imshow(plane.scan.T.astype(np.float32), cmap="gray", vmin=0, vmax=1, aspect=plane.aspect)
    colours = np.concatenate([[[0, 0, 0, 0]], colormaps["tab10"](np.arange(256) % 10)])
    colours[1:, 3] = 0.4
    axes.imshow(colours[plane.prediction.T], aspect=plane.aspect)
    mark_sides(axes, plane.sides)
    if plane.truth is None:
        return
    for index in np.unique(plane.truth[plane.truth > 0]):
        shape = np.pad(index == plane.truth.T, 1).astype(np.float32)  # closed at the border, too
        extent = np.arange(-1, plane.truth.shape[0] + 1), np.arange(-1, plane.truth.shape[1] + 1)
        axes.contour(*extent, shape, levels=[0.5], colors=[colours[index, :3]], linewidths=1.0)


def _fullest(volume: np.ndarray, view: View) -> int:
    area = (volume > 0).sum(axis=view.axes)
    return int(area.argmax()) if area.any() else len(area) // 2


def _thinned(values: np.ndarray, view: View, index: int | None) -> np.ndarray:
    plane = view.plane(values, index)
    step = -(-max(plane.shape) // _LONGEST_SIDE)
    return plane[::step, ::step].copy()
