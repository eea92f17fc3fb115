# SPDX-License-Identifier: Apache-2.0
"""From a folder of scans, in any of the known layouts, to a MONAI datalist."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.errors import ScanError
from datasets.loading import dimensions_of
from datasets.readers import class_folders, decathlon, dicom, manifest, plain

logger = logging.getLogger(__name__)

PHANTOM_PREFIX = "phantom:"
SPLITS = ("train", "val", "test")
# The order matters: a folder with a manifest may also look like a folder of class folders.
LAYOUTS = (manifest, decathlon, class_folders, dicom, plain)


@dataclass(frozen=True)
class Datalist:
    """The scans of a dataset.

    - ``root``: the folder; ``layout``: how it was read.
    - ``items``: one dictionary a scan: ``image`` (absolute path; the folder of a DICOM series, with ``series_uid``),
      ``scan_id`` (path below the root, unique), ``split``, and where known ``label`` (index into ``classes``),
      ``label_name``, ``group``, ``mask`` (path), ``boxes`` (``[x, y, w, h]`` in pixels), ``prompt``.
    - ``classes``: label names, sorted.
    - ``spatial_dims``: 2 or 3, of the first scan that can be read.
    """

    root: Path
    layout: str
    items: list[dict[str, Any]]
    classes: list[str]
    spatial_dims: int

    def split(self, name: str) -> list[dict[str, Any]]:
        """Return the scans of ``train``, ``val`` or ``test``, or of ``all``.

        Raises:
            ValueError: if the name is another one.
        """
        if name != "all" and name not in SPLITS:
            raise ValueError(f"A split is one of {', '.join(SPLITS)} or all, got {name!r}.")
        return [dict(item) for item in self.items if name in ("all", item["split"])]


def load_datalist(
    dataset_dir: str | Path, *, label_column: str = "label", seed: int = 0, phantom_root: str | Path = "phantoms"
) -> Datalist:
    """Read the layout of a dataset.

    Args:
        dataset_dir: a folder with ``manifest.csv``, a folder with a MONAI/Decathlon ``dataset.json``, a folder of class
            folders (below ``train``, ``val``, ``test`` or not), a folder of DICOM series, a plain folder of images; or
            ``phantom:<kind>_<2d|3d>``, generated on first use.
        label_column: column of the manifest that holds the class.
        seed: of the split of class folders that have none.
        phantom_root: where phantoms are kept.

    Raises:
        ScanError: if there is no such folder, nothing readable in it, or an entry is wrong; it names the file.
    """
    root = _resolve(str(dataset_dir), phantom_root)
    for reader in LAYOUTS:
        if reader.matches(root):
            items = reader.read(root, label_column=label_column, seed=seed)
            break
    else:
        raise ScanError(root, "no scans found", f"Accepted: {plain.ACCEPTED}; see 'Your own scans' in the README")
    _require_unique(root, items)
    classes = sorted({item["label_name"] for item in items if item.get("label_name") is not None})
    for item in items:
        if item.get("label_name") is not None:
            item["label"] = classes.index(item["label_name"])
    layout = reader.__name__.rpartition(".")[2]
    logger.info("%s: %d scans (%s), %d classes.", root, len(items), layout, len(classes))
    return Datalist(root, layout, items, classes, _spatial_dims(root, items))


def _resolve(dataset_dir: str, phantom_root: str | Path) -> Path:
    if dataset_dir.startswith(PHANTOM_PREFIX):
        from datasets.phantoms import ensure_phantoms

        name = dataset_dir.removeprefix(PHANTOM_PREFIX)
        kind, _, dims = name.rpartition("_")
        if dims not in ("2d", "3d"):
            raise ScanError(dataset_dir, "not the name of a phantom", "Write phantom:<kind>_<2d|3d>, e.g. brain_mri_2d")
        return ensure_phantoms(kind, int(dims[0]), phantom_root).resolve()
    root = Path(dataset_dir)
    if not root.is_dir():
        raise ScanError(root, "no such folder", "Give a folder of scans with --dataset_dir")
    return root.resolve()


def _require_unique(root: Path, items: list[dict[str, Any]]) -> None:
    seen: set[str] = set()
    for item in items:
        if item["scan_id"] in seen:
            raise ScanError(root / item["scan_id"], "listed twice", "Keep one of the two entries")
        seen.add(item["scan_id"])


def _spatial_dims(root: Path, items: list[dict[str, Any]]) -> int:
    errors = []
    for item in items[:20]:
        try:
            return dimensions_of(item)
        except ScanError as error:
            errors.append(error)
    if not errors:
        raise ScanError(root, "no scans listed", "The list of scans is empty")
    raise errors[0]
