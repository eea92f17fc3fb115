# SPDX-License-Identifier: Apache-2.0
"""RandRegionMaskd: keys, shapes, seeds, workers, errors; and the presets that use it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose

from custom.components import component_names, load_component
from custom.masking import RandomMasking, RandRegionMaskd, RegionMasking, RegionMatchedRandom


def scan(*spatial: int, prompts: int = 1) -> dict:
    region = torch.zeros(prompts, *spatial)
    region[(prompts - 1, *(slice(0, size // 2) for size in spatial))] = 1
    return {"image": MetaTensor(torch.rand(1, *spatial)), "region": MetaTensor(region), "scan_id": "case_7.png"}


@pytest.mark.parametrize(("spatial", "cell", "grid"), [((64, 96), 16, (4, 6)), ((16, 24, 8), (4, 8, 4), (4, 3, 2))])
@pytest.mark.parametrize("prompts", [1, 3])
def test_adds_mask_and_realised_ratios(spatial: tuple, cell: int | tuple, grid: tuple, prompts: int) -> None:
    transform = RandRegionMaskd(RegionMasking(0.8, 0.4, visible_cells=11), cell).set_random_state(0)
    result = transform(scan(*spatial, prompts=prompts))
    visible, info = result["visible"], result["mask_info"]
    assert visible.shape == (1, *grid)
    assert visible.dtype == torch.bool
    assert type(visible) is torch.Tensor
    assert int(visible.sum()) == 11
    assert info["hidden_ratio"] == pytest.approx(1 - 11 / visible.numel())
    assert 0 < info["region_share"] < 1
    assert info["region_hidden_ratio"] > info["background_hidden_ratio"]
    assert info["fallback"] == 0.0
    assert all(isinstance(value, float) for value in info.values())


def test_known_ratios() -> None:
    info = RandRegionMaskd(RegionMasking(0.75, 0.25), 16)(scan(128, 128))["mask_info"]
    assert info == {
        "hidden_ratio": 0.375,
        "region_hidden_ratio": 0.75,
        "background_hidden_ratio": 0.25,
        "region_share": 0.25,
        "fallback": 0.0,
    }


def test_empty_region_is_counted_and_free_of_nan() -> None:
    data = scan(64, 64)
    data["region"] = torch.zeros(1, 64, 64)
    info = RandRegionMaskd(RegionMasking(0.7, 0.3), 16)(data)["mask_info"]
    assert info["fallback"] == 1.0
    assert info["region_share"] == info["region_hidden_ratio"] == 0.0
    assert info["hidden_ratio"] == 0.5


def test_a_strategy_that_needs_no_region_takes_scans_without() -> None:
    data = {"image": torch.rand(1, 32, 32)}
    assert RandRegionMaskd(RandomMasking(0.75), 8)(data)["visible"].sum() == 4
    with pytest.raises(ValueError, match="RegionMasking needs"):
        RandRegionMaskd(RegionMasking(), 8)(data)
    with pytest.raises(ValueError, match="no 'region' map"):
        RandRegionMaskd(RandomMasking(0.75), 8, allow_missing_region=False)(data)


@pytest.mark.parametrize(
    ("spatial", "cell", "message"),
    [
        ((64, 60), 16, r"case_7.png.*\(64, 60\).*not divisible.*\(16, 16\).*\(64, 64\)"),
        ((64, 8), 16, r"case_7.png.*\(64, 8\).*smaller than a cell.*\(64, 16\)"),
        ((16, 16, 9), (4, 4, 4), r"\(16, 16, 9\).*\(16, 16, 12\)"),
        ((16, 16), 0, "positive"),
    ],
)
def test_sizes_that_do_not_fit(spatial: tuple, cell: int | tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandRegionMaskd(RandomMasking(0.6), cell)(scan(*spatial))


def test_region_of_another_size() -> None:
    data = scan(32, 32)
    data["region"] = torch.zeros(1, 16, 16)
    with pytest.raises(ValueError, match=r"\(16, 16\).*\(32, 32\)"):
        RandRegionMaskd(RandomMasking(0.6), 8)(data)


def test_file_name_stands_in_for_the_scan_id() -> None:
    image = MetaTensor(torch.rand(1, 10, 10), meta={"filename_or_obj": "head.nii.gz"})
    with pytest.raises(ValueError, match=r"head\.nii\.gz"):
        RandRegionMaskd(RandomMasking(0.6), 8)({"image": image})


def masks(seed: int, num_workers: int, epochs: int = 2) -> list[torch.Tensor]:
    transform = Compose([RandRegionMaskd(RegionMasking(), 4)])
    generator = torch.Generator().manual_seed(seed)
    dataset = Dataset([scan(32, 32) for _ in range(6)], transform)
    loader = DataLoader(dataset, batch_size=3, num_workers=num_workers, generator=generator)
    return [torch.cat([batch["visible"] for batch in loader]) for _ in range(epochs)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_and_epochs_draw_different_masks_reproducibly(num_workers: int) -> None:
    first, second = masks(seed=4, num_workers=num_workers)
    assert first.shape == (6, 1, 8, 8)
    assert len({bytes(mask.numpy().tobytes()) for mask in torch.cat([first, second])}) == 12
    again = masks(seed=4, num_workers=num_workers)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, masks(seed=5, num_workers=num_workers)[0])


def test_realised_ratios_collate_to_a_batch() -> None:
    loader = DataLoader(Dataset([scan(32, 32)] * 4, RandRegionMaskd(RegionMasking(), 8)), batch_size=4)
    batch = next(iter(loader))
    assert batch["visible"].shape == (4, 1, 4, 4)
    assert batch["mask_info"]["hidden_ratio"].shape == (4,)


@pytest.mark.parametrize(
    ("name", "cls", "numbers"),
    [
        ("random", RandomMasking, {"ratio": 0.7}),
        ("spark", RandomMasking, {"ratio": 0.6}),
        ("region", RegionMasking, {"region_ratio": 0.7, "background_ratio": 0.3}),
        ("region_high", RegionMasking, {"region_ratio": 0.8, "background_ratio": 0.4}),
        ("region_low", RegionMasking, {"region_ratio": 0.6, "background_ratio": 0.2}),
        ("region_matched_random", RegionMatchedRandom, {"region_ratio": 0.7, "background_ratio": 0.3}),
    ],
)
def test_presets_have_the_papers_numbers(configs: Path, name: str, cls: type, numbers: dict) -> None:
    strategy = load_component(configs / "masking", name)
    assert type(strategy) is cls
    assert {key: getattr(strategy, key) for key in numbers} == numbers


def test_every_preset_is_tested_and_takes_options(configs: Path) -> None:
    names = component_names(configs / "masking")
    assert names == ["random", "region", "region_high", "region_low", "region_matched_random", "spark"]
    assert load_component(configs / "masking", "region", {"region_ratio": 0.9}).region_ratio == 0.9
