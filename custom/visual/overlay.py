# SPDX-License-Identifier: Apache-2.0
"""A scan with a segmentation and its truth laid over it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

_LONGEST_SIDE = 512


class Plane(NamedTuple):
    """One slice of a segmented scan, for the eye: axis 0 runs to the right of the picture, axis 1 down.

    ``scan`` ``[x, y]`` is grey in [0, 1]; ``prediction`` and ``truth`` ``[x, y]`` hold classes, 0 the background;
    ``truth`` is None where it is not known. ``aspect`` is the height of a pixel over its width.
    """

    scan: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray | None
    aspect: float


def plane_of(scan: np.ndarray, prediction: np.ndarray, truth: np.ndarray | None, spacing: tuple[float, ...]) -> Plane:
    """Choose what to show: a picture itself; of a volume the axial slice with most of the truth, or of the prediction.

    Volumes (RAS+) are shown in radiological convention: the patient's right on the left side, front up.

    Args:
        scan: ``[C, *spatial]``, any intensities.
        prediction: ``[*spatial]``.
        truth: ``[*spatial]``, or None.
        spacing: size of a voxel an axis.
    """
    grey = scan.mean(axis=0)
    low, high = np.percentile(grey, [0.5, 99.5])
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1)
    index = None
    if grey.ndim == 3:
        index = _fullest(truth) if truth is not None and truth.any() else _fullest(prediction)
    true = None if truth is None else _view(truth, index)
    return Plane(_view(grey.astype(np.float16), index), _view(prediction, index), true, spacing[1] / spacing[0])


def draw_plane(axes: Axes, plane: Plane) -> None:
    """Draw the scan, the prediction as colour, and the truth as an outline, a colour each class."""
    axes.imshow(plane.scan.T.astype(np.float32), cmap="gray", vmin=0, vmax=1, aspect=plane.aspect)
    colours = np.concatenate([[[0, 0, 0, 0]], colormaps["tab10"](np.arange(256) % 10)])
    colours[1:, 3] = 0.4
    axes.imshow(colours[plane.prediction.T], aspect=plane.aspect)
    if plane.truth is None:
        return
    for index in np.unique(plane.truth[plane.truth > 0]):
        shape = np.pad(index == plane.truth.T, 1).astype(np.float32)  # closed at the border, too
        extent = np.arange(-1, plane.truth.shape[0] + 1), np.arange(-1, plane.truth.shape[1] + 1)
        axes.contour(*extent, shape, levels=[0.5], colors=[colours[index, :3]], linewidths=1.0)


def _fullest(volume: np.ndarray) -> int:
    area = (volume > 0).sum(axis=(0, 1))
    return int(area.argmax()) if area.any() else volume.shape[2] // 2


def _view(values: np.ndarray, index: int | None) -> np.ndarray:
    plane = values if index is None else values[::-1, ::-1, index]
    step = -(-max(plane.shape) // _LONGEST_SIDE)
    return plane[::step, ::step].copy()
