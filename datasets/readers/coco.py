# SPDX-License-Identifier: Apache-2.0
"""Objects from COCO files: boxes, their categories, their outlines."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.errors import ScanError
from datasets.readers.paths import require_files, resolve_inside

logger = logging.getLogger(__name__)

Box = list[float]
Outline = list[list[float]] | dict[str, Any]
_FORM = "It needs `images` with `id` and `file_name`, and `annotations` with `image_id` and `bbox`."


@dataclass
class Objects:
    """The objects of one picture; the three lists are parallel.

    Attributes:
        boxes: ``[x, y, width, height]`` in pixels of the picture as it is looked at.
        labels: category names; None where the file gives no category.
        outlines: COCO's ``segmentation``: polygons ``[[x0, y0, x1, y1, ...], ...]`` in pixels, or a run-length code
            ``{"size": [height, width], "counts": numbers or text}``; None where there is none.
    """

    boxes: list[Box] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    outlines: list[Outline | None] = field(default_factory=list)


def read_json(path: Path) -> Any:
    """Read a JSON file, or raise a ScanError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ScanError(path, f"not readable as JSON ({error})", "Repair the file.") from error


def read_coco(path: Path) -> dict[str, Objects]:
    """Return the objects of each picture of a COCO file.

    Annotations with ``iscrowd`` mark places with many objects that nobody told apart: they are no objects to learn
    from, and are left out with a line in the log.

    Args:
        path: a COCO instances file.

    Returns:
        Objects by the picture's ``file_name``; empty for pictures without any.

    Raises:
        ScanError: no COCO file, or one with a mistake; names the entry.
    """
    content = read_json(path)
    lists = [content.get(key) for key in ("images", "annotations")] if isinstance(content, dict) else [None]
    if not all(isinstance(entries, list) for entries in lists):
        raise ScanError(path, "no COCO file: `images` and `annotations` must be lists", _FORM)
    named = dict(_each(path, content, "images", lambda entry: (entry["id"], str(entry["file_name"]))))
    categories = dict(_each(path, content, "categories", lambda entry: (entry["id"], str(entry["name"]))))
    found: dict[str, Objects] = {name: Objects() for name in named.values()}
    crowds = 0

    def add(entry: Mapping[str, Any]) -> None:
        nonlocal crowds
        objects = found[named[_known(entry["image_id"], named, "image_id")]]
        if entry.get("iscrowd"):
            crowds += 1
            return
        box, outline = check_box(entry["bbox"]), check_outline(entry.get("segmentation"))
        category = entry.get("category_id") if categories else None
        objects.labels.append(None if category is None else categories[_known(category, categories, "category_id")])
        objects.boxes.append(box)
        objects.outlines.append(outline)

    _each(path, content, "annotations", add)
    if crowds:
        logger.warning("%s: %d annotations of crowds (iscrowd) are no single objects and were left out", path, crowds)
    return found


def _each(path: Path, content: Mapping[str, Any], name: str, read: Callable[[Any], Any]) -> list[Any]:
    """Apply a function to the entries of a list; its errors name the entry."""
    entries = content.get(name) or []
    results = []
    for index, entry in enumerate(entries):
        try:
            results.append(read(entry))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise ScanError(path, f"no COCO file: {name}[{index}]: {reason}"[:400], _FORM) from error
    return results


def _known(number: Any, names: Mapping[Any, str], key: str) -> Any:
    if number not in names:
        raise ValueError(f"{key} {number!r} is not listed")
    return number


def objects_of(objects: Mapping[str, Objects], file: str) -> Objects | None:
    """Objects of a file named by its path in the set or by its bare name, None if it is not listed."""
    found = objects.get(file)
    return objects.get(PurePosixPath(file).name) if found is None else found


def add_objects(item: dict[str, Any], objects: Objects) -> None:
    """Add ``boxes``, ``box_labels`` and ``outlines`` to an item of a datalist, in place.

    Objects without a category have the class of their scan, or are called "object" if that has none either.
    """
    usual = item.get("label_name", "object")
    item["boxes"] = objects.boxes
    item["box_labels"] = [usual if label is None else label for label in objects.labels]
    item["outlines"] = objects.outlines


def add_coco(root: Path, items: Sequence[dict[str, Any]], pattern: str) -> None:
    """Add the objects of COCO files to the items that these list, in place.

    Args:
        root: folder of the set.
        items: its items.
        pattern: path of the files relative to ``root``; ``{split}`` stands for train, val or test.

    Raises:
        ScanError: a file that is missing, damaged or outside of the folder, or that lists none of the scans.
    """
    for split in sorted({item["split"] for item in items}):
        path = resolve_inside(root, pattern.replace("{split}", split), root, "coco")
        require_files(root, [path])
        objects = read_coco(path)
        members = [item for item in items if item["split"] == split]
        listed = [(item, found) for item in members if (found := objects_of(objects, item["scan_id"])) is not None]
        if not listed:
            problem = f"it lists none of the {len(members)} scans of the split {split!r}"
            raise ScanError(path, problem, f"Its `file_name` must be like {members[0]['scan_id']!r}.")
        for item, found in listed:
            add_objects(item, found)


def check_box(values: Any, spatial_dims: int = 2) -> Box:
    """Return a box ``[x, y, width, height]``, or ``[x, y, z, width, height, depth]`` in 3D.

    Raises:
        ValueError: not so many numbers, with positive sides.
    """
    box = [float(value) for value in values]
    if len(box) != 2 * spatial_dims or not all(abs(value) < 1e7 for value in box) or min(box[spatial_dims:]) <= 0:
        form = "x y width height" if spatial_dims == 2 else "x y z width height depth"
        raise ValueError(f"a box is {form} with positive sides, received {values!r}")
    return box


def check_outline(value: Any) -> Outline | None:
    """Return COCO's ``segmentation`` if it is well formed; None for nothing or an empty list.

    Raises:
        ValueError: neither polygons of three or more points, nor a run-length code that fills its size.
    """
    if value is None or value == []:
        return None
    if isinstance(value, dict):
        return _check_code(value)
    polygons = [[float(number) for number in polygon] for polygon in value]
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2 or not all(abs(number) < 1e7 for number in polygon):
            raise ValueError(f"a polygon is x0 y0 x1 y1 x2 y2 ..., of three points at least, received {polygon!r}")
    return polygons


def _check_code(value: dict[str, Any]) -> dict[str, Any]:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"a run-length code has a `size` of height and width, received {size!r}")
    if isinstance(counts, str) and counts:
        return {"size": size, "counts": counts}
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError("the `counts` of a run-length code are numbers of pixels, or their compressed text")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"the `counts` add up to {sum(counts)} pixels, the `size` {size} to {size[0] * size[1]}")
    return {"size": size, "counts": counts}
