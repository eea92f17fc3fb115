# SPDX-License-Identifier: Apache-2.0
"""Result files: one JSON object a finished run, alone in a file or one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from custom.tasks.results import write_json

Result = dict[str, Any]


def read_results(paths: Iterable[str | Path]) -> list[Result]:
    """Read results from files (.json: one, .jsonl: one a line) and from all such files in folders.

    Raises:
        ValueError: a path that does not exist, or a file that holds something else.
    """
    return [result for path in paths for file in _files(Path(path)) for result in _read(file)]


def write_result(path: Path, result: Result) -> None:
    """Write one result."""
    write_json(path, result)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder.")
    return sorted(path.rglob("*.json*")) if path.is_dir() else [path]


def _read(file: Path) -> list[Result]:
    try:
        text = file.read_text()
        found = [json.loads(line) for line in text.splitlines()] if file.suffix == ".jsonl" else [json.loads(text)]
        for result in found:
            result["name"], result["settings"], result["test"], result["val"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: no result of the study ({type(error).__name__}: {error}).") from error
    return found
