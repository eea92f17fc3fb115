# SPDX-License-Identifier: Apache-2.0
"""Predicted label maps as files: NIfTI that lies on the scan's file, or PNG for pictures; sizes as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from custom.files import write_atomically
from custom.tasks.results import write_table
from custom.tasks.segmentation.classes import LabelClasses
from custom.tasks.segmentation.components import Components, components
from custom.tasks.segmentation.geometry import ScanGrid
from datasets.file_grid import nifti_on
from datasets.formats import format_by_name

SIZES, INSTANCES = "sizes.csv", "instances.csv"


def save_predictions(
    predictions: Iterable[tuple[str, ScanGrid, np.ndarray]],
    classes: LabelClasses,
    folder: Path,
    min_voxels: Callable[[ScanGrid], float] | None = None,
) -> list[Path]:
    """Write the label maps of scans, and what they measure.

    - ``<scan>.nii.gz``, or ``<scan>.png`` for pictures: voxel by voxel of the scan's file, codes as in the truth;
    - ``sizes.csv``: of each class in each scan, voxels and millilitres (slices: mm2, pictures: pixels);
    - with ``min_voxels`` also ``<scan>_instances`` and ``instances.csv``: connected components, their number, class,
      size and centre (RAS+ millimetres; pictures: pixels, from the centre of the upper left one).

    Args:
        predictions: name, grid and class indices ``[*shape]`` of each scan.
        classes: what the indices mean.
        folder: where the files go.
        min_voxels: smallest component of a scan with that grid; None: no components.

    Returns:
        The files.
    """
    files: list[Path] = []
    sizes: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    taken: set[Path] = set()
    for name, grid, labels in predictions:
        stem = file_stem(folder, name, taken)
        files.append(write_label_map(stem, classes.decode(grid.to_file(labels)), grid))
        sizes += _size_rows(name, grid, labels, classes)
        if min_voxels is not None:
            found = components(labels, len(classes.names), min_voxels(grid))
            stored = grid.to_file(found.ids)
            files.append(write_label_map(stem.with_name(f"{stem.name}_instances"), _smallest_type(stored), grid))
            instances += _instance_rows(name, grid, found, stored, classes)
    files += [write_table(folder / file, rows) for file, rows in ((SIZES, sizes), (INSTANCES, instances)) if rows]
    return files


def write_label_map(stem: Path, codes: np.ndarray, grid: ScanGrid) -> Path:
    """Write a label map on the voxels of a scan's file, with its axes and forms.

    Args:
        stem: the path without its ending.
        codes: ``[X, Y, Z]`` unsigned integers.
        grid: of the scan.

    Returns:
        The path: ``.png`` for pictures, else ``.nii.gz``.
    """
    if grid.is_picture:
        picture = Image.fromarray(np.ascontiguousarray(codes[:, :, 0].T))  # rows of a PNG run along y
        return write_atomically(Path(f"{stem}.png"), lambda target: picture.save(target, format="PNG"))
    image = nifti_on(codes, grid.affine, grid.path)
    return write_atomically(Path(f"{stem}.nii.gz"), lambda target: nibabel.save(image, target))


def file_stem(folder: Path, name: str, taken: set[Path]) -> Path:
    """Where a scan's map goes: its name without the ending, unless another scan has the same."""
    base = name
    for suffix in (".nii.gz", Path(name).suffix):
        if format_by_name(name) is not None and suffix and base.lower().endswith(suffix.lower()):
            base = base[: -len(suffix)]
            break
    stem = folder / base if folder / base not in taken else folder / name
    taken.add(stem)
    return stem


def _size_rows(name: str, grid: ScanGrid, labels: np.ndarray, classes: LabelClasses) -> list[dict[str, Any]]:
    counts = np.bincount(labels.ravel(), minlength=classes.num_channels)[1:]
    return [
        {
            "scan_id": name,
            "class": label,
            "code": code,
            "voxels": int(count),
            "size": round(float(count) * grid.voxel, 6),
            "unit": grid.unit,
        }
        for label, code, count in zip(classes.names, classes.codes[1:], counts, strict=True)
    ]


def _instance_rows(
    name: str, grid: ScanGrid, found: Components, stored: np.ndarray, classes: LabelClasses
) -> list[dict[str, Any]]:
    rows = []
    for number, (index, voxels) in enumerate(zip(found.classes, found.voxels, strict=True), start=1):
        centre = grid.affine @ [*np.argwhere(stored == number).mean(axis=0), 1.0]
        rows.append(
            {
                "scan_id": name,
                "instance": number,
                "class": classes.names[index - 1],
                "voxels": int(voxels),
                "size": round(float(voxels) * grid.voxel, 6),
                "unit": grid.unit,
                **{axis: round(float(value), 3) for axis, value in zip("xyz", centre[:3], strict=True)},
            }
        )
    return rows


def _smallest_type(ids: np.ndarray) -> np.ndarray:
    return ids.astype(np.min_scalar_type(int(ids.max())))
