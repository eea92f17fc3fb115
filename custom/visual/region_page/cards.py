# SPDX-License-Identifier: Apache-2.0
"""Small pictures of a scan and its region map, and which of thousands to keep."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from monai.data import MetaTensor
from PIL import Image
from torch import Tensor

from custom.visual.planes import AXIAL, CORONAL, SAGITTAL, View, mark_picture, view_of

_LONGEST_PICTURE = 320  # pixels
_LONGEST_PLANE = 176  # of a volume, three of which lie side by side
_GAP = 4
_SAMPLED = 100_000  # voxels from which the range of intensities is read

Kept = TypeVar("Kept")


class Pictures(NamedTuple):
    """A scan (JPEG) and its region (8-bit grey PNG, 255 = probability 1), of the same extent.

    ``aspect`` is the width of the picture over its height in the scan's own measure, whatever its pixels.
    """

    scan: bytes
    region: bytes
    aspect: float


class EvenSample(Generic[Kept]):
    """Some things out of a stream of unknown length, evenly spread; what is not kept is never made.

    Args:
        least: how many are kept at least, if there are so many; at most twice as many.
    """

    def __init__(self, least: int) -> None:
        self.kept: list[Kept] = []
        self._least, self._step, self._seen = max(1, least), 1, 0

    def takes_next(self) -> bool:
        """Whether the next thing of the stream is to be made and put into ``kept``."""
        if len(self.kept) > 2 * self._least:
            self.kept, self._step = self.kept[::2], 2 * self._step
        self._seen += 1
        return (self._seen - 1) % self._step == 0


def make_pictures(image: Tensor, region: Tensor, threshold: float = 0.5) -> Pictures:
    """Draw a scan and one region map small enough for a page of hundreds.

    Of a map the maximum over the voxels of a pixel is shown, so that a small region is not lost. A volume is shown in
    three planes side by side, each where the region is largest (in the middle, where nothing was found): axial,
    coronal and sagittal, laid on the page as :mod:`custom.visual.planes` says.

    Args:
        image: ``[C, *spatial]``, any intensities, 3 channels are colour; a MetaTensor's affine gives the voxels' size.
        region: ``[*spatial]`` in [0, 1].
        threshold: probability from which a voxel counts where the planes are chosen.
    """
    spacing = [float(size) for size in image.pixdim] if isinstance(image, MetaTensor) else []
    spacing = (spacing + [1.0] * region.ndim)[: region.ndim]
    values = (image.as_tensor() if isinstance(image, MetaTensor) else image).detach().cpu().numpy()
    levels = (region.detach().cpu().numpy() * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    low, high = np.percentile(values.reshape(-1)[:: max(1, values.size // _SAMPLED)], [0.5, 99.5])
    colours = values if len(values) == 3 else values[:1]

    def grey(plane: np.ndarray) -> np.ndarray:
        scaled = (plane.astype(np.float32) - low) / max(float(high - low), 1e-6)
        return np.moveaxis((scaled.clip(0, 1) * 255).astype(np.uint8), 0, -1)

    if region.ndim == 2:
        scan, small = _reduced(grey(colours.swapaxes(1, 2)), levels.T)
        mark_picture(scan, view_of(image).sides)
        return _encoded(scan, small, levels.shape[0] * spacing[0] / (levels.shape[1] * spacing[1]))
    known = any(view_of(image).sides)
    views = [view_of(image, world, known) for world in (AXIAL, CORONAL, SAGITTAL)]
    scans, regions = zip(*(_plane(colours, levels, spacing, threshold, grey, view) for view in views), strict=True)
    scan, small = _side_by_side(scans), _side_by_side(regions)
    return _encoded(scan, small, scan.width / scan.height)


def _encoded(scan: Image.Image, region: Image.Image, aspect: float) -> Pictures:
    files = io.BytesIO(), io.BytesIO()
    scan.save(files[0], "JPEG", quality=84)
    region.save(files[1], "PNG", compress_level=4)
    return Pictures(files[0].getvalue(), files[1].getvalue(), round(aspect, 4))


def _reduced(grey: np.ndarray, levels: np.ndarray) -> tuple[Image.Image, Image.Image]:
    """Pictures ``[H, W, 1 or 3]`` and ``[H, W]`` with fewer pixels by a whole factor: mean of one, maximum of other."""
    step = -(-max(levels.shape) // _LONGEST_PICTURE)
    return _picture(grey).reduce(step), Image.fromarray(_maximum(levels, step, step))


def _maximum(levels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Maximum over blocks; those at the far ends may be smaller."""
    for step in (rows, columns):
        highest = levels[::step].copy()
        for offset in range(1, step):
            part = levels[offset::step]
            np.maximum(highest[: len(part)], part, out=highest[: len(part)])
        levels = highest.T
    return np.ascontiguousarray(levels)


def _picture(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(grey if grey.shape[-1] == 3 else grey[..., 0]))


def _plane(
    colours: np.ndarray,
    levels: np.ndarray,
    spacing: list[float],
    threshold: float,
    grey: Callable[[np.ndarray], np.ndarray],
    view: View,
) -> tuple[Image.Image, Image.Image]:
    """Return a plane of a volume, upright, with square pixels that are as large in every plane."""
    extent = [size * step for size, step in zip(levels.shape, spacing, strict=True)]
    pixel = max(min(spacing), max(extent) / _LONGEST_PLANE)
    assert view.across is not None
    index = _largest(levels >= 255 * threshold, levels, view.across)
    right, down = view.axes
    size = max(1, round(extent[right] / pixel)), max(1, round(extent[down] / pixel))
    steps = [max(1, int(pixel / spacing[axis])) for axis in (down, right)]
    scan = _picture(grey(view.plane(colours, index).swapaxes(1, 2)))
    region = Image.fromarray(_maximum(view.plane(levels, index).T, *steps))
    shown = scan.resize(size, Image.Resampling.BILINEAR)
    return mark_picture(shown, view.sides), region.resize(size, Image.Resampling.BILINEAR)


def _largest(region: np.ndarray, levels: np.ndarray, axis: int) -> int:
    others = tuple(other for other in range(3) if other != axis)
    for area in (region.sum(axis=others), levels.sum(axis=others, dtype=np.int64)):
        if area.any():
            return int(area.argmax())
    return levels.shape[axis] // 2


def _side_by_side(pictures: tuple[Image.Image, ...]) -> Image.Image:
    width = sum(each.width for each in pictures) + _GAP * (len(pictures) - 1)
    height = max(each.height for each in pictures)
    whole = Image.new(pictures[0].mode, (width, height))
    left = 0
    for each in pictures:
        whole.paste(each, (left, (height - each.height) // 2))
        left += each.width + _GAP
    return whole
