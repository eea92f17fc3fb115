# SPDX-License-Identifier: Apache-2.0
"""Files that come with the code, and writing so that no reader, crash, full disk or other process meets half a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\..+")


def shipped_file(path: str) -> str:
    """Return a file of the repository, or of a packed bundle, whatever the current directory is.

    Servers run bundles from folders of their own, so a path in a component's file cannot start where one works.

    Args:
        path: as seen from the folder that holds this package, ``bundle/configs/localizers/vocabulary.yaml``.
    """
    return str(Path(__file__).resolve().parents[1] / path)


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Write a file under another name, flush it to disk and move it into place.

    What killed processes left half written of this file is removed.

    Args:
        path: the file; its folder is created.
        write: writes the content to the path that it receives, which ends like ``path``.

    Returns:
        The path.

    Raises:
        OSError: if it cannot be written; what was at ``path`` before is still there.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, path.name)
        with temporary_file(path) as temporary:
            write(temporary)
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
    # torch.save reports a full disk as RuntimeError
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{path}: could not be written ({error}). Free space, or choose another folder with --output_dir."
        ) from error
    return path


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield a new hidden file beside ``path``, locked while in use; it is removed unless it was moved away.

    The kernel takes the lock from a killed process, so that :func:`remove_abandoned` knows what is left over.
    """
    while True:
        temporary = path.with_name(f".{uuid.uuid4().hex[:12]}.{path.name}")
        with open(temporary, "xb") as stream:
            _lock(stream.fileno(), wait=True)
            # Another process may have met the file in the moment before it was locked, and removed it.
            if not os.fstat(stream.fileno()).st_nlink:
                continue
            try:
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)
            return


def remove_abandoned(folder: str | Path, name: str | None = None) -> int:
    """Remove the temporary files in a folder whose writers are gone, never a living one's; return how many.

    Args:
        folder: where :func:`temporary_file` made them.
        name: only those of this file; None: of all.
    """
    removed = 0
    with os.scandir(folder) as entries:
        found = [entry.name for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    for each in found:
        if name is not None and not each.endswith(f".{name}"):
            continue
        with contextlib.suppress(OSError), open(Path(folder) / each, "rb+") as stream:
            if _lock(stream.fileno(), wait=False):
                os.unlink(Path(folder) / each)
                removed += 1
    return removed


def _lock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use; or a file system without locks, where nothing is ever removed
        return False
    return True
