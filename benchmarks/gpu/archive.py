# SPDX-License-Identifier: Apache-2.0
"""A set of pictures as one archive: what `pack` writes and `study` reads.

``<set>.zip`` holds ``manifest.csv``, ``images/<name>.webp``, ``maps/<name>.png`` and ``record.json``. Nothing in it
depends on when or in which order it was made, and nothing is compressed twice. At the quality that the study needs,
WebP takes two thirds of JPEG's bytes.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterable, Mapping
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile, ZipInfo

from PIL import Image

from custom.networks import file_hash
from custom.regions.store import prompt_slug

COLUMNS = ("file", "label", "split", "group")
THREADS = 8  # pictures are decoded and encoded outside Python's lock


def write_archive(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files, by name, into an archive whose bytes follow from them alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    with ZipFile(partial, "w") as archive:
        for name in sorted(files):
            archive.writestr(ZipInfo(name), files[name])  # ZipInfo: the date 1980-01-01, no compression
    return partial.replace(path)


def unpack(archive: Path, folder: Path) -> Path:
    """Turn an archive into a folder that the bundle reads; return it.

    Pictures become PNG, which the readers accept; maps lie in ``regions``, which ``--region_dir`` takes. A folder that
    was made from the same archive before is left as it is.
    """
    digest, mark = file_hash(archive), folder / "archive.sha256"
    if mark.is_file() and mark.read_text() == digest:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    with ZipFile(archive) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    record = json.loads(files["record.json"])
    pictures = [name for name in files if name.startswith("images/")]
    with ThreadPool(THREADS) as pool:
        pool.map(lambda name: _write_png(folder / name, files[name]), pictures)
    for name in (each for each in files if each.startswith("maps/")):
        _write(folder / map_file(name, record["prompt"]), files[name])
    _write(folder / "manifest.csv", files["manifest.csv"])
    _write(mark, digest.encode())
    return folder


def map_file(name: str, prompt: str) -> PurePosixPath:
    """Where the bundle looks for the map ``maps/<stem>.png`` of the picture ``images/<stem>.png``."""
    return PurePosixPath("regions/maps/images") / PurePosixPath(name).name / f"{prompt_slug(prompt)}.png"


def manifest_bytes(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A manifest with the columns that the study reads."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _write_png(path: Path, content: bytes) -> None:
    stream = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("L").save(stream, "PNG", compress_level=1)
    _write(path.with_suffix(".png"), stream.getvalue())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
