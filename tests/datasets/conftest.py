# SPDX-License-Identifier: Apache-2.0
"""Small files in every format."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image


def _png(path: Path, values: np.ndarray | None = None, **options: object) -> Path:
    """`values` are [row, column(, colour)] as Pillow takes them; default a ramp of 4 x 3 pixels (width x height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) if values is None else values
    Image.fromarray(values).save(path, **options)
    return path


def _nifti(path: Path, values: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(60, dtype=np.int16).reshape(5, 4, 3) if values is None else values
    nib.save(nib.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def _dicom(path: Path, uid: str, position: Sequence[float] = (0, 0, 0), row: Sequence[float] = (1, 0, 0),
           value: int = 0, size: tuple[int, int] = (6, 5), compress: bool = False,
           image_type: str = "ORIGINAL\\PRIMARY") -> Path:  # fmt: skip
    """One slice of a series: a ramp plus `value`, columns along `row`, rows along y."""
    itk = pytest.importorskip("itk")
    path.parent.mkdir(parents=True, exist_ok=True)
    columns, rows = size
    image = itk.image_from_array((np.arange(rows * columns, dtype=np.int16) + value).reshape(1, rows, columns))
    image.SetOrigin([float(at) for at in position])
    normal = np.cross(row, (0, 1, 0))
    image.SetDirection(itk.matrix_from_array(np.stack([row, (0, 1, 0), normal], axis=1).astype(float)))
    io = itk.GDCMImageIO.New()
    io.KeepOriginalUIDOn()
    tags = image.GetMetaDataDictionary()
    instance = f"{uid}.{zlib.crc32((path.name + str(value)).encode())}"
    for tag, text in {
        "0008|0060": "MR", "0020|000d": "1.2.826.0.1.3680043.8.498.1", "0020|000e": uid, "0008|0018": instance,
        "0008|0008": image_type,
    }.items():  # fmt: skip
        tags[tag] = text
    writer = itk.ImageFileWriter.New(Input=image, FileName=str(path), ImageIO=io)
    writer.SetUseCompression(compress)
    writer.Update()
    return path


def _series(folder: Path, uid: str = "1.2.826.0.1.3680043.8.498.7", heights: Sequence[float] = (0, 2, 4),
            shear: float = 0.0, value: int = 0) -> Path:  # fmt: skip
    for index, z in enumerate(heights):
        name = f"{uid.rpartition('.')[2]}_{index}.dcm"
        _dicom(folder / name, uid, (0, shear * z, z), value=value + 100 * index)
    return folder


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Writers of small files: png, nifti, dicom (one slice), series, manifest."""
    return SimpleNamespace(png=_png, nifti=_nifti, dicom=_dicom, series=_series, manifest=_manifest)


def _manifest(root: Path, *rows: str, header: str = "file,label,split") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "manifest.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level("INFO")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)
