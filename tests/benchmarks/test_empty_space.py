# SPDX-License-Identifier: Apache-2.0
"""The measures of the empty space benchmark on scans whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.empty_space import MEASURES, Preparation, measure_scan, measure_set, sample, summary, write
from datasets.datalist import load_datalist


@pytest.fixture(autouse=True)
def from_repository_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def save(folder: Path, width: int, height: int, bright: tuple[slice, slice]) -> None:
    folder.mkdir(exist_ok=True)
    picture = np.zeros((height, width), dtype=np.uint8)
    picture[bright[1], bright[0]] = 200
    Image.fromarray(picture).save(folder / "scan.png")


def measured(folder: Path) -> dict[str, float]:
    whole, cropped = (Preparation.of(folder, crop_to_body=crop) for crop in (False, True))
    (item,) = load_datalist(folder).items
    return measure_scan(item, whole, cropped)


def test_a_square_in_air(tmp_path: Path) -> None:
    save(tmp_path / "square", 128, 128, (slice(32, 96), slice(32, 96)))
    values = measured(tmp_path / "square")
    # The crop: 64 voxels, two that the average adds on each side, and four of margin.
    assert values["cut_voxels"] == pytest.approx(1 - (76 / 128) ** 2)
    # At 96 px the square takes 6 x 6 of 12 x 12 cells, and touches all of them once it is cropped.
    assert values["empty"] == pytest.approx(1 - 36 / 144)
    assert values["empty_cropped"] == values["padding"] == values["padding_cropped"] == 0
    assert values["cut_scans"] == 1


def test_padding_is_told_from_air(tmp_path: Path) -> None:
    save(tmp_path / "long", 128, 64, (slice(0, 128), slice(0, 32)))
    values = measured(tmp_path / "long")
    assert values["padding"] == 0.5  # 96 x 48 px in 96 x 96
    assert values["empty"] == 0.75
    assert values["cut_voxels"] == pytest.approx(1 - 38 / 64)
    # Cropped to 128 x 38, the longest side is as long as before: what was air is padding now.
    assert values["empty_cropped"] >= values["padding_cropped"] > 0.6


def test_samples_are_fixed_and_limited() -> None:
    items = [{"image": str(index)} for index in range(9)]
    assert sample(items, 20) == items
    assert len(sample(items, 4)) == 4
    assert sample(items, 4) == sample(items, 4)


def test_tables_hold_means_and_intervals(tmp_path: Path) -> None:
    row = summary([dict.fromkeys(MEASURES, value) for value in (0.2, 0.4)])
    assert row["empty"] == "30.0 [20.0, 40.0]"
    write([{"dataset": "a set", **row}], tmp_path / "results" / "empty_space", 7)
    assert "| a set | 30.0 [20.0, 40.0] |" in (tmp_path / "results" / "empty_space.md").read_text()
    assert (tmp_path / "results" / "empty_space.csv").read_text().startswith("dataset,cut_scans")


@pytest.mark.parametrize(("name", "most_cut"), [("ct_lidc_nodules", 5.0), ("hippocampus3d", 0.0)])
def test_crops_of_real_scans_lose_nothing(data_root: Path, name: str, most_cut: float) -> None:
    row = measure_set(data_root / name, limit=5)
    assert float(row["cut_voxels"].split()[0]) <= most_cut
    assert row["empty"] == row["empty_cropped"]
