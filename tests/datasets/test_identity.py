# SPDX-License-Identifier: Apache-2.0
"""The same scans are known again; others of the same names are not."""

from __future__ import annotations

import shutil
from pathlib import Path

from datasets import scans_identity


def items(folder: Path) -> list[dict]:
    return [{"scan_id": file.name, "image": str(file), "label": 1} for file in sorted(folder.glob("*.png"))]


def test_scans_are_known_by_what_they_are_not_by_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for index in range(3):
        (tmp_path / "a" / f"{index}.png").write_bytes(bytes([index]) * 50_000)
    known = scans_identity(items(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert scans_identity(items(tmp_path / "b")) == known
    content = bytearray((tmp_path / "b/1.png").read_bytes())
    content[30_000] = 9
    (tmp_path / "b/1.png").write_bytes(content)
    assert scans_identity(items(tmp_path / "b")) != known, "other values"
    assert scans_identity(items(tmp_path / "a")[:2]) != known, "fewer"
    assert scans_identity([{**each, "label": 0} for each in items(tmp_path / "a")]) != known, "other labels"


def test_a_series_is_a_folder(tmp_path: Path) -> None:
    series = [{"scan_id": "s", "image": str(tmp_path), "series_uid": "1.2"}]
    (tmp_path / "1.dcm").touch()
    known = scans_identity(series)
    assert scans_identity(series) == known
    (tmp_path / "2.dcm").touch()
    assert scans_identity(series) != known
