# SPDX-License-Identifier: Apache-2.0
"""The one error of this package: a file or folder that cannot be used, and what to do about it."""

from __future__ import annotations

from pathlib import Path


class ScanError(ValueError):
    """A scan, manifest or folder that cannot be used.

    Args:
        path: the file or folder.
        problem: what is wrong with it.
        remedy: what the user can do.
    """

    # Defaults, because a DataLoader rebuilds a worker's exception from its message alone.
    def __init__(self, path: str | Path, problem: str = "", remedy: str = "") -> None:
        self.path, self.problem, self.remedy = str(path), problem, remedy
        advice = f" {remedy.rstrip('.')}." if remedy else ""
        super().__init__(f"{path}: {problem}.{advice}" if problem else str(path))

    def __reduce__(self) -> tuple[type[ScanError], tuple[str, str, str]]:
        return type(self), (self.path, self.problem, self.remedy)
