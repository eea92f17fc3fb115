# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a reader, a crash or a full disk never meets half of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Write a file under another name, flush it to disk and move it into place.

    Args:
        path: the file; its folder is created.
        write: writes the content to the path that it receives.

    Returns:
        The path.

    Raises:
        OSError: if it cannot be written; what was at ``path`` before is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    # torch.save reports a full disk as RuntimeError
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"{path}: could not be written ({error}). Free space, or choose another folder with --output_dir."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
