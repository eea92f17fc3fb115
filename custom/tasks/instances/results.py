# SPDX-License-Identifier: Apache-2.0
"""Predicted masks as files: COCO's run-length codes beside the boxes, and label maps of instances."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom.files import write_atomically
from custom.tasks.detection.results import BoxCase
from custom.tasks.instances.masks import decode_masks
from custom.tasks.segmentation.geometry import ScanGrid
from custom.tasks.segmentation.saving import file_stem, write_label_map

FOLDER, TABLE = "instances", "instances.csv"
_COLUMNS = ("scan_id", "instance", "class", "score", "voxels")


@dataclass(frozen=True)
class InstanceCase(BoxCase):
    """Boxes and masks of one picture or slice on the grid of its file.

    Attributes:
        masks: run-length encodings of :func:`custom.metrics.boxes.encode_masks`, one for each predicted box.
        true_masks: likewise for the true ones; None if unknown.
        grid: where the voxels of the file lie; needed to write label maps.
    """

    masks: Sequence[dict[str, Any]] = ()
    true_masks: Sequence[dict[str, Any]] | None = None
    grid: ScanGrid | None = None

    def predicted(self) -> dict[str, Any]:
        """Predictions in the form of :mod:`custom.metrics.boxes`."""
        return {**super().predicted(), "masks": list(self.masks)}

    def truth(self) -> dict[str, Any]:
        """True objects in that form.

        Raises:
            ValueError: if they are unknown.
        """
        return {**super().truth(), "masks": list(self.true_masks or ())}

    def outlines(self, of_truth: bool) -> list[dict[str, Any]]:
        """Return ``segmentation`` and ``area`` of the predicted or the true objects for COCO's files."""
        codes = _coco_codes(self.true_masks if of_truth else self.masks, self.size)
        return [{"segmentation": code, "area": _area(code)} for code in codes]


def save_instances(cases: Sequence[InstanceCase], classes: Sequence[str], folder: Path) -> list[Path]:
    """Write a label map of each scan, and what its numbers mean.

    Files:
        ``instances/<scan>.png``, or ``.nii.gz`` for slices with a place in space: voxel by voxel of the file, 0 the
        background, 1, 2, ... the objects, the best first; where objects overlap, the better one is shown.
        ``instances.csv``: scan, number, class, score and visible voxels of each.

    Args:
        cases: with the objects to write, best first.
        classes: names.
        folder: where the files go.
    """
    files, rows, taken = [], [], set[Path]()
    for case in cases:
        if case.grid is None:
            raise ValueError(f"{case.scan_id}: without its grid, no label map can be written.")
        numbers = instance_map(decode_masks(case.masks, case.size))
        counts = np.bincount(numbers.ravel(), minlength=len(case.labels) + 1)[1:]
        stem = file_stem(folder / FOLDER, case.scan_id, taken)
        files.append(write_label_map(stem, numbers.reshape(case.grid.file_shape), case.grid))
        for number, (label, score, count) in enumerate(zip(case.labels, case.scores, counts, strict=True), start=1):
            row = {"scan_id": case.scan_id, "instance": number, "class": classes[label]}
            rows.append({**row, "score": float(score), "voxels": int(count)})
    return [*files, _write_table(folder / TABLE, rows)]


def instance_map(masks: NDArray[np.uint8]) -> NDArray[Any]:
    """Return unsigned integers ``[X, Y]``: 1 + the index of the first of the masks ``[N, X, Y]`` there, 0 for none."""
    numbers = np.zeros(masks.shape[1:], dtype=np.min_scalar_type(len(masks)))
    for index in reversed(range(len(masks))):
        numbers[masks[index] > 0] = index + 1
    return numbers


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """CSV that exists, with its header, where nothing was found, too."""

    def write(target: Path) -> None:
        with open(target, "w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=_COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    return write_atomically(path, write)


def _coco_codes(codes: Sequence[dict[str, Any]] | None, size: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's codes ``{"size": [height, width], "counts": text}`` of our codes ``[X, Y]`` in one long column."""
    from pycocotools import mask as coco_mask

    masks = decode_masks(codes or (), size)
    if not len(masks):
        return []
    encoded = coco_mask.encode(np.asfortranarray(masks.transpose(2, 1, 0)))
    return [{"size": list(code["size"]), "counts": code["counts"].decode()} for code in encoded]


def _area(code: dict[str, Any]) -> int:
    from pycocotools import mask as coco_mask

    return int(coco_mask.area({**code, "counts": code["counts"].encode()}))
