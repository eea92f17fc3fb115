# SPDX-License-Identifier: Apache-2.0
import itertools
import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Resized, ResizeWithPadOrCropd

from custom.preprocessing import FitIntoBoxd
from custom.preprocessing.fit import fitted_size
from datasets import load_datalist
from datasets.loading import LoadScand

SHAPES = [(30, 50, 35), (35, 30, 50), (64, 64, 8), (8, 64, 64), (100, 20, 60), (5, 7, 6), (1, 40, 40)]
BOXES = [(40, 56, 40), (96, 96, 16), (16, 96, 96), (32, 32, 32), (24, 16, 8)]


@pytest.mark.parametrize(("shape", "box"), itertools.product(SHAPES, BOXES))
def test_the_whole_scan_is_in_the_box(shape, box):
    """Each corner of the scan lies in the box, by the affine; the scan touches the box along one axis."""
    image = MetaTensor(torch.ones(1, *shape), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    fitted = FitIntoBoxd("image", box)({"image": image})["image"]
    assert fitted.shape == (1, *box)
    to_box = np.linalg.inv(fitted.affine.numpy()) @ image.affine.numpy()
    for corner in itertools.product(*((-0.5, side - 0.5) for side in shape)):
        place = (to_box @ [*corner, 1])[:3]
        assert (place >= -0.5 - 1e-5).all()
        assert (place <= np.array(box) - 0.5 + 1e-5).all()
    size = fitted_size(shape, box)
    assert any(side == most for side, most in zip(size, box, strict=True))
    assert fitted.sum() == pytest.approx(np.prod(size))  # all of it inside, the rest zeros


def test_axes_are_scaled_by_one_factor():
    assert fitted_size((100, 50, 20), (96, 96, 16)) == (80, 40, 16)
    assert fitted_size((512, 512, 40), (64, 64, 64)) == (64, 64, 5)
    assert fitted_size((300, 1), (64, 64)) == (64, 1)


@pytest.mark.parametrize("shape", [(31, 50, 40), (64, 64, 3), (7, 9, 120)])
def test_a_cube_gets_what_it_always_got(shape):
    image, box = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)), (48, 48, 48)
    before = Compose([Resized("image", 48, size_mode="longest", mode="area"), ResizeWithPadOrCropd("image", box)])
    expected, found = (chain({"image": MetaTensor(image)})["image"] for chain in (before, FitIntoBoxd("image", box)))
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine, expected.affine)


def test_labels_keep_their_codes_and_follow_the_image():
    label = torch.zeros(1, 20, 40, 10, dtype=torch.int32)
    label[0, :5], label[0, -5:] = 2, 7
    data = {"image": label.float(), "label": label}
    both = FitIntoBoxd(["image", "label"], (16, 16, 16), ["nearest-exact", "nearest-exact"])(data)
    assert set(both["label"].unique().tolist()) == {0, 2, 7}
    assert torch.equal(both["image"], both["label"].float())
    assert set(FitIntoBoxd(["image", "label"], (8, 8, 8), allow_missing_keys=True)({"image": label})) == {"image"}


def test_a_small_lesion_in_the_corner_stays():
    """In a box of another shape, a lesion that touches two faces was cut off."""
    label = torch.zeros(1, 64, 64, 24)
    label[0, 40:43, 40:43, :3] = 1
    found = FitIntoBoxd("label", (96, 96, 16), "nearest-exact")({"label": MetaTensor(label)})["label"]
    size = fitted_size((64, 64, 24), (96, 96, 16))
    assert found.sum() >= 0.5 * label.sum() * np.prod(size) / np.prod(label.shape)


def test_empty_boxes_are_counted_and_said(caplog):
    fit = FitIntoBoxd("image", (32, 32, 32))
    with caplog.at_level(logging.WARNING):
        fit({"image": torch.ones(1, 32, 32, 20), "scan_id": "full"})
        for number in range(12):
            fit({"image": torch.ones(1, 32, 32, 8), "scan_id": f"thin{number}"})
    first, tenth = (record.getMessage() for record in caplog.records)
    assert "thin0 fills 25 % of image_size [32, 32, 32]" in first
    assert "1 of 2 scans" in first
    assert "[32, 32, 8]" in first
    assert "10 of 11 scans" in tenth
    assert (fit.padded, fit.seen) == (12, 13)


def test_a_box_with_too_few_axes_is_refused():
    with pytest.raises(ValueError, match=r"3 axes.*\[32, 32\]"):
        FitIntoBoxd("image", (32, 32))({"image": torch.ones(1, 8, 8, 8)})


@pytest.mark.parametrize(
    ("name", "box"), [("hippocampus3d", (40, 56, 40)), ("ct3d_lidc_nodules", (96, 96, 16))], ids=["hippocampus", "ct"]
)
def test_real_labels_are_all_in_the_box(data_root, name, box):
    """Boxes that the guides and the benchmarks use: 131 of 243 hippocampi and 66 of 174 nodules were cut in them."""
    fit = FitIntoBoxd(["image", "label"], box, ["area", "nearest-exact"])
    load = LoadScand("image", spatial_dims=3, label_keys="label")
    for item in load_datalist(data_root / name).items[:20]:
        scan = load({"image": item["image"], "label": item["mask"]})
        before, after = scan["label"], fit(scan)["label"]
        kept = (after > 0).sum() / (before > 0).sum() / (np.prod(fitted_size(before.shape[1:], box)) / before.numel())
        assert 0.8 < kept < 1.25, item["scan_id"]  # all voxels of the lesion, but for rounding
