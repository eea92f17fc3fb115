# SPDX-License-Identifier: Apache-2.0
"""Folders with a manifest.csv."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.errors import ScanError
from datasets.readers.coco import Objects, add_objects, check_box, objects_of, read_coco
from datasets.readers.paths import require_files, require_inside, resolve_inside, scan_id

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
LABEL = "label"
_COLUMNS = "Columns are file,label,split and optionally group,mask,box_xywh,box_xyzwhd,prompt, separated by commas."

_BOX_COLUMNS = {"box_xywh": (2, "x y w h, in pixels"), "box_xyzwhd": (3, "x y z w h d, in voxels")}

Row = tuple[int, dict[str, str]]


def read_manifest(root: Path, label_column: str = LABEL, boxes: bool = True) -> list[dict[str, Any]]:
    """Return the items of a folder with a manifest.

    Columns: ``file``, ``split`` (train, val, test) and the label's; optionally ``group`` (patient), ``mask`` (a label
    map, or the name of a COCO file), ``box_xywh`` (four numbers a box, pixels of the picture as stored), ``box_xyzwhd``
    (six numbers a box, voxels of the volume as stored) and ``prompt``. Others are passed over. Boxes come from the COCO
    file of the column ``mask``, or ``coco_<split>.json``, where it lists the picture, else from ``box_xywh`` or
    ``box_xyzwhd``.

    Args:
        root: the folder.
        label_column: column of the class names; empty cells are unlabelled scans. The usual "label" may be absent,
            since pretraining needs no classes: all scans are unlabelled then. Any other name was asked for and must be
            there.
        boxes: whether to look for boxes and outlines.

    Raises:
        ScanError: with the line, for whatever is wrong with the manifest.
    """
    manifest = root / "manifest.csv"
    require_inside(root, [manifest], root)
    rows = list(_read_rows(manifest, label_column))
    if not rows:
        raise ScanError(manifest, "it lists no scan", _COLUMNS)
    reader = _Objects(root, manifest) if boxes else None
    items: list[dict[str, Any]] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        item = _item(root, manifest, line, row, label_column, reader)
        if item["scan_id"] in lines:
            problem = f"line {line}: {item['scan_id']!r} is listed twice, first in line {lines[item['scan_id']]}"
            raise ScanError(manifest, problem, "Keep one of the two lines.")
        lines[item["scan_id"]] = line
        items.append(item)
    require_files(manifest, (Path(item[key]) for item in items for key in ("image", "mask") if key in item))
    return items


def _read_rows(manifest: Path, label_column: str) -> Iterator[Row]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            _check_header(manifest, [str(name).strip() for name in reader.fieldnames or []], label_column)
            for row in reader:
                yield reader.line_num, _clean(manifest, reader.line_num, row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScanError(manifest, f"not readable as CSV in UTF-8 ({error})", "Save it as CSV in UTF-8.") from error


def _check_header(manifest: Path, names: list[str], label_column: str) -> None:
    needed = ["file", "split"] if label_column == LABEL else ["file", label_column, "split"]
    missing = [name for name in needed if name not in names]
    if missing:
        found = ",".join(names) or "nothing"
        problem = f"line 1: the column {' and '.join(map(repr, missing))} is missing, found {found}"
        raise ScanError(manifest, problem, _COLUMNS)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ScanError(manifest, f"line 1: the column {twice[0]!r} is there twice", "Keep one of the two.")
    if label_column not in names:
        logger.info("%s: no column %r, so the scans are unlabelled (columns: %s)", manifest, LABEL, ",".join(names))


def _clean(manifest: Path, line: int, row: dict[Any, Any]) -> dict[str, str]:
    if None in row or None in row.values():
        count = "more" if None in row else "fewer"
        raise ScanError(manifest, f"line {line}: {count} fields than the header", 'Put fields with commas in "quotes".')
    return {str(key).strip(): str(value).strip() for key, value in row.items()}


def _item(
    root: Path, manifest: Path, line: int, row: dict[str, str], label_column: str, objects: _Objects | None
) -> dict[str, Any]:
    where = f"line {line}"
    if not row["file"]:
        raise ScanError(manifest, f"{where}: the column 'file' is empty", "Name a file, or take the line out.")
    if row["split"] not in SPLITS:
        raise ScanError(manifest, f"{where}: split {row['split']!r}", f"It must be one of {', '.join(SPLITS)}.")
    path = resolve_inside(root, row["file"], manifest, where)
    item: dict[str, Any] = {"image": str(path), "scan_id": scan_id(root, path), "split": row["split"]}
    optional = {"label_name": row.get(label_column), "group": row.get("group"), "prompt": row.get("prompt")}
    item.update({key: value for key, value in optional.items() if value})
    mask = row.get("mask", "")
    if mask and not mask.lower().endswith(".json"):
        item["mask"] = str(resolve_inside(root, mask, manifest, where))
    found = objects.find(line, row, item["scan_id"]) if objects else None
    if found is not None:
        add_objects(item, found)
    return item


class _Objects:
    """Objects of a manifest's scans; each COCO file is read once."""

    def __init__(self, root: Path, manifest: Path) -> None:
        self.root, self.manifest = root, manifest
        self.files: dict[Path, dict[str, Objects]] = {}

    def find(self, line: int, row: dict[str, str], file: str) -> Objects | None:
        """Return the objects of a scan, or None if nothing tells them."""
        named = row.get("mask", "")
        if named.lower().endswith(".json"):
            path = resolve_inside(self.root, named, self.manifest, f"line {line}")
            require_files(self.manifest, [path])
        else:
            path = resolve_inside(self.root, f"coco_{row['split']}.json", self.manifest, f"line {line}")
        if path not in self.files:
            self.files[path] = read_coco(path) if path.is_file() else {}
        listed = objects_of(self.files[path], file)
        return self._from_cells(line, row) if listed is None else listed

    def _from_cells(self, line: int, row: dict[str, str]) -> Objects | None:
        filled = [name for name in _BOX_COLUMNS if row.get(name)]
        if not filled:
            return None
        if len(filled) > 1:
            raise ScanError(self.manifest, f"line {line}: boxes in {' and in '.join(filled)}", "Fill one of the two.")
        (column,) = filled
        dims, units = _BOX_COLUMNS[column]
        numbers = row[column].split()
        try:
            boxes = [check_box(numbers[at : at + 2 * dims], dims) for at in range(0, len(numbers), 2 * dims)]
        except ValueError as error:
            raise ScanError(self.manifest, f"line {line}: {column}: {error}", f"Write {units}.") from error
        return Objects(boxes, [None] * len(boxes), [None] * len(boxes))
