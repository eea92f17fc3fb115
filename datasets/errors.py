# SPDX-License-Identifier: Apache-2.0
"""The error of everything that reads scans: which file, what is wrong, what to do."""

from __future__ import annotations

from pathlib import Path


class ScanError(ValueError):
    """A file or folder that cannot be used.

    Args:
        path: the file or folder.
        problem: what is wrong with it.
        remedy: what the user can do.
    """

    def __init__(self, path: str | Path, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}. {remedy}")
        self.path = str(path)
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Exceptions are rebuilt from their arguments when a DataLoader worker hands them over.
        return type(self), (self.path, self.problem, self.remedy)
