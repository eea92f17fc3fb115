# SPDX-License-Identifier: Apache-2.0
"""Summary of the region maps of a dataset: a row a scan and prompt, and the figures over all of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class RegionRow:
    """One map in figures.

    Args:
        scan_id: name of the scan.
        prompt: the phrase.
        coverage: share of voxels at or above the threshold, in [0, 1].
        max: the largest probability.
        empty: nothing was found: the map is zero everywhere.
        seconds: time that the localizer took, when the map was made.
    """

    scan_id: str
    prompt: str
    coverage: float
    max: float
    empty: bool
    seconds: float


def region_row(scan_id: str, prompt: str, region: Tensor, threshold: float, seconds: float) -> RegionRow:
    """Measure a map ``[*spatial]`` in [0, 1]."""
    highest = round(float(region.max()), 6)
    return RegionRow(scan_id, prompt, float((region >= threshold).double().mean()), highest, highest == 0, seconds)


def summarize(rows: Sequence[RegionRow], threshold: float, skipped: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return the figures over all scans, for each prompt, and the scans that were left out.

    Args:
        rows: a row a scan and prompt.
        threshold: the one of the rows' coverage.
        skipped: ``(scan_id, message)`` of scans that could not be read.
    """
    scans = {row.scan_id for row in rows}
    prompts = dict.fromkeys(row.prompt for row in rows)
    return {
        "scans": len(scans),
        "threshold": threshold,
        "seconds_per_scan": round(sum(row.seconds for row in rows) / max(len(scans), 1), 4),
        "prompts": {prompt: _figures([row for row in rows if row.prompt == prompt]) for prompt in prompts},
        "skipped": [{"scan_id": name, "message": message} for name, message in skipped],
    }


def write_summary(folder: str | Path, rows: Sequence[RegionRow], summary: Mapping[str, Any]) -> None:
    """Write ``summary.json`` and ``summary.csv`` (a line a scan and prompt) into a folder."""
    content = {**summary, "maps": [asdict(row) for row in rows]}
    (Path(folder) / "summary.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with open(Path(folder) / "summary.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(RegionRow.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _figures(rows: Sequence[RegionRow]) -> dict[str, float | int]:
    coverage = np.array([row.coverage for row in rows])
    return {
        "mean_coverage": round(float(coverage.mean()), 6),
        "median_coverage": round(float(np.median(coverage)), 6),
        "empty": sum(row.empty for row in rows),
        "below_threshold": int((coverage == 0).sum()),
    }
