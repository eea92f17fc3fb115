# SPDX-License-Identifier: Apache-2.0
"""Which files count as scans: by name, and checked by their first bytes."""

from __future__ import annotations

from pathlib import Path

from datasets.errors import ScanError

PICTURE, NIFTI, NRRD, DICOM, GZIP = "PNG or JPEG", "NIfTI", "NRRD", "DICOM", "gzip"
ACCEPTED = "Accepted are .nii, .nii.gz, .nrrd, .dcm (or DICOM files without extension), .png, .jpg and .jpeg."

_SUFFIXES = {
    ".nii.gz": NIFTI,
    ".nii": NIFTI,
    ".nrrd": NRRD,
    ".dcm": DICOM,
    ".png": PICTURE,
    ".jpg": PICTURE,
    ".jpeg": PICTURE,
}
_MAGIC = (  # offset, bytes, format
    (0, b"\x89PNG", PICTURE),
    (0, b"\xff\xd8\xff", PICTURE),
    (0, b"NRRD", NRRD),
    (0, b"\x1f\x8b", GZIP),
    (128, b"DICM", DICOM),
    (344, b"n+1\0", NIFTI),
    (4, b"n+2\0", NIFTI),
)


def format_by_name(path: str | Path) -> str | None:
    """Format that the name promises; None for a name that promises none."""
    name = Path(path).name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


def format_by_content(path: str | Path) -> str | None:
    """Format that the first bytes show; None if they are not known."""
    with open(path, "rb") as stream:
        head = stream.read(352)
    return next((kind for at, magic, kind in _MAGIC if head[at : at + len(magic)] == magic), None)


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its first bytes, or by its name where they show nothing."""
    with open(path, "rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM":
        return True
    # Old files have no mark: they start with an element of group 2 or 8.
    bare = head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0"
    return format_by_name(path) == DICOM or (format_by_name(path) is None and bare)


def scan_format(path: str | Path) -> str:
    """Return the format of a file, after comparing its name with its first bytes.

    Args:
        path: an existing file.

    Raises:
        ScanError: the file is empty, of no accepted format, or named as what it is not.
    """
    if Path(path).stat().st_size == 0:
        raise ScanError(path, "the file is empty (0 bytes)", "Copy it again from its source, or leave it out.")
    named, found = format_by_name(path), format_by_content(path)
    if named is None and found != DICOM:
        raise ScanError(path, "not a format that is read", ACCEPTED)
    compressed = str(path).lower().endswith(".gz")
    expected = GZIP if compressed else named
    # Files without a known mark go to their reader: DICOM may lack the preamble, NIfTI pairs have another one.
    if found is None or named is None or found == expected:
        return named or DICOM
    raise ScanError(path, f"named as {'compressed ' * compressed}{named}, but its content is {found}", "Rename it.")
