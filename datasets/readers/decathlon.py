# SPDX-License-Identifier: Apache-2.0
"""Folders with a dataset.json as the Medical Segmentation Decathlon and MONAI write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.errors import ScanError
from datasets.formats import format_by_name
from datasets.readers.coco import read_json
from datasets.readers.paths import require_files, require_inside, resolve_inside, scan_id

_LISTS = {"training": "train", "validation": "val", "test": "test"}
_FORM = 'Its lists are "training", "validation" and "test", of paths or of {"image": path, "label": path or class}.'


def read_decathlon(root: Path) -> list[dict[str, Any]]:
    """Return the items of a folder with a dataset.json.

    A label that is a path of a scan is the item's ``mask``; any other label is its class.

    Args:
        root: the folder; all paths are relative to it and stay inside.

    Raises:
        ScanError: with list and entry, for whatever is wrong with it.
    """
    source = root / "dataset.json"
    require_inside(root, [source], root)
    content = read_json(source)
    if not isinstance(content, dict) or not any(isinstance(content.get(name), list) for name in _LISTS):
        raise ScanError(source, "no Decathlon datalist", _FORM)
    items = list(_items(root, source, content))
    seen: set[str] = set()
    for item in items:
        if item["scan_id"] in seen:
            raise ScanError(source, f"{item['scan_id']!r} is listed twice", "Keep one of the two entries.")
        seen.add(item["scan_id"])
    if not items:
        raise ScanError(source, "it lists no scan", _FORM)
    require_files(source, (Path(item[key]) for item in items for key in ("image", "mask") if key in item))
    return items


def _items(root: Path, source: Path, content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    names = content.get("labels") if isinstance(content.get("labels"), dict) else {}
    for list_name, split in _LISTS.items():
        for index, entry in enumerate(content.get(list_name) or []):
            where = f"{list_name}[{index}]"
            fields = {"image": entry} if isinstance(entry, str) else entry
            if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
                raise ScanError(source, f"{where}: no path of one image in {entry!r}"[:300], _FORM)
            if "box" in fields:
                problem = f"{where}: boxes (`box`), in millimetres of a world whose axes the file does not tell"
                raise ScanError(source, problem, "List them in the column box_xyzwhd of a manifest.csv, in voxels.")
            path = resolve_inside(root, fields["image"], source, where)
            item = {"image": str(path), "scan_id": scan_id(root, path), "split": split}
            yield {**item, **_label(root, source, where, fields.get("label"), names or {})}


def _label(root: Path, source: Path, where: str, label: Any, names: dict[str, Any]) -> dict[str, str]:
    if label is None:
        return {}
    if isinstance(label, str) and format_by_name(label) is not None:
        return {"mask": str(resolve_inside(root, label, source, where))}
    if isinstance(label, str | int):
        return {"label_name": str(names.get(str(label), label))}
    raise ScanError(source, f"{where}: label {label!r}"[:300], "It must be one path, or one class (text or number).")
