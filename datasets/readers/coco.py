# SPDX-License-Identifier: Apache-2.0
"""Boxes from COCO files."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.errors import ScanError

Boxes = list[list[float]]


def read_json(path: Path) -> Any:
    """Read a JSON file, or raise a ScanError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ScanError(path, f"not readable as JSON ({error})", "Repair the file.") from error


def read_coco_boxes(path: Path) -> dict[str, Boxes]:
    """Return the boxes of each picture of a COCO file.

    Args:
        path: a COCO instances file.

    Returns:
        Boxes ``[x, y, width, height]`` in pixels, by the picture's ``file_name``; empty for pictures without any.

    Raises:
        ScanError: no COCO file.
    """
    content = read_json(path)
    try:
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        boxes: dict[str, Boxes] = {name: [] for name in names.values()}
        for annotation in content["annotations"]:
            boxes[names[annotation["image_id"]]].append(check_box(annotation["bbox"]))
    except (KeyError, TypeError, ValueError) as error:
        problem = f"no COCO file: {type(error).__name__}: {error}"
        raise ScanError(path, problem, "It needs `images`, and `annotations` with `image_id` and `bbox`.") from error
    return boxes


def boxes_of(boxes: dict[str, Boxes], file: str) -> Boxes | None:
    """Boxes of a file named by its path in the set or by its bare name, None if it is not listed."""
    found = boxes.get(file)
    return boxes.get(PurePosixPath(file).name) if found is None else found


def check_box(values: Any) -> list[float]:
    """Return a box ``[x, y, width, height]``.

    Raises:
        ValueError: not four numbers with a positive width and height.
    """
    box = [float(value) for value in values]
    if len(box) != 4 or not all(abs(value) < 1e7 for value in box) or min(box[2:]) <= 0:
        raise ValueError(f"a box is x y width height with positive sides, received {values!r}")
    return box
