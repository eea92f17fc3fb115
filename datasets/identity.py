# SPDX-License-Identifier: Apache-2.0
"""Whether scans are the same as before, without reading them whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

_SAMPLE = 16 * 1024  # bytes from the beginning and from the middle of a file


def scans_identity(items: Sequence[Mapping[str, Any]]) -> str:
    """Return a digest of scans, which stays when their folder is moved and changes with the scans and their labels.

    Args:
        items: of a datalist or task. Of a file count its size and two samples of 16 KiB, of a folder (a DICOM series)
            the number of its files, of everything else the value.

    Returns:
        BLAKE2b in hexadecimal; the order of the items counts.
    """
    digest = hashlib.blake2b(digest_size=16)
    for item in items:
        known = {str(key): _content(value) for key, value in item.items()}
        digest.update(json.dumps(known, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _content(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike) or not os.path.isabs(value):
        return value
    if os.path.isdir(value):
        return ["folder", len(os.listdir(value))]
    return _file(value) if os.path.isfile(value) else str(value)


def _file(path: str | os.PathLike) -> list[Any]:
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        sample = stream.read(_SAMPLE)
        stream.seek(size // 2)
        sample += stream.read(_SAMPLE)
    return ["file", size, hashlib.blake2b(sample, digest_size=16).hexdigest()]
