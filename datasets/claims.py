# SPDX-License-Identifier: Apache-2.0
"""What a header says is in its file, held against the file's length and a bound before any memory is asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datasets.errors import ScanError


def bound_from(text: str | float) -> int:
    """Return the bound that the environment variable ``MWM_MAX_VOXELS`` gives; ValueError if that is no number."""
    try:
        bound = int(float(text))
    except (ValueError, OverflowError):
        bound = 0
    if bound < 1:
        raise ValueError(f"MWM_MAX_VOXELS in the environment must be a number of voxels such as 2e9, not {text!r}.")
    return bound


# 2^29 are 512 x 512 x 2048, 2 GiB a channel in single precision. What fits is a matter of the machine, so it says so:
# one bound for images, label maps, whatever reads them, and their worker processes.
MAX_VOXELS = bound_from(os.environ.get("MWM_MAX_VOXELS", 2**29))

_DEFLATE = 1032  # no deflate stream (gzip, PNG) is shorter than a 1032nd of its content (zlib's technical notes)
_UNLIKELY = 2**26  # voxels from which other codecs are held to the same
_COPY = "Copy the file again from its source, or leave it out (--skip_bad true)."


def check_claim(path: str | Path, shape: Sequence[int], size: float, held: int, codec: str | None = None) -> None:
    """Raise unless a file can hold what its header says.

    Args:
        path: the file, for messages.
        shape: voxels along each axis, all volumes and frames included, without colours.
        size: bytes of all voxels when they are not compressed.
        held: bytes of the file that are left for them.
        codec: None for voxels that are not compressed, "deflate", or another one's name.

    Raises:
        ScanError: sides that are not positive, or more voxels than the file can hold.
    """
    sides = tuple(int(side) for side in shape)
    if min(sides, default=0) < 1:
        raise ScanError(path, f"it has no voxels: its size is {sides}", "Export it again, or leave it out.")
    most = held if codec is None else held * _DEFLATE
    if size > most and (codec in (None, "deflate") or math.prod(sides) > _UNLIKELY):
        packed = "" if codec is None else f" ({codec})"
        problem = f"{size:.0f} bytes of voxels ({sides}) by its header, which the file's {held}{packed} cannot hold"
        raise ScanError(path, f"it cannot be read (truncated, or a wrong header: {problem})", _COPY)


def check_bound(path: str | Path, shape: Sequence[float], max_voxels: int) -> None:
    """Raise a ScanError for more voxels than the bound.

    Args:
        path: the file, or the folder of a series, for the message.
        shape: voxels along each axis, all volumes and frames included, without colours.
        max_voxels: the bound on their product.
    """
    voxels = math.prod(shape)
    if not voxels <= max_voxels:
        sides = " x ".join(f"{side:.0f}" for side in shape)
        problem = f"{sides} are {voxels:.3g} voxels, more than the {max_voxels} that are read"
        remedy = "Cut it, leave it out (--skip_bad true), or set the environment variable MWM_MAX_VOXELS higher"
        raise ScanError(path, problem, f"{remedy} (a channel of it takes {4 * voxels / 2**30:.1f} GiB)")


@contextmanager
def running_out(path: str | Path) -> Iterator[None]:
    """Turn the errors of too little memory, Python's and torch's, into a ScanError that names a scan."""
    try:
        yield
    except MemoryError as error:
        raise out_of_memory(path) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise out_of_memory(path) from error


def out_of_memory(path: str | Path) -> ScanError:
    """Error for a scan that does not fit into the memory that is left."""
    return ScanError(path, "it does not fit into the memory", "Cut it, or leave it out (--skip_bad true).")
