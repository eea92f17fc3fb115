# SPDX-License-Identifier: Apache-2.0
"""Output folders, checked before any work is done."""

from __future__ import annotations

import tempfile
from pathlib import Path

from custom.locks import hold, release


def prepare_output_dir(output_dir: str | Path) -> Path:
    """Create the output folder, prove that files can be written there, and hold it for this process.

    Raises:
        FolderInUseError: if another process holds it, see :func:`custom.locks.hold`.
        ValueError: if it cannot be created or written; the message says what to do.
    """
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"0")
            stream.flush()
        hold(folder)
    except OSError as error:
        raise ValueError(f"{folder}: cannot write there ({error}). Choose another folder with --output_dir.") from error
    return folder


def release_output_dir(output_dir: str | Path) -> None:
    """Let other processes have the folder; the last step of every config that prepares one."""
    release(Path(output_dir))
