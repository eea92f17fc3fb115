# SPDX-License-Identifier: Apache-2.0
"""Whether a scan's file says where the patient's right and left are."""

from __future__ import annotations

from pathlib import Path

from datasets.decoding import open_nifti
from datasets.formats import DICOM, NIFTI, NRRD, scan_format
from datasets.readers.dicom import series_files
from datasets.readers.dicom_header import ORIENTATION, read_header


def knows_sides(path: str | Path, series_uid: str | None = None) -> bool:
    """Say whether a file tells how its voxels lie in the patient, reading its header only.

    Pictures never do; NIfTI does if a form code is set, NRRD if it names its space, DICOM if the slices are oriented
    (projections are not).

    Args:
        path: a file, or a folder with a DICOM series.
        series_uid: which series of the folder.

    Raises:
        ScanError: a file that is no scan.
        OSError: a file that cannot be read.
    """
    path = Path(path)
    kind = DICOM if path.is_dir() else scan_format(path)
    if kind == DICOM:
        return bool(read_header(series_files(path, series_uid)[0]).tags.get(ORIENTATION))
    if kind == NIFTI:
        header = open_nifti(path).header
        return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    return kind == NRRD and _names_its_space(path)


def _names_its_space(path: Path) -> bool:
    """Whether the text at the start of an NRRD, which an empty line ends, has the field ``space``."""
    with open(path, "rb") as stream:
        for line in iter(lambda: stream.readline(4096).strip(), b""):
            if line.lower().startswith(b"space:"):
                return True
    return False
