# SPDX-License-Identifier: Apache-2.0
"""`load_datalist`: one list of scans from any of the accepted folders."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.decoding import scan_dims
from datasets.errors import ScanError
from datasets.readers.class_folders import label_by_folders
from datasets.readers.coco import add_coco
from datasets.readers.decathlon import read_decathlon
from datasets.readers.manifest import SPLITS, read_manifest
from datasets.readers.paths import no_scans
from datasets.readers.plain import scans_below

logger = logging.getLogger(__name__)

_SHOWN = 12  # labels in the log
_HOW_TO_SPLIT = "Set the column `split` of a manifest.csv, or use folders train/val/test."
_PHANTOM = re.compile(r"phantom:(?P<kind>\w+)_(?P<dims>[23])d")


@dataclass(frozen=True)
class Datalist:
    """The scans of a data set.

    Attributes:
        root: its folder.
        layout: how the folder was read: "manifest", "decathlon", "class folders", ...
        items: one dictionary a scan: ``image`` (absolute path; a DICOM series has its folder, and ``series_uid``),
            ``scan_id`` (path relative to root, unique), ``split``, and where known ``label`` (index into classes),
            ``label_name``, ``group`` (patient), ``mask`` (absolute path), ``prompt`` (of the manifest), and three
            parallel lists: ``boxes`` (``[x, y, width, height]`` in pixels of the picture as it is looked at, from its
            upper left corner, so that pixel i spans i to i + 1; ``[x, y, z, width, height, depth]`` in voxels in 3D;
            see `datasets.geometry` for slices and volumes that are turned in reading), ``box_labels`` (category names),
            ``outlines`` (COCO polygons or run-length code, or None). An empty list of boxes says that somebody looked
            and found nothing. What DICOM tags say: `datasets.readers.dicom.describing_tags`.
        classes: names, sorted.
        spatial_dims: 2 or 3, found from the first readable scan.
        categories: names of all ``box_labels``, sorted.
    """

    root: Path
    layout: str
    items: list[dict[str, Any]]
    classes: list[str]
    spatial_dims: int
    categories: list[str] = field(default_factory=list)

    def split(self, name: str) -> list[dict[str, Any]]:
        """Items of the split "train", "val" or "test"; empty if it has none."""
        if name not in SPLITS:
            raise ValueError(f"Unknown split {name!r}; known: {', '.join(SPLITS)}.")
        return [item for item in self.items if item["split"] == name]

    def require(self, name: str, minimum: int = 1) -> list[dict[str, Any]]:
        """Items of a split.

        Raises:
            ScanError: if there are fewer than `minimum`.
        """
        items = self.split(name)
        if len(items) < minimum:
            counts = ", ".join(f"{split} {len(self.split(split))}" for split in SPLITS)
            problem = f"{minimum} scans are needed in the split {name!r}, found {len(items)} ({counts})"
            raise ScanError(self.root, problem, _HOW_TO_SPLIT)
        return items


def load_datalist(
    dataset_dir: str | Path,
    *,
    label_column: str = "label",
    seed: int = 0,
    phantom_root: str | Path = "phantoms",
    coco: str | None = None,
) -> Datalist:
    """List the scans of a folder.

    The first that fits is taken: ``manifest.csv``; a Decathlon ``dataset.json``; folders of splits or classes; a plain
    folder of scans; a folder of DICOM series. See `datasets.readers` for each.

    Args:
        dataset_dir: the folder, or "phantom:<kind>_<2d|3d>" for generated scans, made on first use.
        label_column: manifest column with the class names. Only "label" may be absent: no scan is labelled then.
        seed: of the split of class folders without splits.
        phantom_root: where generated scans are kept.
        coco: COCO files that tell boxes and outlines, in place of whatever else does; a path relative to the folder, in
            which ``{split}`` stands for train, val and test, such as "coco_lungs_{split}.json".

    Raises:
        ScanError: no such folder, no scan in it, or a list with a mistake.
        ValueError: an unknown phantom.
    """
    root = _root(dataset_dir, phantom_root)
    if (root / "manifest.csv").is_file():
        layout, items = "manifest", read_manifest(root, label_column, boxes=coco is None)
    elif (root / "dataset.json").is_file():
        layout, items = "decathlon", read_decathlon(root)
    else:
        items = scans_below(root, root)
        if not items:
            raise no_scans(root)
        layout = label_by_folders(items, seed)
    classes = sorted({item["label_name"] for item in items if "label_name" in item})
    for item in items:
        if "label_name" in item:
            item["label"] = classes.index(item["label_name"])
    if coco is not None:
        add_coco(root, items, coco)
    categories = sorted({name for item in items for name in item.get("box_labels", ())})
    datalist = Datalist(root, layout, items, classes, _first_dims(items), categories)
    _check_boxes(datalist)
    counts = Counter(item["split"] for item in items)
    described = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    labels = ", ".join(classes[:_SHOWN]) + (f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else "")
    logger.info("%s: %s, %dD, %s, labels: %s", root, layout, datalist.spatial_dims, described, labels or "none")
    return datalist


def _check_boxes(datalist: Datalist) -> None:
    for item in datalist.items:
        if item.get("boxes") and len(item["boxes"][0]) != 2 * datalist.spatial_dims:
            problem = f"{item['scan_id']}: boxes of {len(item['boxes'][0])} numbers on {datalist.spatial_dims}D scans"
            raise ScanError(datalist.root, problem, "Use box_xywh and COCO files in 2D, box_xyzwhd in 3D.")


def _root(dataset_dir: str | Path, phantom_root: str | Path) -> Path:
    if str(dataset_dir).startswith("phantom:"):
        match = _PHANTOM.fullmatch(str(dataset_dir))
        if match is None:
            raise ValueError(f"Unknown phantom {dataset_dir!r}; write for example phantom:brain_mri_2d.")
        from datasets.phantoms import ensure_phantoms

        return Path(ensure_phantoms(match["kind"], int(match["dims"]), root=phantom_root)).absolute()
    root = Path(dataset_dir).expanduser().absolute()
    if not root.is_dir():
        problem = "it is a file" if root.exists() else "the folder does not exist"
        raise ScanError(root, problem, "Set --dataset_dir to a folder of scans.")
    return root


def _first_dims(items: Sequence[dict[str, Any]]) -> int:
    first: ScanError | None = None
    for item in items:
        try:
            return scan_dims(item["image"], item.get("series_uid"))
        except ScanError as error:
            first = first or error
    raise first or ValueError("No items.")
