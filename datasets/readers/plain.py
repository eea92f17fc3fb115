# SPDX-License-Identifier: Apache-2.0
"""A folder of images, and what counts as an image."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
DICOM = (".dcm", ".dicom", ".ima")
ACCEPTED = "NIfTI (.nii, .nii.gz), NRRD, MetaImage, DICOM, PNG, JPEG, BMP, TIFF"


def matches(root: Path) -> bool:
    """Whether the folder holds images, at any depth."""
    return next(images_below(root), None) is not None


def read(root: Path, **_: Any) -> list[dict[str, Any]]:
    """List all images below the folder; there are no labels, and everything is for training."""
    return [item_of(root, path, "train") for path in images_below(root)]


def images_below(root: Path) -> Iterator[Path]:
    """Images below a folder in a fixed order; hidden files and files of other kinds are passed over and counted."""
    ignored = 0
    for path in sorted(root.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        if path.name.lower().endswith(PICTURES + VOLUMES + DICOM):
            yield path
        else:
            ignored += 1
    if ignored:
        logger.info("%s: %d files of other kinds ignored (accepted: %s).", root, ignored, ACCEPTED)


def item_of(root: Path, path: Path, split: str, **more: Any) -> dict[str, Any]:
    """Datalist entry of a file."""
    return {"image": str(path.resolve()), "scan_id": path.relative_to(root).as_posix(), "split": split, **more}
