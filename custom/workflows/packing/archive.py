# SPDX-License-Identifier: Apache-2.0
"""The zip of a bundle: the same bytes for the same content."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from custom.files import write_atomically

_DATE = (2020, 1, 1, 0, 0, 0)


def write_zip(path: Path, folder: Path, extra: Mapping[str, Path] | None = None, without: tuple[str, ...] = ()) -> Path:
    """Write a folder as a zip that unpacks into a folder of the same name.

    Args:
        path: the zip.
        folder: what goes into it.
        extra: name in the folder -> a file from elsewhere.
        without: names in the folder that are left out.
    """
    files = {each.relative_to(folder).as_posix(): each for each in folder.rglob("*") if each.is_file()}
    files = {name: each for name, each in {**files, **(extra or {})}.items() if name not in without}

    def write(target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, each in sorted(files.items()):
                entry = zipfile.ZipInfo(f"{folder.name}/{name}", _DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, each.read_bytes())

    return write_atomically(path, write)
