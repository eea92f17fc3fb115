# SPDX-License-Identifier: Apache-2.0
"""Figures of region maps and what is suspicious in them, with known answers."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
import torch

from custom.regions.report import (
    RULES,
    RegionRow,
    flag_rows,
    percent,
    region_row,
    summarize,
    threshold_level,
    usual_coverage,
    write_summary,
)


def flags(region: torch.Tensor, threshold: float = 0.5) -> tuple[str, ...]:
    (row,) = flag_rows([region_row("a", "p", region, threshold, 0.0)], threshold)
    assert len(row.reasons) == len(row.flags)
    return row.flags


def rows_of(coverages: list[float]) -> list[RegionRow]:
    return [RegionRow(str(index), "p", each, 1.0, False, 0.0) for index, each in enumerate(coverages)]


def test_figures(tmp_path):
    maps = [torch.zeros(10), torch.full((10,), 0.3), torch.cat([torch.ones(4), torch.zeros(6)])]
    rows = [region_row(f"scan_{index}", "p, q", each, 0.5, 2.0) for index, each in enumerate(maps)]
    rows = flag_rows(rows, 0.5)
    summary = summarize(rows, 0.5, [("bad.png", "truncated")])
    figures = summary["prompts"]["p, q"]
    assert figures.pop("flags") == {rule.flag: int(rule.flag in ("empty", "below threshold")) for rule in RULES}
    assert figures == {"maps": 3, "mean_coverage": 0.133333, "median_coverage": 0.0, "empty": 1, "below_threshold": 2}
    assert (summary["scans"], summary["seconds_per_scan"]) == (3, 2.0)
    write_summary(tmp_path, rows, summary)
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["skipped"] == [{"scan_id": "bad.png", "message": "truncated"}]
    assert content["maps"][2]["coverage"] == 0.4
    assert content["maps"][1]["flags"] == ["below threshold"]
    assert content["maps"][1]["reasons"] == ["No voxel reaches the threshold of 0.5; the highest probability is 0.30."]
    with open(tmp_path / "summary.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["empty"] for line in lines] == ["True", "False", "False"]
    assert [line["flags"] for line in lines] == ["empty", "below threshold", ""]
    assert "zero everywhere" in lines[0]["reasons"]
    assert lines[0]["prompt"] == "p, q"
    assert list(lines[0])[:6] == ["scan_id", "prompt", "coverage", "max", "empty", "seconds"]


def test_names_that_are_no_text_are_written(tmp_path):
    rows = [region_row(os.fsdecode(b"scan_\xff.png"), "p", torch.ones(4, 4), 0.5, 0.0)]
    write_summary(tmp_path, rows, summarize(rows, 0.5))
    assert json.loads((tmp_path / "summary.json").read_text())["maps"][0]["scan_id"] == os.fsdecode(b"scan_\xff.png")
    assert "scan_" in (tmp_path / "summary.csv").read_text()


def test_a_full_disk_leaves_the_earlier_summary(tmp_path, monkeypatch):
    rows = [region_row("a", "p", torch.ones(4, 4), 0.5, 0.0)]
    write_summary(tmp_path, rows, summarize(rows, 0.5))
    before = (tmp_path / "summary.json").read_text()

    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match=r"summary\.json.*--output_dir"):
        write_summary(tmp_path, rows * 2, summarize(rows, 0.5))
    assert (tmp_path / "summary.json").read_text() == before
    assert list(tmp_path.glob(".*")) == []


def test_coverage_at_other_thresholds_is_that_of_the_comparison(generator):
    region = (torch.rand(30, 40, generator=generator) * 255).round() / 255
    thresholds = [0.0, 0.2, 51 / 255, 0.5, 0.95, 1.0, 1.1]
    row = region_row("a", "p", region, 0.2, 0.0, thresholds)
    expected = [float((region >= each).double().mean()) for each in thresholds]
    np.testing.assert_allclose(row.curve, expected, rtol=1e-6)
    assert row.coverage == pytest.approx(expected[1])
    assert threshold_level(0.2) == 51
    assert region_row("a", "p", region, 1.1, 0.0).coverage == 0


def test_fixed_limits():
    region = torch.zeros(100, 100)
    region[20:80, 20:80] = 0.7
    assert flags(region) == ()
    assert flags(region, 0.8) == ("below threshold",)
    assert flags(torch.zeros(100, 100)) == ("empty",)
    region[10:90, 10:90] = 1
    assert flags(region) == ("large",)


def test_scattered_pieces_do_not_count_specks():
    region = torch.zeros(128, 128)
    region[40:80, 40:80] = 1
    region[::8, ::8] = 1  # 256 specks, 14 % together
    assert flags(region) == ("scattered",)
    region = torch.zeros(128, 128)
    region[30:90, 30:90] = 1
    region[10:120:20, 10:120:20] = 1  # specks again, 1 % together
    assert flags(region) == ()
    region = torch.zeros(64, 64, 64)
    for start in (8, 24, 40):
        region[start : start + 6, 8:14, 8:14] = region[start : start + 6, 40:46, 40:46] = 1
    assert flags(region) == ("scattered",)


def test_regions_along_the_border():
    frame = torch.ones(100, 100)
    frame[3:-3, 3:-3] = 0
    assert flags(frame) == ("at the border",)
    assert flags(torch.ones(100, 100)) == ("large",)  # the border is a fifth of the picture
    touching = torch.zeros(100, 100)
    touching[:40, 30:70] = 1
    assert flags(touching) == ()


def test_small_regions_of_large_scans_are_seen():
    region = torch.zeros(2000, 1500)
    region[1001, 701] = 1
    row = region_row("a", "p", region, 0.5, 0.0)
    assert (row.pieces, row.border) == (1, 0.0)
    assert row.coverage == pytest.approx(1 / 3e6)


def test_unusual_sizes():
    coverages = [0.10, 0.11, 0.12, 0.09, 0.10, 0.11, 0.13, 0.08, 0.10, 0.12, 0.11, 0.10]
    low, high = usual_coverage(coverages)
    assert 0.05 < low < 0.08
    assert 0.13 < high < 0.22
    flagged = flag_rows(rows_of([*coverages, 0.3, 0.02, 0.0]), 0.5)
    assert [row.flags for row in flagged[-3:]] == [("unusual size",), ("unusual size",), ("below threshold",)]
    assert "30 %" in flagged[-3].reasons[0]
    assert not any(row.flags for row in flagged[:-3])


def test_equal_sizes_do_not_make_the_next_one_unusual():
    flagged = flag_rows(rows_of([0.1] * 20 + [0.12, 0.2]), 0.5)
    assert [row.flags for row in flagged[-2:]] == [(), ("unusual size",)]


def test_few_scans_say_nothing_of_what_is_usual():
    assert usual_coverage([0.1] * 8 + [0.9] + [0.0] * 50) is None


def test_prompts_are_judged_apart():
    rows = rows_of([0.1] * 12)
    large = [RegionRow(row.scan_id, "q", 0.5, 1.0, False, 0.0) for row in rows]
    assert not any(row.flags for row in flag_rows([*rows, *large], 0.5))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.00001, "< 0.01 %"), (0.0005, "0.05 %"), (0.012, "1.2 %"), (0.3456, "35 %"), (1, "100 %")],
)
def test_percent(share, text):
    assert percent(share) == text
