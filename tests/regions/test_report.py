# SPDX-License-Identifier: Apache-2.0
"""Summary of region maps, with known figures."""

from __future__ import annotations

import csv
import json

import torch

from custom.regions.report import region_row, summarize, write_summary


def test_figures(tmp_path):
    maps = [torch.zeros(10), torch.full((10,), 0.3), torch.cat([torch.ones(4), torch.zeros(6)])]
    rows = [region_row(f"scan_{index}", "p, q", each, 0.5, 2.0) for index, each in enumerate(maps)]
    summary = summarize(rows, 0.5, [("bad.png", "truncated")])
    assert summary["prompts"]["p, q"] == {
        "mean_coverage": 0.133333,
        "median_coverage": 0.0,
        "empty": 1,
        "below_threshold": 2,
    }
    assert (summary["scans"], summary["seconds_per_scan"]) == (3, 2.0)
    write_summary(tmp_path, rows, summary)
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["skipped"] == [{"scan_id": "bad.png", "message": "truncated"}]
    assert content["maps"][2]["coverage"] == 0.4
    with open(tmp_path / "summary.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["empty"] for line in lines] == ["True", "False", "False"]
    assert lines[0]["prompt"] == "p, q"
