# SPDX-License-Identifier: Apache-2.0
"""Headers of NRRD files, read before teem sees them: it would follow `data file:` to any file of the machine."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from datasets.claims import check_claim
from datasets.errors import ScanError

_MOST = 2**20  # bytes of a header
_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("uint64", "uint64_t", "double"), 8),
    "float": 4,
}
_CODECS = {  # encoding -> how check_claim calls it, and bytes of the file for one of the voxels
    **dict.fromkeys(("raw",), (None, 1.0)),
    **dict.fromkeys(("gz", "gzip"), ("deflate", 1.0)),
    **dict.fromkeys(("bz2", "bzip2"), ("bzip2", 1.0)),
    **dict.fromkeys(("hex",), (None, 2.0)),
}
_TEXT = ("txt", "text", "ascii")
_LINE = re.compile(rb"\r\n|\r|\n")
_DATA_FILE = re.compile(r"data\s*file\s*:", re.IGNORECASE)
_EXPORT = "Export it again, or leave it out (--skip_bad true)."


@dataclass(frozen=True)
class NrrdHeader:
    """What an NRRD file says.

    Attributes:
        sizes: along each of its axes, those of colours and vectors included.
        size: bytes of all values.
    """

    sizes: tuple[int, ...]
    size: int


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Read and check the header of an NRRD file.

    Raises:
        ScanError: no header of NRRD, one whose voxels lie in other files (detached), or that claims more voxels than
            the file can hold.
    """
    lines, start = _lines(path)
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        if _DATA_FILE.match(line.lstrip()):
            problem = "a detached header: it names other files for its voxels, which are not read"
            raise ScanError(path, problem, "Save header and voxels in one .nrrd.")
        name, colon, value = line.partition(": ")
        if colon:
            fields[name.strip().lower()] = value.strip()
    sizes = _sizes(path, fields)
    itemsize, codec, share = _storage(path, fields)
    size = itemsize * math.prod(sizes)
    check_claim(path, sizes, math.prod(sizes) * share, path.stat().st_size - start, codec)
    return NrrdHeader(sizes, size)


def _lines(path: Path) -> tuple[list[str], int]:
    """Lines of the header behind the first, and where the voxels start."""
    with path.open("rb") as stream:
        head = stream.read(_MOST)
    lines, at = [], 0
    for found in _LINE.finditer(head):
        line = head[at : found.start()]
        at = found.end()
        if not line:
            break
        lines.append(line.decode("latin-1"))
    else:
        raise ScanError(path, "no NRRD: its header has no end", _EXPORT)
    if not re.fullmatch(r"NRRD000[1-9]\s*", lines[0] if lines else ""):
        raise ScanError(path, "no NRRD: it does not start with NRRD0001 to NRRD0009", _EXPORT)
    return lines[1:], at


def _sizes(path: Path, fields: dict[str, str]) -> tuple[int, ...]:
    parts = fields.get("sizes", "").split()
    if not parts or not all(part.isdecimal() for part in parts) or fields.get("dimension") != str(len(parts)):
        problem = f"its header gives dimension {fields.get('dimension')!r} and sizes {fields.get('sizes')!r}"
        raise ScanError(path, problem, _EXPORT)
    return tuple(int(part) for part in parts)


def _storage(path: Path, fields: dict[str, str]) -> tuple[int, str | None, float]:
    """Bytes of a value, the codec, and the bytes that one value takes in the file at least (before compression)."""
    kind, encoding = fields.get("type", "").lower(), fields.get("encoding", "").lower()
    if kind not in _BYTES or encoding not in (*_CODECS, *_TEXT):
        raise ScanError(path, f"NRRD of type {kind!r} and encoding {encoding!r} is not read", _EXPORT)
    if encoding in _TEXT:
        return _BYTES[kind], None, 1.0
    codec, share = _CODECS[encoding]
    return _BYTES[kind], codec, share * _BYTES[kind]
