# SPDX-License-Identifier: Apache-2.0
"""Maps find back to the voxels of the file, and are written there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, CropForegroundd, ResizeWithPadOrCropd, SaveImaged
from PIL import Image

from custom.tasks.segmentation.transforms import SaveLabelMapd, ToFileGridd
from datasets import LoadScand

OBLIQUE = np.array([[-1.9, 0.3, 0.0, 20.0], [0.2, -1.2, 0.4, -7.0], [0.1, 0.3, 2.5, 3.0], [0, 0, 0, 1.0]])


def written(folder: Path, shape: tuple[int, ...]) -> tuple[Path, np.ndarray]:
    """A scan with a bright block of codes in empty space, as NIfTI or (two sides) PNG."""
    codes = np.zeros(shape, dtype=np.uint8)
    block = tuple(slice(0, 1) if side == 1 else slice(2, side - 3) for side in shape)
    codes[block] = np.random.default_rng(0).integers(1, 4, codes[block].shape)
    if len(shape) == 2:
        Image.fromarray(codes.T).save(folder / "scan.png")
        return folder / "scan.png", codes[..., None]
    nib.save(nib.Nifti1Image(codes, OBLIQUE), folder / "scan.nii.gz")
    return folder / "scan.nii.gz", codes


def seen(path: Path, dims: int, size: int) -> dict[Any, Any]:
    """The scan as a network might see it: turned, cropped, padded, cut."""
    chain = Compose(
        [
            LoadScand("image", dims),
            CropForegroundd("image", "image", margin=1, allow_smaller=True),
            ResizeWithPadOrCropd("image", (size,) * dims),
        ]
    )
    return dict(chain({"image": str(path)}))


@pytest.mark.parametrize("shape", [(9, 12, 10), (9, 12, 1), (9, 1, 12), (1, 9, 12), (9, 12)])
def test_a_network_that_answers_with_what_it_sees_gives_the_file_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path, codes = written(tmp_path, shape)
    data = seen(path, 3 if min(shape) > 1 and len(shape) == 3 else 2, 14)
    data["pred"] = torch.cat([data["image"].as_tensor(), 2 * data["image"].as_tensor()])
    found = ToFileGridd("pred")(data)["pred"]
    assert found.shape == (2, *codes.shape)
    assert torch.allclose(found[0].as_tensor(), torch.as_tensor(codes).float(), atol=1e-4)
    assert torch.allclose(found[1].as_tensor(), 2 * torch.as_tensor(codes).float(), atol=1e-4)
    if len(shape) == 3:
        assert np.allclose(found.affine, OBLIQUE)
    label_maps = {**data, "pred": found[:1].round()}
    SaveLabelMapd("pred", tmp_path / "out")(label_maps)
    (file,) = (tmp_path / "out").iterdir()
    if len(shape) == 2:
        assert np.array_equal(np.asarray(Image.open(file)).T, codes[..., 0])
        return
    stored = nib.load(file)
    assert stored.shape == shape
    assert np.allclose(stored.affine, OBLIQUE, atol=1e-5)
    assert np.array_equal(np.asarray(stored.dataobj), codes)


def test_what_the_network_did_not_see_is_zero(tmp_path: Path) -> None:
    path, codes = written(tmp_path, (9, 12, 10))
    data = seen(path, 3, 4)
    data["pred"] = torch.ones(1, 4, 4, 4)
    found = ToFileGridd("pred")(data)["pred"]
    assert 0 < int((found > 0.5).sum()) <= 64
    assert found.shape[1:] == codes.shape


def test_names_of_label_maps(tmp_path: Path) -> None:
    path, _ = written(tmp_path, (9, 12))
    data = seen(path, 2, 14)
    data = {**data, "pred": torch.zeros(1, 9, 12, 1)}
    save = SaveLabelMapd("pred", tmp_path / "out")
    for name in ("case.png", "case.jpg", "below/case.png", "series.1"):
        save({**data, "scan_id": name})
    files = {str(each.relative_to(tmp_path / "out")) for each in (tmp_path / "out").rglob("*.png")}
    assert files == {"case_seg.png", "case.jpg_seg.png", "below/case_seg.png", "series.1_seg.png"}
    assert isinstance(save, SaveImaged)
