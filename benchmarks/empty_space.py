# SPDX-License-Identifier: Apache-2.0
"""How much of real scans is empty, and what cropping to the body leaves of it.

    python -m benchmarks.empty_space --data $MWM_DATA

Goes through the very transforms of ``pretrain.yaml``, once with ``crop_to_body`` and once without, on a fixed sample of
the training scans of each set. Writes ``benchmarks/results/empty_space.csv`` and ``.md``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from benchmarks.bundle import CONFIGS
from benchmarks.tables import write_table
from custom.masking import content_cells
from custom.preprocessing import PrepareScand
from datasets import LoadScand, load_datalist

RESULTS = Path(__file__).resolve().parent / "results"
SETS = (
    "brain_mri_cheng",
    "ct_sarscov2",
    "cxr_kermany",
    "cxr_lungs",
    "ct_lidc_nodules",
    "hippocampus3d",
    "ct3d_lidc_nodules",
)
MEASURES = ("cut_scans", "cut_voxels", "empty", "padding", "empty_cropped", "padding_cropped")


@dataclass(frozen=True)
class Preparation:
    """The cached transforms of a pretraining, and what decides which cells are empty."""

    transforms: Sequence[Callable[[Mapping[str, Any]], dict[str, Any]]]
    image_size: tuple[int, ...]
    cell_size: tuple[int, ...]
    threshold: float

    @classmethod
    def of(cls, dataset: Path, **overrides: Any) -> Preparation:
        """Read it from ``pretrain.yaml``, for a folder of scans."""
        parser = ConfigParser(ConfigParser.load_config_file(str(CONFIGS / "pretrain.yaml")))
        parser.update({"dataset_dir": str(dataset), "prompts": [], **overrides})  # nothing is localized
        size = tuple(parser.get_parsed_content("image_size"))
        cell = (parser.get_parsed_content("cell_size"),) * len(size)
        threshold = parser.get_parsed_content("air_threshold")
        return cls(parser.get_parsed_content("train#deterministic_transforms"), size, cell, threshold)


def main() -> None:
    """Measure all sets and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MWM_DATA"), help="folder of the real data sets (MWM_DATA)")
    parser.add_argument("--limit", type=int, default=200, help="at most so many scans a set")
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("give --data or set MWM_DATA")
    torch.set_num_threads(1)
    rows = [measure_set(Path(arguments.data) / name, arguments.limit) for name in SETS]
    write(rows, RESULTS / "empty_space", arguments.limit)


def measure_set(dataset: Path, limit: int) -> dict[str, str]:
    """Return one row of the table."""
    whole, cropped = (Preparation.of(dataset, crop_to_body=crop) for crop in (False, True))
    values = [measure_scan(item, whole, cropped) for item in sample(load_datalist(dataset).split("train"), limit)]
    size = "x".join(map(str, whole.image_size))
    row = {"dataset": dataset.name, "n": str(len(values)), "image_size": size, **summary(values)}
    print(row)
    return row


def sample(items: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """Return at most ``limit`` scans, the same every time."""
    order = np.random.default_rng(0).permutation(len(items))[:limit]
    return [items[index] for index in sorted(order)]


def measure_scan(item: Mapping[str, Any], whole: Preparation, cropped: Preparation) -> dict[str, float]:
    """Return the measures of one scan, each in [0, 1]."""
    cut, empty_cropped, padding_cropped = prepare(item, cropped)
    _, empty, padding = prepare(item, whole)
    return {
        "cut_scans": float(cut > 0),
        "cut_voxels": cut,
        "empty": empty,
        "padding": padding,
        "empty_cropped": empty_cropped,
        "padding_cropped": padding_cropped,
    }


def prepare(item: Mapping[str, Any], preparation: Preparation) -> tuple[float, float, float]:
    """Return the share of voxels that the crop cuts, of cells that are empty, and of cells that are padding."""
    data: dict[str, Any] = {"image": item["image"], "scan_id": item["scan_id"]}
    cut = 0.0
    for transform in preparation.transforms:
        if isinstance(transform, PrepareScand):
            cut = 1 - prod(transform.cropped(data)["image"].shape) / prod(data["image"].shape)
        data = transform(data)
        if isinstance(transform, LoadScand):
            # A region of ones goes through everything that the scan goes through: what is 0 in the end is padding.
            data["region"] = torch.ones_like(data["image"][:1])
    content = content_cells(data["image"], preparation.cell_size, preparation.threshold)
    scan = content_cells(data["region"], preparation.cell_size, threshold=0.0)
    return cut, 1 - float(content.double().mean()), 1 - float(scan.double().mean())


def summary(values: Sequence[Mapping[str, float]]) -> dict[str, str]:
    """Means in per cent with 95 % bootstrap intervals over scans (1000 draws)."""
    draws = np.random.default_rng(0).integers(0, len(values), (1000, len(values)))
    row = {}
    for name in MEASURES:
        each = 100 * np.array([value[name] for value in values])
        low, high = np.percentile(each[draws].mean(axis=1), [2.5, 97.5])
        row[name] = f"{each.mean():.1f} [{low:.1f}, {high:.1f}]"
    return row


def write(rows: Sequence[Mapping[str, str]], stem: Path, limit: int) -> None:
    """Write the rows as CSV and Markdown."""
    write_table(rows, stem, f"# Empty space: training scans, at most {limit} a set\n\n{EXPLANATION}\n")


EXPLANATION = """\
Means over scans in per cent, with 95 % bootstrap intervals over scans. *cut_scans*: scans of which cropping to the body
cuts anything; *cut_voxels*: share of a scan's voxels that it cuts. At the default image size, in cells of 8: *empty*,
cells without a voxel above `air_threshold`, and *padding*, those of them that lie outside the scan, without the crop;
*empty_cropped*, *padding_cropped*, with it. `skip_empty` leaves the empty cells out.

What it says. The crop matters where a scan has air on all sides (`brain_mri_cheng`): the picture keeps its size, so
that a step costs the same and the body gets more of the cells. It gains nothing on `ct_sarscov2`, whose slices touch
the left and right border: the longest side stays as it was, and what was black above and below comes back as padding.
Radiographs, but for a few with black frames, and crops of CT and MRI hold next to no air and are left as they are. In
the volumes all that is empty is padding, because flat or narrow scans are put into a cube: an `image_size` of their
shape saves that for every network; `skip_empty` saves it only where hidden cells cost nothing. Whether either helps
what is learnt is not measured here."""


if __name__ == "__main__":
    main()
