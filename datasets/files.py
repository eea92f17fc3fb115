# SPDX-License-Identifier: Apache-2.0
"""Reading files through MONAI's readers, with one form of result and one kind of error."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.data import ITKReader, NibabelReader, PILReader

from datasets.errors import ScanError
from datasets.readers.plain import ACCEPTED, DICOM, PICTURES, VOLUMES

NIFTI = (".nii", ".nii.gz")


class RawScan(NamedTuple):
    """What a file holds.

    - ``values``: ``[x, y, C]``, ``[x, y, z, C]`` or ``[x, y, z, t, C]``.
    - ``affine``: voxel index -> mm in RAS+, 4 x 4 (3 x 3 for pictures).
    - ``path``: for messages.
    """

    values: np.ndarray
    affine: np.ndarray
    path: str

    @property
    def frames(self) -> int:
        """Number of volumes in a series of volumes."""
        return self.values.shape[3] if self.values.ndim == 5 else 1


def read_file(path: str | Path, series_uid: str | None = None) -> RawScan:
    """Read a picture, a volume or a DICOM series.

    Raises:
        ScanError: naming the file, if it is absent, empty, damaged or of another kind than its name says.
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(path, "no such file", "Check dataset_dir and the list of scans")
    if path.is_file() and path.stat().st_size == 0:
        raise ScanError(path, "an empty file", "Copy it again, or remove it")
    reader = _reader(path, series_uid)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values, meta = reader.get_data(reader.read(str(path)))
    except Exception as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ScanError(
            path, f"cannot be read ({reason[0]})", "Is it complete, and is its name's ending right?"
        ) from error
    if values.ndim > 4:
        raise ScanError(path, f"{values.ndim} axes, {values.shape}", "Split it into volumes")
    affine = np.asarray(meta.get("affine", np.eye(3)), dtype=np.float64)
    return RawScan(_with_channel_axis(np.asarray(values), meta), affine, str(path))


def _reader(path: Path, series_uid: str | None) -> Any:
    name = path.name.lower()
    if path.is_dir() or name.endswith(DICOM):
        return ITKReader(series_name=series_uid or "")
    if name.endswith(NIFTI):
        return NibabelReader()
    if name.endswith(VOLUMES):
        return ITKReader()
    if name.endswith(PICTURES):
        return PILReader(converter=_plain_mode)
    raise ScanError(path, "of an unknown kind", f"Accepted: {ACCEPTED}")


def _plain_mode(image: Any) -> Any:
    """Palettes and transparency become plain grey or colour; 16-bit grey keeps its range."""
    if image.mode in ("P", "RGBA", "CMYK", "YCbCr", "PA"):
        return image.convert("RGB")
    return image.convert("L") if image.mode in ("LA", "1") else image


def _with_channel_axis(values: np.ndarray, meta: dict[str, Any]) -> np.ndarray:
    """Put channels last; without channels, add an axis. The fourth axis of a NIfTI file is time, not channels."""
    channel = meta.get("original_channel_dim", float("nan"))
    is_series = values.ndim == 4 and "pixdim" in meta
    if channel != channel or values.ndim == 2 or is_series:
        return values[..., None]
    return np.moveaxis(values, int(channel), -1)
