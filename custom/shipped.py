# SPDX-License-Identifier: Apache-2.0
"""Files that come with the code, wherever one works."""

from __future__ import annotations

from pathlib import Path


def shipped_file(path: str) -> str:
    """Return a file of the repository, or of a packed bundle, whatever the current directory is.

    Servers run bundles from folders of their own, so a path in a component's file cannot start where one works.

    Args:
        path: as seen from the folder that holds this package, ``bundle/configs/localizers/vocabulary.yaml``.
    """
    return str(Path(__file__).resolve().parents[1] / path)
