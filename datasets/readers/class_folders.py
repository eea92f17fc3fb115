# SPDX-License-Identifier: Apache-2.0
"""A folder of class folders, below ``train``, ``val`` and ``test`` or not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from datasets.readers.plain import images_below, item_of

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SHARES = (0.70, 0.85)  # train below the first, val below the second, test above


def matches(root: Path) -> bool:
    """Whether all images lie in at least two folders of the same depth (or in split folders)."""
    folders = _folders(root)
    return len(folders) > 1 and not _loose_images(root)


def read(root: Path, *, seed: int = 0, **_: Any) -> list[dict[str, Any]]:
    """List the images with their folder's name as class.

    Without split folders, each class is split 70/15/15 in an order that depends on file names and the seed alone.
    """
    if all(folder.name in SPLITS for folder in _folders(root)):
        return [
            item_of(root, path, SPLITS[split.name], label_name=folder.name)
            for split in _folders(root)
            for folder in _folders(split)
            for path in images_below(folder)
        ]
    return [item for folder in _folders(root) for item in _split_class(root, folder, seed)]


def _split_class(root: Path, folder: Path, seed: int) -> list[dict[str, Any]]:
    paths = sorted(images_below(folder), key=lambda path: _order(path.relative_to(root).as_posix(), seed))
    return [item_of(root, path, _share(at / len(paths)), label_name=folder.name) for at, path in enumerate(paths)]


def _share(position: float) -> str:
    return "train" if position < SHARES[0] else "val" if position < SHARES[1] else "test"


def _order(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _loose_images(root: Path) -> bool:
    return any(path.parent == root for path in images_below(root))
