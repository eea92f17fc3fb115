# SPDX-License-Identifier: Apache-2.0
"""A folder with a MONAI/Decathlon ``dataset.json``: lists ``training``, ``validation``, ``test``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets.errors import ScanError
from datasets.readers.manifest import inside

NAME = "dataset.json"
LISTS = {"training": "train", "validation": "val", "test": "test"}


def matches(root: Path) -> bool:
    """Whether the folder has a ``dataset.json``."""
    return (root / NAME).is_file()


def read(root: Path, **_: Any) -> list[dict[str, Any]]:
    """List the scans; a string label is a mask, a number a class.

    Raises:
        ScanError: if the file is damaged, has none of the lists, or names a file that is absent or outside.
    """
    path = root / NAME
    try:
        content = json.loads(path.read_text())
        entries = [(split, entry) for name, split in LISTS.items() for entry in content.get(name, [])]
    except (OSError, ValueError, AttributeError) as error:
        raise ScanError(
            path, f"not a datalist ({error})", "See MONAI's load_decathlon_datalist for the format"
        ) from error
    if not entries:
        raise ScanError(path, "lists no scans", f"It needs one of the lists {', '.join(LISTS)}")
    items = [_item(root, split, entry) for split, entry in entries]
    missing = [item["scan_id"] for item in items if not Path(item["image"]).exists()]
    if missing:
        raise ScanError(path, f"{len(missing)} listed files do not exist ({missing[0]}, ...)", "Correct the lists")
    return items


def _item(root: Path, split: str, entry: Any) -> dict[str, Any]:
    fields = {"image": entry} if isinstance(entry, str) else dict(entry) if isinstance(entry, dict) else {}
    name = fields.get("image")
    if not isinstance(name, str):
        raise ScanError(root / NAME, f"entry {entry!r} of {split} names no image", "Write {{'image': path}}")
    path = inside(root, name, root / NAME)
    item: dict[str, Any] = {"image": str(path), "scan_id": path.relative_to(root.resolve()).as_posix(), "split": split}
    label = fields.get("label")
    if isinstance(label, str):
        item["mask"] = str(inside(root, label, root / NAME))
    elif isinstance(label, int):
        item["label_name"] = str(label)
    return item
