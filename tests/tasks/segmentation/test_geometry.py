# SPDX-License-Identifier: Apache-2.0
"""Predictions lie where the truth lies, in the file and in the world, whatever was done to the scan before."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader
from monai.transforms import Compose
from nibabel.affines import apply_affine
from PIL import Image
from torch import Tensor, nn

from custom.tasks.segmentation import ScanGrid, Segmentation, label_classes
from datasets import LoadScand, ScanDataset


class Threshold(nn.Module):
    """A network that calls bright what is bright: what comes out shows where things lie, and nothing else."""

    def forward(self, image: Tensor) -> Tensor:
        bright = 40 * (image.amax(dim=1) - 0.5)
        return torch.stack([torch.zeros_like(bright), bright], dim=1)


def rotation(degrees: float, axis: int) -> np.ndarray:
    angle, matrix = np.deg2rad(degrees), np.eye(4)
    one, two = [each for each in range(3) if each != axis]
    matrix[one, one] = matrix[two, two] = np.cos(angle)
    matrix[one, two], matrix[two, one] = -np.sin(angle), np.sin(angle)
    return matrix


OBLIQUE = rotation(20, 0) @ rotation(-35, 2) @ np.diag([0.8, 1.1, 2.5, 1])
OBLIQUE[:3, 3] = [-30, 12, 55]
LAS = np.array([[-1.0, 0, 0, 20], [0, 1, 0, -10], [0, 0, 3, 5], [0, 0, 0, 1]])
PSR = np.array([[0.0, 0, 1.5, -8], [-1, 0, 0, 30], [0, 2, 0, -4], [0, 0, 0, 1]])
AFFINES = {"oblique": OBLIQUE, "LAS": LAS, "PSR": PSR, "RAS": np.diag([1.0, 1, 1, 1])}


def blob(shape: tuple[int, ...]) -> np.ndarray:
    """A lump off the centre, different along every axis."""
    centre, radius = [0.4, 0.62, 0.45], [0.16, 0.2, 0.25]
    grid = np.ogrid[tuple(slice(0, side) for side in shape)]
    inside = (
        sum(((axis / side - c) / r) ** 2 for axis, side, c, r in zip(grid, shape, centre, radius, strict=False)) < 1
    )
    return inside.astype(np.uint8)


def deterministic(configs: Path, dims: int, **overrides: object) -> Compose:
    parser = ConfigParser(ConfigParser.load_config_file(str(configs / "train.yaml")))
    settings = {"spatial_dims": dims, "classes": {5: "lump"}, "train#dataset#data": [], "datalist": None}
    parser.update({**settings, "label_classes#root": None, **overrides})
    return parser.get_parsed_content("validate#preprocessing")


def predict(configs: Path, folder: Path, item: dict, dims: int, **overrides: object):
    transforms = deterministic(configs, dims, **overrides)
    loader = DataLoader(ScanDataset([item], transforms, progress=False), batch_size=1)
    classes = label_classes({5: "lump"}, [], dims)
    task = Segmentation(classes, lambda images, network: network(images), dims, resamples=2, instances=True)
    (case,) = task.predict(Threshold(), loader, "test")
    files = task.save([case], {}, folder / "out")
    return case, next(file for file in files if "_instances" not in file.name and file.suffix != ".csv")


def centre(codes: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return apply_affine(affine, np.argwhere(codes > 0).mean(axis=0))


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("spacing", [None, [1.3, 1.3, 1.3]])
def test_volumes(configs: Path, tmp_path: Path, name: str, spacing: list | None) -> None:
    affine, shape = AFFINES[name], (30, 36, 24)
    truth = blob(shape) * 5
    nib.save(nib.Nifti1Image((truth * 30 + 20).astype(np.int16), affine), tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(truth, affine), tmp_path / "mask.nii.gz")
    item = {"image": str(tmp_path / "scan.nii.gz"), "label": str(tmp_path / "mask.nii.gz"), "scan_id": "scan.nii.gz"}
    options = {"image_size": [48, 48, 48], "spacing": spacing}
    case, file = predict(configs, tmp_path, item, 3, **options)
    assert file == tmp_path / "out" / "scan.nii.gz"
    saved = nib.load(file)
    codes = np.asarray(saved.dataobj)
    assert codes.shape == shape
    assert set(np.unique(codes)) == {0, 5}
    assert np.allclose(saved.affine, nib.load(tmp_path / "scan.nii.gz").affine)
    limit = 0.5 * min(nib.affines.voxel_sizes(affine))
    assert np.linalg.norm(centre(codes, saved.affine) - centre(truth, affine)) < limit
    dice = 2 * ((codes > 0) & (truth > 0)).sum() / ((codes > 0).sum() + (truth > 0).sum())
    assert dice > (0.93 if spacing is None else 0.88)
    assert case.figures.dice[0] == pytest.approx(dice, abs=1e-6), "measured on the same voxels as saved"
    millilitres = (truth > 0).sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
    assert case.figures.true_volume[0] == pytest.approx(millilitres, rel=1e-4)


def test_windows_at_the_scans_own_size_are_exact(configs: Path, tmp_path: Path) -> None:
    truth = blob((20, 31, 17)) * 5
    nib.save(nib.Nifti1Image((truth * 30 + 20).astype(np.int16), OBLIQUE), tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(truth, OBLIQUE), tmp_path / "mask.nii.gz")
    item = {"image": str(tmp_path / "scan.nii.gz"), "label": str(tmp_path / "mask.nii.gz"), "scan_id": "scan.nii.gz"}
    case, file = predict(configs, tmp_path, item, 3, patch_size=[32, 16, 16])
    assert np.array_equal(np.asarray(nib.load(file).dataobj), truth)
    assert case.figures.dice[0] == 1


def test_a_label_map_stored_in_another_orientation(configs: Path, tmp_path: Path) -> None:
    truth = blob((20, 31, 17)) * 5
    image = nib.Nifti1Image((truth * 30 + 20).astype(np.int16), PSR)
    nib.save(image, tmp_path / "scan.nii.gz")
    nib.save(nib.as_closest_canonical(nib.Nifti1Image(truth, PSR)), tmp_path / "mask.nii.gz")
    item = {"image": str(tmp_path / "scan.nii.gz"), "label": str(tmp_path / "mask.nii.gz"), "scan_id": "scan.nii.gz"}
    case, file = predict(configs, tmp_path, item, 3, patch_size=[16, 16, 16])
    assert case.figures.dice[0] == 1
    assert np.array_equal(np.asarray(nib.load(file).dataobj), truth)


def test_a_picture(configs: Path, tmp_path: Path) -> None:
    truth = blob((60, 90)).T * 5  # rows along y
    Image.fromarray(truth * 30 + 20).save(tmp_path / "scan.png")
    Image.fromarray(truth).save(tmp_path / "mask.png")
    item = {"image": str(tmp_path / "scan.png"), "label": str(tmp_path / "mask.png"), "scan_id": "folder/scan.png"}
    case, file = predict(configs, tmp_path, item, 2, image_size=[64, 64])
    assert file == tmp_path / "out" / "folder" / "scan.png"
    saved = np.asarray(Image.open(file))
    assert saved.shape == truth.shape
    assert set(np.unique(saved)) == {0, 5}
    assert np.abs(np.argwhere(saved).mean(axis=0) - np.argwhere(truth).mean(axis=0)).max() < 0.3
    assert case.figures.dice[0] > 0.95
    assert case.grid.unit == "pixels"


@pytest.mark.parametrize("across", [0, 1, 2])
@pytest.mark.parametrize("name", ["oblique", "PSR"])
def test_slices_in_space(configs: Path, tmp_path: Path, across: int, name: str) -> None:
    affine = AFFINES[name]
    truth = np.expand_dims(blob((40, 56)), across) * 5
    nib.save(nib.Nifti1Image((truth * 30 + 20).astype(np.int16), affine), tmp_path / "scan.nii.gz")
    nib.save(nib.Nifti1Image(truth, affine), tmp_path / "mask.nii.gz")
    item = {"image": str(tmp_path / "scan.nii.gz"), "label": str(tmp_path / "mask.nii.gz"), "scan_id": "scan.nii.gz"}
    case, file = predict(configs, tmp_path, item, 2, image_size=[64, 64])
    saved = nib.load(file)
    codes = np.asarray(saved.dataobj)
    assert codes.shape == truth.shape
    assert np.allclose(saved.affine, affine, atol=1e-5)
    assert np.abs(np.argwhere(codes).mean(axis=0) - np.argwhere(truth).mean(axis=0)).max() < 0.3
    assert case.figures.dice[0] > 0.95
    assert case.grid.unit == "mm2"


def write_series(folder: Path, volume: np.ndarray) -> None:
    """A series of oblique slices, one file each: columns along x, rows along y."""
    itk = pytest.importorskip("itk")
    folder.mkdir()
    direction = rotation(25, 0)[:3, :3]
    for index in range(volume.shape[2]):
        image = itk.image_from_array(np.ascontiguousarray(volume[:, :, index].T)[None])
        image.SetSpacing([0.8, 1.1, 2.5])
        image.SetOrigin([float(at) for at in [10, -20, 5] + direction[:, 2] * 2.5 * index])
        image.SetDirection(itk.matrix_from_array(direction))
        io = itk.GDCMImageIO.New()
        io.KeepOriginalUIDOn()
        tags = image.GetMetaDataDictionary()
        tags["0008|0060"], tags["0008|0008"] = "MR", "ORIGINAL\\PRIMARY"
        tags["0020|000d"], tags["0020|000e"] = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.7"
        tags["0008|0018"] = f"1.2.826.0.1.3680043.8.498.7.{index + 1}"
        itk.ImageFileWriter.New(Input=image, FileName=str(folder / f"{index:03d}.dcm"), ImageIO=io).Update()


def test_a_dicom_series(configs: Path, tmp_path: Path) -> None:
    folder, truth = tmp_path / "series", blob((30, 36, 12)) * 5
    write_series(folder, (truth * 30 + 20).astype(np.int16))
    scan = LoadScand("image", 3)({"image": str(folder)})["image"]
    affine = np.asarray(scan.meta["original_affine"])
    assert nib.affines.voxel_sizes(affine) == pytest.approx([0.8, 1.1, 2.5])
    nib.save(nib.Nifti1Image(truth, affine), tmp_path / "mask.nii.gz")
    item = {"image": str(folder), "label": str(tmp_path / "mask.nii.gz"), "scan_id": "series"}
    case, file = predict(configs, tmp_path, item, 3, patch_size=[16, 16, 16])
    assert file.name == "series.nii.gz"
    assert np.array_equal(np.asarray(nib.load(file).dataobj), truth)
    assert np.allclose(nib.load(file).affine, affine, atol=1e-5)
    assert case.figures.dice[0] == 1


def test_what_the_network_did_not_see_is_background(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), dtype=np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    scan = LoadScand("image", 3)({"image": str(tmp_path / "scan.nii.gz")})["image"]
    grid = ScanGrid.of(scan)
    seen = torch.full((2, 4, 4, 4), 0.5)
    seen[1] = 0.9
    part = scan[:, 2:6, 2:6, 2:6]
    part.affine = scan.affine @ torch.tensor(nib.affines.from_matvec(np.eye(3), [2, 2, 2]))
    labels = grid.from_network(seen, part).argmax(dim=0)
    assert labels.sum() == 4**3
    assert labels[2:6, 2:6, 2:6].all()


def test_real_scans_in_awkward_orientations(configs: Path, data_root: Path, tmp_path: Path) -> None:
    """A label map of real files (PLS, LAS, oblique): the scan's own bright half comes back where it is."""
    found = sorted((data_root / "hippocampus3d").rglob("*.nii.gz"))[0]
    stored = nib.load(found)
    values = np.asarray(stored.dataobj).astype(np.float32)
    turned = nib.Nifti1Image(values[::-1].transpose(2, 0, 1).copy(), stored.affine @ _turn(values.shape))
    nib.save(turned, tmp_path / "scan.nii.gz")
    item = {"image": str(tmp_path / "scan.nii.gz"), "scan_id": "scan"}
    _, file = predict(configs, tmp_path, item, 3, patch_size=[16, 16, 16], crop_to_body=False)
    saved = nib.load(file)
    codes = np.asarray(saved.dataobj)
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.clip((turned.get_fdata() - low) / (high - low), 0, 1) > 0.5
    assert (codes > 0).shape == expected.shape
    assert ((codes > 0) == expected).mean() > 0.999


def _turn(shape: tuple[int, ...]) -> np.ndarray:
    """Indices of ``values[::-1].transpose(2, 0, 1)`` to those of ``values``."""
    matrix = np.zeros((4, 4))
    matrix[2, 0], matrix[0, 1], matrix[1, 2], matrix[3, 3] = 1, -1, 1, 1
    matrix[0, 3] = shape[0] - 1
    return matrix
