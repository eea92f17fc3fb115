# SPDX-License-Identifier: Apache-2.0
"""A folder with ``manifest.csv``: file,label,split and optionally group,mask,box_xywh,prompt; COCO files beside."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from datasets.errors import ScanError

NAME = "manifest.csv"
REQUIRED = ("file", "split")
SPLITS = ("train", "val", "test")


def matches(root: Path) -> bool:
    """Whether the folder has a manifest."""
    return (root / NAME).is_file()


def read(root: Path, *, label_column: str = "label", **_: Any) -> list[dict[str, Any]]:
    """List the scans of the manifest.

    Raises:
        ScanError: naming manifest and line, if a column is missing, a split unknown, a file absent, listed twice or
            outside the folder.
    """
    rows = _rows(root / NAME, label_column)
    boxes: dict[str, dict[str, list[list[float]]]] = {}
    items = [_item(root, line, row, label_column, boxes) for line, row in rows]
    missing = [item["scan_id"] for item in items if not Path(item["image"]).exists()]
    if missing:
        some = ", ".join(missing[:3])
        raise ScanError(root / NAME, f"{len(missing)} listed files do not exist ({some}, ...)", "Correct column `file`")
    return items


def _rows(path: Path, label_column: str) -> list[tuple[int, dict[str, str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScanError(path, f"cannot be read ({error})", "It must be a UTF-8 CSV file with a header") from error
    absent = [name for name in (*REQUIRED, label_column) if name not in columns]
    if absent:
        raise ScanError(path, f"no column {', '.join(absent)}", f"It has the columns {', '.join(columns) or 'none'}")
    if not rows:
        raise ScanError(path, "lists no scans", "Add one line a scan")
    return rows


def _item(
    root: Path, line: int, row: dict[str, str], label_column: str, boxes: dict[str, dict[str, list[list[float]]]]
) -> dict[str, Any]:
    place = f"{root / NAME}, line {line}"
    split = (row["split"] or "").strip()
    if split not in SPLITS:
        raise ScanError(place, f"split {split!r}", f"A split is one of {', '.join(SPLITS)}")
    path = inside(root, row["file"], place)
    item: dict[str, Any] = {"image": str(path), "scan_id": Path(row["file"]).as_posix(), "split": split}
    if row.get(label_column):
        item["label_name"] = row[label_column]
    for name in ("group", "prompt"):
        if row.get(name):
            item[name] = row[name]
    mask = row.get("mask") or ""
    if mask.endswith(".json"):
        item["boxes"] = _coco_boxes(root, mask, place, boxes).get(path.name, [])
    elif mask:
        item["mask"] = str(inside(root, mask, place))
    if row.get("box_xywh"):
        item["boxes"] = [_box(row["box_xywh"], place)]
    return item


def inside(root: Path, name: str | None, place: str | Path) -> Path:
    """Resolve a path of a list that came with the data; it may not leave the folder.

    Raises:
        ScanError: if it is empty, absolute, or leads out of ``root``, through symbolic links too.
    """
    if not name:
        raise ScanError(place, "no file named", "Fill the column")
    path = (root / name).resolve()
    if Path(name).is_absolute() or not path.is_relative_to(root.resolve()):
        raise ScanError(place, f"{name!r} leads out of {root}", "Paths must be relative and stay inside the folder")
    return path


def _box(text: str, place: str) -> list[float]:
    try:
        box = [float(number) for number in text.split()]
    except ValueError:
        box = []
    if len(box) != 4 or min(box[2:]) <= 0:
        raise ScanError(place, f"box_xywh {text!r}", "A box is four numbers: x y width height, in pixels")
    return box


def _coco_boxes(
    root: Path, name: str, place: str, known: dict[str, dict[str, list[list[float]]]]
) -> dict[str, list[list[float]]]:
    if name not in known:
        path = inside(root, name, place)
        try:
            content = json.loads(path.read_text())
            files = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
            known[name] = {file: [] for file in files.values()}
            for annotation in content["annotations"]:
                known[name][files[annotation["image_id"]]].append([float(side) for side in annotation["bbox"]])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ScanError(
                path, f"not a COCO file ({error!r})", "It needs images and annotations with bbox"
            ) from error
    return known[name]
