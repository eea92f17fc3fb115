# SPDX-License-Identifier: Apache-2.0
"""Folders of phantoms: manifest, images, label maps, boxes and a record of how they were made."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from datasets.phantoms.baseline import histogram_baseline
from datasets.phantoms.fields import Array
from datasets.phantoms.sample import SPECS, Phantom, check_request, full_size, make_phantom

GENERATOR_VERSION = 1
"""Raised whenever the same parameters give other scans; older folders are then made anew."""

COLUMNS = ("file", "label", "split", "group", "mask", "box_xywh", "prompt")
SPLITS = ("train", "val", "test")
DEFAULT_COUNTS = MappingProxyType({2: (96, 24, 48), 3: (18, 6, 9)})
RECORD = "phantom.json"
_STALE_SECONDS = 3600.0

logger = logging.getLogger(__name__)


def ensure_phantoms(
    kind: str,
    spatial_dims: int,
    root: str | Path = "phantoms",
    *,
    size: int | Sequence[int] | None = None,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Path:
    """Return the folder `<root>/<kind>_<d>d`, generating it where it is missing or was made otherwise.

    The folder appears whole or not at all: it is written beside its place and moved there at the end.

    Args:
        kind: one of `KINDS`.
        spatial_dims: 2 or 3, as `KINDS` allows.
        root: folder of all phantoms.
        size: voxels an axis; None for 96 in 2D, 48 (head) or 64 (chest) in 3D.
        counts: scans a split, names out of train, val and test; None for 96, 24, 48 in 2D and 18, 6, 9 in 3D.
            Scan i of a split does not depend on the counts.
        seed: seed of the whole set.

    Returns:
        The folder, with `manifest.csv`, `images/`, `masks/`, `regions.json`, `phantom.json`, and in 2D
        `coco_<split>.json`.

    Raises:
        ValueError: unknown kind, dimensions, size or split.
        FileExistsError: the place is taken by a folder that this function did not make.
    """
    check_request(kind, spatial_dims)
    parameters = {
        "generator": GENERATOR_VERSION,
        "kind": kind,
        "spatial_dims": spatial_dims,
        "size": list(full_size(kind, spatial_dims, size)),
        "counts": _full_counts(spatial_dims, counts),
        "seed": seed,
    }
    folder = Path(root) / f"{kind}_{spatial_dims}d"
    if _made_with(folder, parameters):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True) as work:
        fresh = Path(work) / "new"
        _write_all(fresh, parameters)
        _publish(fresh, folder, Path(work) / "old", parameters)
    return folder


def _full_counts(spatial_dims: int, counts: Mapping[str, int] | None) -> dict[str, int]:
    if counts is None:
        return dict(zip(SPLITS, DEFAULT_COUNTS[spatial_dims], strict=True))
    if set(counts) - set(SPLITS) or sum(counts.values()) < 1 or min(counts.values()) < 0:
        raise ValueError(f"Counts of phantoms {dict(counts)} do not fit: give {', '.join(SPLITS)}, 0 or more each.")
    return {split: int(counts.get(split, 0)) for split in SPLITS}


def _made_with(folder: Path, parameters: dict[str, Any]) -> bool:
    """Whether the folder is complete and was made with these parameters."""
    if not folder.exists():
        return False
    record = folder / RECORD
    if not record.is_file():
        raise FileExistsError(f"{folder} holds no {RECORD}: it is no folder of phantoms. Choose another phantom root.")
    return json.loads(record.read_text(encoding="utf-8")).get("parameters") == parameters


def _remove_stale(folder: Path) -> None:
    """Clear what a killed run left; younger folders may belong to a run that is still writing."""
    for left in folder.parent.glob(f".{folder.name}-*"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _publish(fresh: Path, folder: Path, old: Path, parameters: dict[str, Any]) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.replace(folder, old)
    try:
        os.replace(fresh, folder)
    except OSError:  # another process was faster: its folder serves as well if it is the same
        if not _made_with(folder, parameters):
            raise


def _write_all(folder: Path, parameters: dict[str, Any]) -> None:
    kind, dims = parameters["kind"], parameters["spatial_dims"]
    logger.info("Generating %d %s phantoms in %dD", sum(parameters["counts"].values()), kind, dims)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    spec = SPECS[kind]
    rows, phantoms = [], []
    for split, name, phantom in _samples(parameters):
        rows.append(_write_sample(folder, split, name, phantom))
        phantoms.append(phantom)
    _write_manifest(folder / "manifest.csv", rows)
    _write_json(folder / "regions.json", {"regions": {k: list(v) for k, v in spec.regions.items()}, "outside": 0})
    if dims == 2:
        for split in SPLITS:
            pairs = [(row, p) for row, p in zip(rows, phantoms, strict=True) if row["split"] == split]
            _write_json(folder / f"coco_{split}.json", _coco(pairs))
    accuracy = histogram_baseline(folder)
    tested = parameters["counts"]["test"]
    message = "Classes of %s told apart by grey-level histograms alone: accuracy %.2f on %d test scans, chance %.2f"
    logger.info(message, kind, accuracy, tested, 1 / len(spec.classes))
    record: dict[str, Any] = {"parameters": parameters, "classes": sorted(spec.classes), "prompt": spec.prompt}
    record["histogram_accuracy"] = None if np.isnan(accuracy) else round(accuracy, 4)
    record["histogram_test_scans"] = tested  # a handful of scans scatters widely around chance
    _write_json(folder / RECORD, record)


def _samples(parameters: dict[str, Any]) -> Iterator[tuple[str, str, Phantom]]:
    kind, dims = parameters["kind"], parameters["spatial_dims"]
    classes = list(SPECS[kind].classes)
    for number, split in enumerate(SPLITS):
        for i in range(parameters["counts"][split]):
            seed = (parameters["seed"], number, i)
            label = classes[i % len(classes)]
            yield split, f"{split}_{i:04d}", make_phantom(kind, dims, seed, label, parameters["size"])


def _write_sample(folder: Path, split: str, name: str, phantom: Phantom) -> dict[str, str]:
    suffix = ".png" if phantom.image.dtype == np.uint8 else ".nii.gz"
    file, mask = f"images/{name}{suffix}", f"masks/{name}{suffix}"
    for path, array in ((file, phantom.image), (mask, phantom.codes)):
        if suffix == ".png":
            Image.fromarray(np.ascontiguousarray(array.T)).save(folder / path)  # PNG rows run along y
        else:
            _save_nifti(folder / path, array, phantom.spacing)
    box = " ".join(str(v) for v in phantom.boxes[0]) if phantom.image.ndim == 2 else ""
    values = (file, phantom.label, split, f"{split}-patient-{name[-4:]}", mask, box, phantom.prompt)
    return dict(zip(COLUMNS, values, strict=True))


def _save_nifti(path: Path, array: Array, spacing: tuple[float, ...]) -> None:
    """Volumes are RAS+; a slice `[x, y]` runs to the patient's left and back, and is stored as `[X, Y, 1]`."""
    if array.ndim == 2:
        affine = np.diag([-spacing[0], -spacing[1], 5.0, 1.0])
        array = array[..., None]
    else:
        affine = np.diag([*spacing, 1.0])
    middle = (np.array(array.shape) - 1) / 2
    affine[:3, 3] = -affine[:3, :3] @ middle
    nib.save(nib.Nifti1Image(array, affine), path)


def _write_manifest(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _run_lengths(mask: Array) -> list[int]:
    """COCO's uncompressed run lengths of a mask `[x, y]`: down the columns, the first run counts zeros."""
    flat = np.concatenate([[0], mask.ravel().astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    bounds = np.concatenate([[0], edges, [mask.size]] if not len(edges) or edges[-1] < mask.size else [[0], edges])
    return np.diff(bounds).astype(int).tolist()


def _coco(pairs: list[tuple[dict[str, str], Phantom]]) -> dict[str, Any]:
    """COCO instances: one lesion a scan, category = class."""
    names = sorted({row["label"] for row, _ in pairs})
    images, annotations = [], []
    for number, (row, phantom) in enumerate(pairs, start=1):
        width, height = phantom.image.shape
        lesion = phantom.regions["lesion"]
        images.append({"id": number, "file_name": Path(row["file"]).name, "width": width, "height": height})
        annotations.append({
            "id": number,
            "image_id": number,
            "category_id": names.index(phantom.label) + 1,
            "bbox": phantom.boxes[0],
            "area": int(lesion.sum()),
            "iscrowd": 0,
            "segmentation": {"size": [height, width], "counts": _run_lengths(lesion)},
        })  # fmt: skip
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}
