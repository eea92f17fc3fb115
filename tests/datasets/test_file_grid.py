# SPDX-License-Identifier: Apache-2.0
"""What is written of a scan lies voxel by voxel on its file, in every reader, whatever the file says of its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
import torch

from custom.regions import LocalizeRegiond, RegionStore
from custom.tasks.segmentation.geometry import ScanGrid
from custom.tasks.segmentation.saving import write_label_map
from datasets import LoadScand
from datasets.file_grid import FileGrid, nifti_on

SHAPE = (7, 8, 9)
TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.4) @ np.diag([0.8, 1.1, 2.5])
SHEAR = [[1, 0.3, 0], [0, 1, 0], [0, 0, 2.0]]


def affine_of(matrix: Any) -> np.ndarray:
    full = np.eye(4)
    full[:3, :3], full[:3, 3] = matrix, (-30.0, 12.0, 55.0)
    return full


AFFINES = {
    "RAS": affine_of(np.diag([1.0, 2, 3])),
    "LPS": affine_of(np.diag([-1.0, -2, 3])),
    "PSR": affine_of([[0, 0, 1.5], [-1, 0, 0], [0, 2, 0]]),
    "oblique": affine_of(TURN),
    "sheared": affine_of(SHEAR),
}
# sform code and qform code; of the two forms with different places, nibabel follows the sform.
CODES = {"sform": (1, 0), "qform": (0, 2), "both": (2, 1), "neither": (0, 0)}


class Bright:
    """A localizer that calls bright what is bright."""

    def describe(self) -> dict[str, str]:
        return {"name": "bright"}

    def localize(self, image: torch.Tensor, prompts: Any) -> torch.Tensor:
        return image[:1].as_tensor().clone().repeat(len(prompts), *[1] * (image.ndim - 1)) / 255


def values_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray, codes: tuple[int, int], kind: Any) -> None:
    image = kind(values, affine)
    for code, place in zip(codes, (image.set_sform, image.set_qform), strict=True):
        place(affine, code, update_affine=False)
    image.header["sform_code"], image.header["qform_code"] = codes
    image = kind(values, image.header.get_best_affine(), image.header)
    image.header.set_xyzt_units("micron", "msec")
    nib.save(image, path)


def localized(path: Path, store: Path, dims: int = 3, **options: Any) -> tuple[Path, torch.Tensor]:
    """The file of the map that LocalizeRegiond keeps of a scan, and the map as it came."""
    regions = RegionStore(store)
    item = LoadScand("image", dims, **options)({"image": str(path), "scan_id": "scan"})
    made = LocalizeRegiond(localizer=Bright(), prompts=["x"], store=regions)(item)["region"][0].as_tensor()
    for again in (regions, RegionStore(store, read_only=True)):
        read = LocalizeRegiond(localizer=Bright(), prompts=["x"], store=again)(item)["region"][0].as_tensor()
        assert torch.equal(read, made), "maps come back as they were"
    return regions.file("scan", "x", dims), made


def predicted(path: Path, folder: Path, dims: int = 3, **options: Any) -> Path:
    """The file of a label map of a scan, made in memory and brought to the file."""
    image = LoadScand("image", dims, **options)({"image": str(path)})["image"]
    grid = ScanGrid.of(image)
    return write_label_map(folder / "labels", grid.to_file(image[0].numpy().astype(np.uint8)), grid)


def check_forms(found: Any, source: Any) -> None:
    for field in ("qform_code", "sform_code", "xyzt_units", "quatern_b", "qoffset_y", "srow_x", "srow_z"):
        assert np.array_equal(found.header[field], source.header[field]), field
    assert np.array_equal(found.header["pixdim"][:4], source.header["pixdim"][:4])
    assert found.shape == source.shape[:3]
    assert np.array_equal(found.affine, source.affine)


def check_itk(found: Path, source: Path) -> None:
    """ITK sees the two at one place."""
    one, two = itk.imread(str(found)), itk.imread(str(source))
    for corner in ((0, 0, 0), (3, 2, 1), (6, 0, 0)):
        places = [image.TransformIndexToPhysicalPoint(corner[: image.GetImageDimension()]) for image in (one, two)]
        assert np.allclose(*places, atol=1e-4)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("codes", CODES)
def test_nifti(tmp_path: Path, name: str, codes: str) -> None:
    values, path = values_of(SHAPE), tmp_path / "scan.nii.gz"
    kind = nib.Nifti2Image if name == "PSR" else nib.Nifti1Image
    write_nifti(path, values, AFFINES[name], CODES[codes], kind)
    source: Any = nib.load(path)
    assert (int(source.header["sform_code"]), int(source.header["qform_code"])) == CODES[codes]
    region, _ = localized(path, tmp_path / "store")
    labels = predicted(path, tmp_path)
    for file in (region, labels):
        found: Any = nib.load(file)
        check_forms(found, source)
        factor = 255 if file == region else 1
        assert np.array_equal((np.asarray(found.dataobj) * factor).round(), values), "voxel by voxel of the file"
        if name not in ("sheared", "PSR"):  # which ITK refuses: no right angles, NIfTI-2
            check_itk(file, path)


@pytest.mark.parametrize("shape", [(7, 8, 1), (1, 8, 7), (7, 8)])
def test_slices(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values, path = values_of(shape), tmp_path / "scan.nii"
    write_nifti(path, values, AFFINES["LPS"], (1, 1), nib.Nifti1Image)
    region, made = localized(path, tmp_path / "store", dims=2)
    assert made.ndim == 2
    for file, factor in ((region, 255), (predicted(path, tmp_path, dims=2), 1)):
        found: Any = nib.load(file)
        check_forms(found, nib.load(path))
        assert np.array_equal((np.asarray(found.dataobj) * factor).round(), values)


def test_one_volume_of_many(tmp_path: Path) -> None:
    values, path = values_of((*SHAPE, 3)), tmp_path / "scan.nii.gz"
    write_nifti(path, values, AFFINES["PSR"], (0, 0), nib.Nifti1Image)
    region, _ = localized(path, tmp_path / "store", frame=1)
    for file, factor in ((region, 255), (predicted(path, tmp_path, frame=1), 1)):
        found: Any = nib.load(file)
        check_forms(found, nib.load(path))
        assert np.array_equal((np.asarray(found.dataobj) * factor).round(), values[..., 1])


@pytest.mark.parametrize("direction", [np.eye(3), [[0, 0, 1], [1, 0, 0], [0, 1, 0]]])
def test_nrrd(tmp_path: Path, direction: Any) -> None:
    values, path = values_of(SHAPE), tmp_path / "scan.nrrd"
    image = itk.image_from_array(np.ascontiguousarray(values.T))
    image.SetDirection(itk.matrix_from_array(np.array(direction, dtype=np.float64)))
    image.SetSpacing([1.0, 2.0, 3.0])
    image.SetOrigin([5.0, -7.0, 9.0])
    itk.imwrite(image, str(path))
    region, _ = localized(path, tmp_path / "store")
    for file, factor in ((region, 255), (predicted(path, tmp_path), 1)):
        found: Any = nib.load(file)
        assert np.array_equal((np.asarray(found.dataobj) * factor).round(), values)
        assert np.allclose(found.get_sform(), found.get_qform(), atol=1e-4), "both forms say the same"
        check_itk(file, path)


def test_maps_that_lie_as_in_memory_are_still_read(tmp_path: Path) -> None:
    """As stores held them: RAS+, with the affine of the scan in memory; and pictures of slices."""
    path, store = tmp_path / "scan.nii.gz", RegionStore(tmp_path / "store")
    cube = (8, 8, 8)
    write_nifti(path, values_of(cube), AFFINES["PSR"], (1, 1), nib.Nifti1Image)
    item = LoadScand("image", 3)({"image": str(path), "scan_id": "scan"})
    localize = LocalizeRegiond(localizer=Bright(), prompts=["x"], store=store)
    region = torch.from_numpy(values_of(cube, 1)) / 255
    record = localize._records(item["image"].as_tensor(), ["x"])["x"]
    store.save("scan", "x", region, record, affine=item["image"].affine)
    for again in (store, RegionStore(tmp_path / "store", read_only=True)):
        read = LocalizeRegiond(localizer=Bright(), prompts=["x"], store=again)(item)["region"][0].as_tensor()
        assert torch.equal(read, region)
    write_nifti(tmp_path / "slice.nii", values_of((7, 8, 1)), AFFINES["RAS"], (1, 1), nib.Nifti1Image)
    flat = LoadScand("image", 2)({"image": str(tmp_path / "slice.nii"), "scan_id": "slice"})
    plane, record = (
        torch.from_numpy(values_of((7, 8), 2)) / 255,
        localize._records(flat["image"].as_tensor(), ["x"])["x"],
    )
    store.save("slice", "x", plane, record)
    assert store.file("slice", "x", 2).suffix == ".png"
    assert torch.equal(localize(flat)["region"][0].as_tensor(), plane)
    store.save("slice", "x", plane, record, grid=FileGrid.of(flat["image"]))
    assert store.file("slice", "x", 2).suffix == ".gz"
    assert not (tmp_path / "store" / "maps" / "slice" / "x.png").exists(), "one map, not two"
    assert torch.equal(localize(flat)["region"][0].as_tensor(), plane)


def test_maps_of_resampled_scans_lie_along_the_axes_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    write_nifti(path, values_of((12, 8, 10)), AFFINES["PSR"], (1, 1), nib.Nifti1Image)
    region, made = localized(path, tmp_path / "store", spacing=1.0)
    found: Any = nib.load(region)
    assert nib.aff2axcodes(found.affine) == ("P", "S", "R")
    assert np.allclose(nib.affines.voxel_sizes(found.affine), 1)
    image = LoadScand("image", 3, spacing=1.0)({"image": str(path)})["image"]
    place = image.affine.numpy() @ [2, 3, 4, 1]
    voxel = np.linalg.solve(found.affine, place)
    assert np.allclose(voxel, voxel.round(), atol=1e-3)
    assert np.asarray(found.dataobj)[tuple(voxel.round().astype(int)[:3])] == pytest.approx(float(made[2, 3, 4]))


def test_a_scan_that_is_gone_leaves_its_affine(tmp_path: Path) -> None:
    image = nifti_on(values_of(SHAPE), AFFINES["oblique"], tmp_path / "gone.nii.gz")
    assert np.allclose(image.affine, AFFINES["oblique"])
    assert np.allclose(image.get_qform(), AFFINES["oblique"], atol=1e-4)
    sheared = nifti_on(values_of(SHAPE), AFFINES["sheared"])
    assert np.allclose(sheared.affine, AFFINES["sheared"])
    assert int(sheared.header["qform_code"]) == 0, "a quaternion cannot say it"
    assert FileGrid.of(torch.zeros(1, 4, 4, 4)) is None
