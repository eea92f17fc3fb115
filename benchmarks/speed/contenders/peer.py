# SPDX-License-Identifier: Apache-2.0
"""Importing from a peer's checkout."""

from __future__ import annotations

import sys
from pathlib import Path

SITE_HINT = (
    "pip install --no-deps --target FOLDER timm==0.5.4 dynamic-network-architectures==0.4.4 einops pytz, "
    "then --site FOLDER"
)


def import_from(site: str, *folders: str | Path) -> None:
    """Let this process, and it alone, import from a peer's folders and from the old packages that it needs.

    Raises:
        FileNotFoundError: if one of them does not exist.
    """
    for folder in (site, *folders):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"No folder {folder}. Packages that the peers need: {SITE_HINT}.")
    sys.dont_write_bytecode = True  # checkouts are read, nothing is left in them
    sys.path[:0] = [str(site), *map(str, folders)]
