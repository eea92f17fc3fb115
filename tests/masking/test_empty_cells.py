# SPDX-License-Identifier: Apache-2.0
"""Which cells are empty, and RandRegionMaskd that leaves them out."""

from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from custom.masking import RandomMasking, RandRegionMaskd, RegionMasking, content_cells

GRIDS = pytest.mark.parametrize("grid", [(4, 6), (3, 2, 4)], ids=["2D", "3D"])


def body_in_air(*grid: int, cell: int = 4, noise: float = 0.03) -> torch.Tensor:
    """A scan whose last cell along the first axis, all others included, is air with a little noise."""
    image = torch.rand(1, *(side * cell for side in grid), generator=torch.Generator().manual_seed(0))
    image[:, -cell:] *= noise
    return image


@GRIDS
def test_one_voxel_makes_content(grid: tuple) -> None:
    image = torch.full((2, *(side * 4 for side in grid)), 0.05)
    assert not content_cells(image, [4] * len(grid)).any()
    image[(1, *(-1 for _ in grid))] = 0.06
    found = content_cells(image, [4] * len(grid))
    assert found.shape == grid
    assert found.nonzero().tolist() == [[side - 1 for side in grid]]


def test_threshold_and_background_are_in_units_of_intensity() -> None:
    image = torch.tensor([[-1000.0, -980.0, -1010.0, -1000.0]])
    assert content_cells(image, [2], threshold=15, background=-1000).tolist() == [True, False]
    assert content_cells(image, [1], threshold=5, background=-1000).tolist() == [False, True, True, False]


@GRIDS
@pytest.mark.parametrize("strategy", [RandomMasking(0.6), RegionMasking(), RegionMasking(soft=True)])
def test_empty_cells_are_neither_visible_nor_content(grid: tuple, strategy: RandomMasking) -> None:
    image = body_in_air(*grid)
    region = torch.zeros_like(image)
    region[:, :6] = 1
    result = RandRegionMaskd(strategy, 4, skip_empty=True)({"image": MetaTensor(image), "region": MetaTensor(region)})
    assert result["content"].shape == result["visible"].shape == (1, *grid)
    assert result["content"].dtype == torch.bool
    assert type(result["content"]) is torch.Tensor
    assert not result["content"][:, -1].any()
    assert result["content"][:, :-1].all()
    assert not (result["visible"] & ~result["content"]).any()
    assert result["mask_info"]["empty_share"] == pytest.approx(1 / grid[0])
    hidden = 1 - int(result["visible"].sum()) / int(result["content"].sum())
    assert result["mask_info"]["hidden_ratio"] == pytest.approx(hidden)


@pytest.mark.parametrize("bright", [0, 1])
def test_a_scan_of_next_to_nothing_keeps_all_its_cells(bright: int) -> None:
    image = torch.zeros(1, 16, 16)
    image[0, 0, :bright] = 1
    result = RandRegionMaskd(RandomMasking(0.75), 4, skip_empty=True)({"image": image})
    assert result["content"].all()
    assert int(result["visible"].sum()) == 4
    assert result["mask_info"]["empty_share"] == 0


def test_nothing_changes_unless_asked() -> None:
    data = {"image": body_in_air(4, 4)}
    plain = RandRegionMaskd(RandomMasking(0.6), 4).set_random_state(1)(data)
    full = RandRegionMaskd(RandomMasking(0.6), 4, skip_empty=True, empty_threshold=0.0).set_random_state(1)(data)
    assert "content" not in plain
    assert "empty_share" not in plain["mask_info"]
    assert torch.equal(plain["visible"], full["visible"])


def test_a_threshold_of_its_own() -> None:
    data = {"image": body_in_air(4, 4, noise=0.2)}
    assert RandRegionMaskd(RandomMasking(0.6), 4, skip_empty=True)(data)["content"].all()
    found = RandRegionMaskd(RandomMasking(0.6), 4, skip_empty=True, empty_threshold=0.2)(data)["content"]
    assert int(found.sum()) == 12
    with pytest.raises(ValueError, match="-1"):
        RandRegionMaskd(RandomMasking(0.6), 4, empty_threshold=-1)


def test_content_collates_to_a_batch() -> None:
    dataset = Dataset([{"image": body_in_air(4, 4)}] * 3, RandRegionMaskd(RandomMasking(0.6), 4, skip_empty=True))
    batch = next(iter(DataLoader(dataset, batch_size=3)))
    assert batch["content"].shape == (3, 1, 4, 4)
    assert batch["mask_info"]["empty_share"].tolist() == [0.25] * 3
