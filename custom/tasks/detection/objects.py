# SPDX-License-Identifier: Apache-2.0
"""What a detector is to find: which objects a data set tells, and the names of their classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from custom.options import mapping
from custom.tasks.labelled import few_labelled
from datasets.decoding import read_scan
from datasets.errors import ScanError

if TYPE_CHECKING:
    from datasets import Datalist

logger = logging.getLogger(__name__)

KINDS = ("boxes", "codes", "components")
_HOW_TO_TELL = (
    "Check --objects and --coco, and that the column `split` of manifest.csv, or folders of these names, say train, val"
    " and test. Training needs all three: val chooses the best epoch, test is used once"
)
_KEPT = ("image", "scan_id", "series_uid", "group")
_TRUTH = ("boxes", "box_labels", "outlines", "mask")


def object_kind(datalist: Datalist, objects: str | None = None) -> str:
    """Return how the objects of a data set are told: "boxes", "codes" or "components" of its label maps.

    Args:
        datalist: the data set.
        objects: what the user asked for; None: boxes where any scan has some, else components.

    Raises:
        ValueError: for an unknown word.
    """
    if objects is not None:
        if objects not in KINDS:
            raise ValueError(f"--objects must be one of {', '.join(KINDS)}, received {objects!r}.")
        return objects
    return "boxes" if any(item.get("boxes") for item in datalist.items) else "components"


def object_classes(datalist: Datalist, kind: str, codes: Mapping[str, Any] | str | None = None) -> list[str]:
    """Return the names of the classes of objects.

    Args:
        datalist: the data set.
        kind: see :func:`object_kind`.
        codes: for label maps: class -> code or codes. None: every code of the training scans is a class.

    Raises:
        ValueError: if nothing tells any object.
    """
    if kind == "boxes":
        names = list(datalist.categories)
    else:
        names = list(mapping(codes, "object_codes")) or _codes_in_use(datalist)
    if not names:
        raise ValueError(
            f"{datalist.root}: nothing tells what to detect (objects: {kind}). List boxes in coco_<split>.json, "
            "box_xywh or box_xyzwhd, or label maps in the column `mask` of manifest.csv."
        )
    return names


def code_groups(classes: Sequence[str], codes: Mapping[str, Any] | str | None = None) -> list[list[int]]:
    """Codes of a label map that belong to each class.

    Args:
        classes: names.
        codes: class -> code or codes; None: the classes are called by their codes.

    Raises:
        ValueError: if a class has no codes, or something is no code.
    """
    given = mapping(codes, "object_codes") or {name: name for name in classes}
    try:
        return [[int(code) for code in np.ravel(given[name])] for name in classes]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"--object_codes must give whole numbers for each of the classes {list(classes)}, "
            f'for example "{{lesion: [4, 5]}}"; received {given!r}.'
        ) from error


def labelled_scans(
    datalist: Datalist, split: str, kind: str, count: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the scans of a split whose objects are known, also those that are known to have none.

    Args:
        datalist: the data set.
        split: "train", "val" or "test".
        kind: see :func:`object_kind`.
        count: how many of them, see :func:`custom.tasks.labelled.few_labelled`; None: all.
        seed: of the choice.

    Raises:
        ScanError: if there is none.
    """
    told = "boxes" if kind == "boxes" else "mask"
    known = [item for item in datalist.split(split) if item.get(told) is not None]
    if not known:
        raise ScanError(datalist.root, f"no scan of the split {split!r} has objects told ({kind})", _HOW_TO_TELL)
    return few_labelled([_kept(item, (*_KEPT, *_TRUTH)) for item in known], count, seed)


def any_scans(datalist: Datalist) -> list[dict[str, Any]]:
    """Return all scans of a data set, without anything that is known of their objects."""
    return [_kept(item, _KEPT) for item in datalist.items]


def boxes_in(codes: NDArray[Any], groups: Sequence[Sequence[int]], components: bool) -> tuple[NDArray, NDArray]:
    """Return the boxes ``[N, 2 * d]``, voxel edges, and labels ``[N]`` of the objects of a label map.

    Args:
        codes: whole numbers ``[*spatial]``.
        groups: codes of each class.
        components: whether the pieces of a class that do not touch, not even by a corner, are objects of their own.
    """
    boxes: list[list[float]] = []
    labels: list[int] = []
    for label, group in enumerate(groups):
        region = np.isin(codes, group)
        numbered = ndimage.label(region, np.ones((3,) * codes.ndim))[0] if components else region.astype(np.int32)
        found = [place for place in ndimage.find_objects(numbered) if place is not None]
        boxes += [[*(axis.start for axis in place), *(axis.stop for axis in place)] for place in found]
        labels += [label] * len(found)
    return np.array(boxes, dtype=np.float64).reshape(-1, 2 * codes.ndim), np.array(labels, dtype=np.int64)


def _kept(item: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: item[key] for key in keys if item.get(key) is not None}


def _codes_in_use(datalist: Datalist) -> list[str]:
    masks = [item["mask"] for item in datalist.split("train") if "mask" in item]
    found: set[int] = set()
    for mask in masks:
        try:
            values = np.unique(np.rint(read_scan(mask, codes=True).values.astype(np.float64)))
        except ScanError:
            continue  # the dataset reports it
        found |= {int(value) for value in values if value > 0}
    return [str(code) for code in sorted(found)]
