# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that bring boxes to where an image is, whatever MONAI's transforms did to it.

MONAI's spatial transforms (crop, resize, pad, flip, rotate, zoom, affine) record where they put each voxel in the
image's affine. Boxes are therefore not moved step by step: :class:`ScanObjectsd` keeps them on the grid of the file,
and :class:`GridBoxesd` maps them from there to the present grid, once, after any chain of transforms, random or not.
They are cut and dropped only there, so that nothing is lost on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from custom.tasks.detection.geometry import Floats, clip_boxes, file_size, file_to_world
from custom.tasks.detection.objects import boxes_in, code_groups
from datasets import LoadScand
from datasets.errors import ScanError
from datasets.geometry import map_boxes, stored_to_memory

logger = logging.getLogger(__name__)

_OTHER_CLASSES = "Rename them as the detector's classes, or leave the scan out (--skip_bad true)."


class ScanObjectsd(MapTransform):
    """Add the objects of a scan on the grid of its file; to be used right behind `datasets.LoadScand`.

    Adds ``scan_boxes`` float32 ``[N, 2 * d]``, ``scan_labels`` int64 ``[N]``, ``scan_size`` (voxels of the file) and
    ``to_world`` float64 ``[4, d + 1]`` (file to RAS+ millimetres). Data without ``boxes`` and ``mask`` get the last two
    only. Boxes are cut at the border of the file; those outside of it, or without extent, are dropped with a warning.

    Args:
        keys: of the image, one.
        classes: names; labels index them.
        kind: "boxes" (``data["boxes"]`` as x, y(, z), width, height(, depth) and ``data["box_labels"]``), or objects of
            the label map ``data["mask"]``: "codes" (all voxels of a class are one object) or "components" (pieces).
        codes: for label maps: class -> codes, see :func:`custom.tasks.detection.objects.code_groups`.
        frame: of label maps that hold several volumes, see :class:`datasets.LoadScand`.
        allow_missing_keys: whether data without the image are passed on.

    Raises:
        ScanError: by the call, for a box of an unknown class, or a label map that does not cover its image.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        classes: Sequence[str] = (),
        kind: str = "boxes",
        codes: Mapping[str, Any] | str | None = None,
        frame: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes = list(classes)
        self.kind, self.frame = kind, frame
        self.groups = None if kind == "boxes" else code_groups(self.classes, codes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with their objects."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            size = file_size(image)
            result["scan_size"] = size
            result["to_world"] = torch.as_tensor(file_to_world(image))
            if self.groups is None and "boxes" in result:
                boxes, labels = self._listed(result)
            elif self.groups is not None and "mask" in result:
                boxes, labels = self._drawn(result["mask"], image)
            else:
                continue
            kept_boxes, kept = clip_boxes(boxes, size)
            if len(kept) < len(boxes):
                lost = len(boxes) - len(kept)
                logger.warning("%s: %d boxes lie outside of the scan, and are left out.", _name(result), lost)
            result["scan_boxes"] = torch.as_tensor(kept_boxes, dtype=torch.float32)
            result["scan_labels"] = torch.as_tensor(labels[kept], dtype=torch.int64)
        for used in ("boxes", "box_labels", "mask"):
            result.pop(used, None)
        return result

    def _listed(self, data: Mapping[Hashable, Any]) -> tuple[Floats, np.ndarray]:
        boxes, names = data["boxes"], data.get("box_labels", ["object"] * len(data["boxes"]))
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise ScanError(_name(data), f"boxes of the classes {unknown}; known: {self.classes}", _OTHER_CLASSES)
        dims = len(data["scan_size"])
        values = np.array(boxes, dtype=np.float64).reshape(-1, 2 * dims)
        edges = np.concatenate([values[:, :dims], values[:, :dims] + values[:, dims:]], axis=1)
        return edges, np.array([self.classes.index(name) for name in names], dtype=np.int64)

    def _drawn(self, path: str, image: MetaTensor) -> tuple[Floats, np.ndarray]:
        codes, to_file = read_label_map(path, image, self.frame)
        boxes, labels = boxes_in(codes, self.groups or (), self.kind == "components")
        covered = map_boxes([[0.0] * codes.ndim + list(codes.shape)], to_file)[0]
        wanted = [0.0] * codes.ndim + file_size(image)
        if np.abs(covered - wanted).max() > 1:
            problem = f"the label map covers {covered.round(1).tolist()} of its image's voxels, not {wanted}"
            raise ScanError(path, problem, "Save it on the grid of its image.")
        return map_boxes(boxes, to_file), labels


class GridBoxesd(MapTransform):
    """Add the boxes of a scan on the image's present grid; to be used behind all spatial transforms of a chain.

    Adds ``to_grid`` float64 ``[d + 1, d + 1]`` (voxel indices of the file to those of the image) and, where
    :class:`ScanObjectsd` added objects, ``boxes`` float32 ``[M, 2 * d]``, ``labels`` int64 ``[M]`` and ``box_index``
    int64 ``[M]``: which of the scan's objects these are.

    Args:
        keys: of the image, one; it must still carry its metadata.
        min_share: a box is cut at the image's border, and dropped if less than this share of it is left.
        rounded: see :func:`custom.tasks.detection.geometry.map_boxes`; for images that are turned to learn from.
        allow_missing_keys: whether data without the image are passed on.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        min_share: float = 0.25,
        rounded: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.min_share, self.rounded = float(min_share), bool(rounded)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with boxes on the image's grid."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            matrix = stored_to_memory(image)
            result["to_grid"] = torch.as_tensor(matrix)
            if "scan_boxes" not in result:
                continue
            boxes = map_boxes(np.asarray(result["scan_boxes"]), matrix, self.rounded)
            boxes, kept = clip_boxes(boxes, image.shape[1:], self.min_share)
            index = torch.as_tensor(kept, dtype=torch.int64)
            result["boxes"] = torch.as_tensor(boxes, dtype=torch.float32)
            result["labels"] = result["scan_labels"][index]
            result["box_index"] = index
        return result


def read_label_map(path: str, image: MetaTensor, frame: int | None = None) -> tuple[np.ndarray, Floats]:
    """Return a label map, and where its voxels are in the file of its image; the two share a place in space.

    Args:
        path: of the label map; it may be stored in another order of axes than its image.
        image: the scan ``[C, *spatial]`` of `LoadScand`.
        frame: see :class:`datasets.LoadScand`.

    Returns:
        Codes ``[*spatial]`` int32, and the matrix ``[d + 1, d + 1]`` from their indices to those of the image's file.
    """
    load = LoadScand("none", spatial_dims=image.ndim - 1, label_keys="mask", allow_missing_keys=True, frame=frame)
    codes = cast(MetaTensor, load({"mask": path})["mask"])
    shared = np.linalg.solve(np.asarray(image.affine, dtype=np.float64), np.asarray(codes.affine, dtype=np.float64))
    if image.ndim == 3:
        plane = [0, 1, 3]
        shared = shared[plane][:, plane]
    return np.asarray(codes)[0], np.linalg.solve(stored_to_memory(image), shared)


def _name(data: Mapping[Hashable, Any]) -> str:
    return str(data.get("scan_id", "scan"))
