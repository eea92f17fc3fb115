# SPDX-License-Identifier: Apache-2.0
"""Cropping to the body: what is cut, and what must survive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import CropForeground, CropForegroundd, ScaleIntensityRangePercentiles

from custom.regions import body_voxels
from datasets.datalist import load_datalist
from datasets.errors import ScanError
from datasets.loading import LoadScand

SIZES = pytest.mark.parametrize("size", [(64, 80), (40, 48, 32)], ids=["2D", "3D"])
MARGIN = 4


def box_of(image: torch.Tensor) -> tuple[list[int], list[int]]:
    """Corners of the crop that the configs make."""
    start, end = CropForeground(select_fn=body_voxels, margin=MARGIN, allow_smaller=True).compute_bounding_box(image)
    return start.tolist(), end.tolist()


def body(size: tuple[int, ...], noise: float = 0.0) -> torch.Tensor:
    """A bright box with a dark hole, a quarter of each side away from the borders, in air with Rayleigh noise."""
    generator = np.random.default_rng(0)
    image = np.hypot(*(generator.normal(0, noise, (2, *size)))) if noise else np.zeros(size)
    image[tuple(slice(side // 4, side - side // 4) for side in size)] = 0.7
    image[tuple(slice(side // 2 - 2, side // 2 + 2) for side in size)] = 0.0
    return torch.from_numpy(image[None].astype(np.float32))


@SIZES
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
def test_the_box_is_the_body_and_its_margin(size: tuple, noise: float) -> None:
    start, end = box_of(body(size, noise))
    # The average over five voxels widens a bright edge by two.
    for low, high, side in zip(start, end, size, strict=True):
        assert low == max(side // 4 - 2 - MARGIN, 0)
        assert high == min(side - side // 4 + 2 + MARGIN, side)


@SIZES
def test_more_noise_than_the_threshold_costs_air_not_anatomy(size: tuple) -> None:
    start, end = box_of(body(size, noise=0.1))
    assert (start, end) == ([0] * len(size), list(size))


@SIZES
def test_specks_and_letters_do_not_hold_the_air(size: tuple) -> None:
    image = body(size)
    clean = box_of(image)
    image[(0, *(1 for _ in size))] = 1.0
    assert box_of(image) == clean


def test_a_piece_as_large_as_a_finger_is_kept() -> None:
    image = torch.zeros(1, 128, 128)
    image[0, 60:120, 60:120] = 0.8
    image[0, 10:16, 10:16] = 0.8
    assert box_of(image)[0] == [4, 4]


def noise_alone(size: tuple) -> torch.Tensor:
    return ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)(
        torch.from_numpy(np.random.default_rng(0).rayleigh(4, (1, *size)).astype(np.float32))
    )


def lung_crop(size: tuple) -> torch.Tensor:
    """A nodule in lung, Hounsfield units, scaled as the configs do: hardly anything is brighter than the lung."""
    generator = np.random.default_rng(0)
    image = generator.normal(-850, 40, size)
    image[tuple(slice(side // 2 - 3, side // 2 + 3) for side in size)] = 30
    image += 400 * (generator.random(size) < 0.02)
    return ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)(torch.from_numpy(image[None].astype(np.float32)))


def dark_field(size: tuple) -> torch.Tensor:
    """A radiograph: two dark fields between bright borders."""
    image = torch.full((1, *size), 0.6)
    image[:, 8:20, 6:-6] = image[:, -20:-8, 6:-6] = 0.0
    return image


def few_spots(size: tuple) -> torch.Tensor:
    image = torch.zeros(1, *size)
    image[(0, *(slice(10, 14) for _ in size))] = 1
    return image


@SIZES
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda size: torch.zeros(1, *size), id="all background"),
        pytest.param(lambda size: torch.ones(1, *size), id="all body"),
        pytest.param(lambda size: torch.full((1, *size), 0.04), id="all dark"),
        noise_alone,
        lung_crop,
        dark_field,
        few_spots,
    ],
)
def test_scans_without_air_and_scans_without_body_stay_whole(make, size: tuple) -> None:
    assert box_of(make(size)) == ([0] * len(size), list(size))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (2, 5, 1)])
def test_tiny_scans(size: tuple) -> None:
    assert box_of(torch.rand(1, *size) + 0.1) == ([0] * len(size), list(size))


def test_any_channel_counts() -> None:
    image = torch.zeros(3, 40, 40)
    image[0, 20:30, 20:30] = image[2, 8:20, 8:20] = 1
    assert body_voxels(image).shape == (1, 40, 40)
    assert box_of(image) == ([2, 2], [36, 36])


def test_region_maps_are_cropped_alike_and_may_be_missing() -> None:
    image = MetaTensor(body((64, 80)))
    region = MetaTensor(torch.arange(64.0 * 80).reshape(1, 64, 80))
    crop = CropForegroundd(
        ["image", "region"], "image", body_voxels, margin=MARGIN, allow_smaller=True, allow_missing_keys=True
    )
    cut = crop({"image": image, "region": region})
    assert cut["image"].shape == cut["region"].shape == (1, 44, 52)
    assert torch.equal(cut["region"].as_tensor(), region.as_tensor()[:, 10:54, 14:66])
    assert crop({"image": image})["image"].shape == (1, 44, 52)


def test_a_negative_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"-0\.1"):
        body_voxels(torch.zeros(1, 8, 8), threshold=-0.1)


SETS = {
    "cxr_lungs": (True, 0.3),
    "ct_lidc_nodules": (True, 0.1),
    "hippocampus3d": (True, 0.05),
    "ct3d_lidc_nodules": (True, 0.05),
    "brain_mri_cheng": (False, 0.6),
    "ct_sarscov2": (False, 0.6),
    "cxr_kermany": (False, 0.3),
}


@pytest.mark.parametrize("name", SETS)
def test_nothing_that_experts_marked_is_cut_from_real_scans(data_root: Path, name: str) -> None:
    has_masks, most = SETS[name]
    datalist = load_datalist(data_root / name)
    load = LoadScand("image", datalist.spatial_dims, label_keys="mask" if has_masks else ())
    scale = ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)
    for item in datalist.split("val")[:12]:
        data = load(item)
        image = scale(data["image"])
        start, end = box_of(image)
        kept = tuple(slice(low, high) for low, high in zip(start, end, strict=True))
        inside = torch.zeros(image.shape[1:], dtype=torch.bool)
        inside[kept] = True
        assert inside.float().mean() > 1 - most, item["scan_id"]
        assert inside.all() or float(image[0][~inside].mean()) < 0.05, item["scan_id"]
        if has_masks:
            assert not data["mask"][0][~inside].any(), item["scan_id"]
        for x, y, width, height in item.get("boxes") or []:
            assert start[0] <= x, item["scan_id"]
            assert x + width <= end[0] + 1, item["scan_id"]
            assert start[1] <= y, item["scan_id"]
            assert y + height <= end[1] + 1, item["scan_id"]


def test_odd_real_volumes_never_become_empty(data_root: Path) -> None:
    datalist = load_datalist(data_root / "odd3d")
    load, read = LoadScand("image", 3, frame=0), 0
    for item in datalist.items:
        try:
            image = load({"image": item["image"]})["image"]
        except ScanError:
            continue
        read += 1
        start, end = box_of(ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)(image))
        assert all(low < high for low, high in zip(start, end, strict=True)), item["scan_id"]
    assert read > 5
