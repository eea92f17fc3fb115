# SPDX-License-Identifier: Apache-2.0
"""Headers of DICOM files, read by pydicom, in Python: GDCM ends the whole process at some that are not consistent."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from datasets.claims import check_claim
from datasets.errors import ScanError

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

COPY = "Copy the file again from its source, or leave it out (--skip_bad true)."
_REPAIR = "Export it again, or leave it out (--skip_bad true)."

# What tags say of a scan's content; the name is that of the DICOM standard, part 6.
DESCRIBING = {
    "Modality": "0008|0060",
    "BodyPartExamined": "0018|0015",
    "StudyDescription": "0008|1030",
    "SeriesDescription": "0008|103e",
    "ProtocolName": "0018|1030",
}
_NUMBERS = {  # US, with what they are if they are missing; None: they must be there
    "samples": (0x00280002, 1),
    "rows": (0x00280010, None),
    "columns": (0x00280011, None),
    "allocated": (0x00280100, None),
    "stored": (0x00280101, 0),
    "high": (0x00280102, 0),
    "signed": (0x00280103, 0),
}
ORIENTATION = "0020|0037"  # ImageOrientationPatient: of slices, not of projections
_SERIES, _INSTANCE, _POSITION, _DIRECTIONS = 0x0020000E, 0x00200013, 0x00200032, 0x00200037
_IMAGE_TYPE, _PHOTOMETRIC, _FRAMES = 0x00080008, 0x00280004, 0x00280008
_PALETTE = ((0x00281101, 0x00281102, 0x00281103), (0x00281201, 0x00281202, 0x00281203))
_SEGMENTED = (0x00281221, 0x00281222, 0x00281223)
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_WANTED = [
    *(tag for tag, _ in _NUMBERS.values()),
    *(_SERIES, _INSTANCE, _POSITION, _DIRECTIONS, _IMAGE_TYPE, _PHOTOMETRIC, _FRAMES),
    *(*_PALETTE[0], *_PALETTE[1], *_SEGMENTED),
    *(int(key.replace("|", ""), 16) for key in DESCRIBING.values()),
]
_DEFERRED = 2**17  # bytes from which an element is passed over: no tag above is so long, but for palettes

_SAMPLES = {  # photometric interpretations of the standard (part 3, C.7.6.3.1.2) and their samples a pixel
    **dict.fromkeys(("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"), 3),
    **dict.fromkeys(("HSV",), 3),
    **dict.fromkeys(("ARGB", "CMYK"), 4),
}
_HALVED = ("YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420")  # two pixels share colours
_BITS = (1, 8, 12, 16, 32)
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.113619.5.2", _DEFLATED)
_INFLATED = 2**28  # bytes of a deflated file, which pydicom holds as a whole


@dataclass(frozen=True)
class Slice:
    """What the header of one DICOM file says.

    Attributes:
        size: columns, rows, frames.
        origin: position of the first pixel's centre in millimetres, LPS+; zeros where it is not told.
        directions: unit vectors of rows, columns and normal, ``[3, 3]``, one in a row.
        components: numbers a pixel, 3 for colour.
        eight_bits: whether they are unsigned and of no more than 8 bits.
        series: SeriesInstanceUID.
        instance: InstanceNumber, 0 where it is not told.
        tags: values as text, by "group|element".
    """

    size: tuple[int, int, int]
    origin: np.ndarray
    directions: np.ndarray
    components: int
    eight_bits: bool
    series: str
    instance: int
    tags: Mapping[str, str]


def read_header(file: str | Path) -> Slice:
    """Read the header of a DICOM image.

    Args:
        file: its path.

    Raises:
        ScanError: no DICOM image, or one whose pixels cannot be what the header says.
    """
    state = Path(file).stat()
    return _read(str(file), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8192)  # a folder's files are looked at when it is listed, and again when a series is read
def _read(file: str, modified: int, length: int) -> Slice:
    try:
        dataset, pixels = _elements(file, length)
        return _slice(file, dataset, pixels)
    except ScanError:
        raise
    except Exception as error:  # pydicom raises all kinds for damaged files
        raise ScanError(file, f"truncated, or no DICOM image ({type(error).__name__}: {error})"[:400], COPY) from error


@dataclass
class _Pixels:
    """Their tag, and how many bytes their element claims (None: it is in fragments) and the file holds."""

    tag: int
    claimed: int | None
    held: int


def _elements(file: str, length: int) -> tuple[FileDataset, _Pixels | None]:
    from pydicom.filereader import read_partial

    found: list[_Pixels] = []

    def stop(tag: int, vr: str | None, size: int) -> bool:
        if tag in _PIXELS:
            found.append(_Pixels(tag, None if size == 0xFFFFFFFF else size, size))
        return tag >= _PIXELS[0]

    with open(file, "rb") as stream:
        _check_deflated(file, stream)
        dataset = read_partial(stream, stop, _DEFERRED, force=True, specific_tags=_WANTED)
        position = stream.tell()
    pixels = found[0] if found else None
    if pixels is not None and _syntax(dataset) != _DEFLATED:
        pixels.held = max(length - position - 8, 0)
    return dataset, pixels


def _check_deflated(file: str, stream: BinaryIO) -> None:
    """Raise if the data set is compressed as a whole, to more than is wanted in memory."""
    head = stream.read(1024)
    if _DEFLATED.encode() in head:
        stream.seek(144 + int.from_bytes(head[140:144], "little"))  # behind the file's meta information
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while part := inflate.unconsumed_tail or stream.read(2**16):
            size += len(inflate.decompress(part, 2**22))
            if size > _INFLATED:
                raise ScanError(file, f"deflated from more than {_INFLATED} bytes", "Decompress it, or leave it out.")
    stream.seek(0)


def _syntax(dataset: FileDataset) -> str:
    return str(dataset.file_meta.get("TransferSyntaxUID") or "")


def _slice(file: str, dataset: FileDataset, pixels: _Pixels | None) -> Slice:
    numbers = {name: _number(file, dataset, name) for name in _NUMBERS}
    if pixels is None:
        raise ScanError(file, "truncated, or no DICOM image: it has no pixel data", COPY)
    if pixels.tag != _PIXELS[2]:
        raise ScanError(file, "its pixels are floating-point numbers, which are not read", "Convert it to NIfTI.")
    frames = _frames(file, dataset)
    photometric = _text(dataset, _PHOTOMETRIC).upper()
    _check_consistency(file, dataset, numbers, photometric)
    _check_size(file, dataset, numbers, photometric, frames, pixels)
    palette = photometric == "PALETTE COLOR"
    return Slice(
        size=(numbers["columns"], numbers["rows"], frames),
        origin=_floats(dataset, _POSITION, np.zeros(3)),
        directions=_axes(dataset),
        components=3 if palette else numbers["samples"],
        eight_bits=numbers["allocated"] <= 8 and not numbers["signed"],
        series=_text(dataset, _SERIES),
        instance=int(_floats(dataset, _INSTANCE, np.zeros(1))[0]),
        tags=_described(dataset),
    )


def _check_consistency(file: str, dataset: FileDataset, numbers: Mapping[str, int], photometric: str) -> None:
    """Raise for headers that GDCM cannot be given."""
    samples, allocated = numbers["samples"], numbers["allocated"]
    if photometric and photometric not in _SAMPLES:
        problem = f"an unknown PhotometricInterpretation {photometric!r}"
    elif samples != (_SAMPLES[photometric] if photometric else samples) or samples not in (1, 3, 4):
        problem = f"SamplesPerPixel is {samples}, its PhotometricInterpretation {photometric or 'missing'}"
    elif allocated not in _BITS:
        problem = f"BitsAllocated is {allocated}"
    elif not numbers["stored"] <= allocated or numbers["high"] >= allocated or numbers["signed"] > 1:
        problem = f"BitsStored, HighBit and PixelRepresentation do not fit BitsAllocated ({dict(numbers)})"
    elif photometric == "PALETTE COLOR" and not _has_palette(dataset):
        problem = "PhotometricInterpretation is PALETTE COLOR, but it has no complete palette"
    else:
        return
    raise ScanError(file, f"its header is not consistent: {problem}", _REPAIR)


def _has_palette(dataset: FileDataset) -> bool:
    described, tables = _PALETTE
    whole = all(tag in dataset for tag in tables) or all(tag in dataset for tag in _SEGMENTED)
    return whole and all(len(_bytes(dataset, tag)) == 6 for tag in described)


def _check_size(
    file: str,
    dataset: FileDataset,
    numbers: Mapping[str, int],
    photometric: str,
    frames: int,
    pixels: _Pixels,
) -> None:
    from pydicom.uid import UID

    shape = (numbers["columns"], numbers["rows"], frames)
    bits = math.prod(shape) * numbers["samples"] * numbers["allocated"]
    native = _syntax(dataset) in _NATIVE or not _syntax(dataset)
    if native and pixels.claimed is None:
        raise ScanError(file, "its pixels are in fragments, though its TransferSyntaxUID says otherwise", _REPAIR)
    held = pixels.held if pixels.claimed is None else min(pixels.held, pixels.claimed)
    needed = math.ceil(bits / 8 * (0.5 if native and photometric in _HALVED else 1))
    codec = None if native else UID(_syntax(dataset)).name
    check_claim(file, shape, needed, held, codec)


def _number(file: str, dataset: FileDataset, name: str) -> int:
    tag, otherwise = _NUMBERS[name]
    raw = _bytes(dataset, tag)
    if len(raw) == 2:
        return int.from_bytes(raw, "little" if dataset.get_item(tag).is_little_endian else "big")
    if raw or otherwise is None:
        problem = "is missing" if not raw else f"is no single number ({len(raw)} bytes)"
        field = f"{tag >> 16:04x}|{tag & 0xFFFF:04x}"
        raise ScanError(file, f"truncated, or no DICOM image: {name} ({field}) {problem}", COPY)
    return otherwise


def _frames(file: str, dataset: FileDataset) -> int:
    text = _text(dataset, _FRAMES)
    if not text:
        return 1
    if not text.lstrip("+").isdecimal() or int(text) < 1:
        raise ScanError(file, f"NumberOfFrames is {text!r}", _REPAIR)
    return int(text)


def _floats(dataset: FileDataset, tag: int, otherwise: np.ndarray) -> np.ndarray:
    """Values of a decimal string, or something else if they are not so many finite numbers."""
    try:
        values = np.array([float(part) for part in _text(dataset, tag).split("\\")])
    except ValueError:
        return otherwise
    return values if values.shape == otherwise.shape and np.isfinite(values).all() else otherwise


def _axes(dataset: FileDataset) -> np.ndarray:
    row, column = _floats(dataset, _DIRECTIONS, np.array([1.0, 0, 0, 0, 1, 0])).reshape(2, 3)
    return np.stack([row, column, np.cross(row, column)])


def _described(dataset: FileDataset) -> dict[str, str]:
    keys: Sequence[str] = ("0008|0008", "0028|0004", ORIENTATION, *DESCRIBING.values())
    tags = {key: int(key.replace("|", ""), 16) for key in keys}
    return {key: _text(dataset, tag) for key, tag in tags.items() if tag in dataset}


def _text(dataset: FileDataset, tag: int) -> str:
    """A tag's value; bytes that are not UTF-8 are read as Latin-1."""
    raw = _bytes(dataset, tag)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip(" \0\t\r\n")


def _bytes(dataset: FileDataset, tag: int) -> bytes:
    """A tag's value as it is stored; nothing where it is missing, or no plain value."""
    if tag not in dataset:
        return b""
    value: Any = dataset.get_item(tag).value
    return value if isinstance(value, bytes) else b""
