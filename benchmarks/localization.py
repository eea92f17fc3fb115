# SPDX-License-Identifier: Apache-2.0
"""How well localizers find what a prompt names, on real scans with masks or boxes.

    python -m benchmarks.localization --data $MWM_DATA --split val

Writes ``benchmarks/results/localization.csv`` and ``.md`` (test; other splits: ``localization_<split>``). Every set is
also asked for something that is not there, and two localizers that see no prompt are measured, whole and at equal area:
the disc as large as the concept map at 0.5 on the same scan, the body cut down to that around its centre.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.tables import write_table
from custom.components import load_component
from custom.localizers import BodyOnly, CentredDisc, Localizer
from custom.metrics.localization import compare_with_truth, in_boxes
from datasets.datalist import load_datalist
from datasets.loading import LoadScand

FOLDER = Path(__file__).resolve().parents[1] / "bundle" / "configs" / "localizers"
RESULTS = Path(__file__).resolve().parent / "results"
MEASURES = ("hit", "recall", "precision", "coverage", "dice", "recall_at_15", "found", "seconds")


@dataclass(frozen=True)
class Task:
    """A set, the prompt that names its target, a wrong prompt, and the values of the mask that are the target."""

    dataset: str
    prompt: str
    wrong: str
    target: Callable[[np.ndarray], np.ndarray] | None = None


TASKS = (
    Task("cxr_lungs", "lungs on x-ray", "brain tumor, MRI", lambda mask: mask > 0),
    Task("cxr_lungs", "right lung on x-ray", "left lung on x-ray", lambda mask: mask == 1),
    Task("cxr_lungs", "left lung on x-ray", "right lung on x-ray", lambda mask: mask == 2),
    Task("brain_mri_cheng", "brain tumor", "left lung on x-ray"),
    Task("ct_lidc_nodules", "lung nodule on CT", "brain tumor, MRI", lambda mask: mask >= 2),
    Task("ct3d_lidc_nodules", "lung nodule on CT", "brain tumor, MRI", lambda mask: mask > 0),
    Task("hippocampus3d", "hippocampus", "lung nodule on CT", lambda mask: mask > 0),
)


def main() -> None:
    """Measure all tasks and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    parser.add_argument("--localizer", default="concept", help=f"a file of {FOLDER.name}/, or a path")
    parser.add_argument("--limit", type=int, default=0, help="at most so many scans a set (0: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    localizer = load_component(FOLDER, arguments.localizer)
    rows = [row for task in TASKS for row in measure_task(task, localizer, arguments)]
    name = "localization" if arguments.split == "test" else f"localization_{arguments.split}"
    write(rows, RESULTS / name, arguments)


def measure_task(task: Task, localizer: Localizer, arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Return one table row for the prompt, the wrong prompt and each blind localizer."""
    found: dict[str, list[dict[str, float]]] = {}
    for image, target in scans(task, arguments):
        for name, values in measure_scan(task, localizer, image, target).items():
            found.setdefault(name, []).append(values)
    print(task.dataset, task.prompt, {key: round(np.mean([v["hit"] for v in each]), 3) for key, each in found.items()})
    return [summary(task, name, values) for name, values in found.items()]


def scans(task: Task, arguments: argparse.Namespace) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """Yield scans with their boolean target."""
    datalist = load_datalist(arguments.data / task.dataset)
    items = datalist.split(arguments.split)
    if arguments.limit:
        order = np.random.default_rng(0).permutation(len(items))[: arguments.limit]
        items = [items[index] for index in sorted(order)]
    load = LoadScand("image", datalist.spatial_dims, label_keys="mask" if task.target else ())
    for item in items:
        data = load(item)
        target = (
            task.target(data["mask"][0].numpy()) if task.target else in_boxes(item["boxes"], data["image"].shape[1:])
        )
        if target.any():
            yield data["image"], target


def measure_scan(
    task: Task, localizer: Localizer, image: torch.Tensor, target: np.ndarray
) -> dict[str, dict[str, float]]:
    """Measure the prompt, the wrong prompt and the blind localizers on one scan."""
    start = time.perf_counter()
    right = localizer.localize(image, [task.prompt])[0].numpy()
    seconds = time.perf_counter() - start
    wrong = localizer.localize(image, [task.wrong])[0].numpy()
    area = float(np.clip((right >= 0.5).mean(), 1e-3, 0.7))
    blind = {
        "disc, 15 %": CentredDisc().localize(image, [""])[0].numpy(),
        "disc, equal area": CentredDisc(area).localize(image, [""])[0].numpy(),
        "body": BodyOnly().localize(image, [""])[0].numpy(),
    }
    blind["body, equal area"] = blind["body"] * (blind["body"] >= 0.5) * centred_share(blind["body"] >= 0.5, area)
    maps = {task.prompt: right, f"wrong: {task.wrong}": wrong, **blind}
    return {name: {**compare_with_truth(each, target), "seconds": seconds} for name, each in maps.items()}


def centred_share(mask: np.ndarray, area: float) -> np.ndarray:
    """The voxels of a mask that are nearest to its centre of mass, ``area`` of the picture."""
    places = np.argwhere(mask)
    kept = np.zeros_like(mask)
    if len(places):
        distance = ((places - places.mean(axis=0)) ** 2).sum(axis=1)
        nearest = places[np.argsort(distance, kind="stable")[: round(area * mask.size)]]
        kept[tuple(nearest.T)] = True
    return kept


def summary(task: Task, name: str, values: list[dict[str, float]]) -> dict[str, str]:
    """Means with 95 % bootstrap intervals over scans (1000 draws)."""
    row = {"dataset": task.dataset, "target": task.prompt, "localizer": name, "n": str(len(values))}
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(values), (1000, len(values)))
    for measure_name in MEASURES:
        each = np.array([value[measure_name] for value in values])
        low, high = np.percentile(each[draws].mean(axis=1), [2.5, 97.5])
        row[measure_name] = (
            f"{each.mean():.3f} [{low:.3f}, {high:.3f}]" if measure_name != "seconds" else f"{each.mean():.3f}"
        )
    return row


def write(rows: list[dict[str, str]], stem: Path, arguments: argparse.Namespace) -> None:
    """Write the rows as CSV and Markdown."""
    limited = f", at most {arguments.limit} scans a set" if arguments.limit else ""
    head = f"# Localization: `{arguments.localizer}`, split {arguments.split}{limited}\n\n{EXPLANATION}\n"
    write_table(rows, stem, head)


EXPLANATION = """\
Means over scans with 95 % bootstrap intervals over scans (slices of one patient are not independent, so
the intervals are somewhat too narrow). *hit*: the map's maximum lies in the target (box for `brain_mri_cheng`, mask
elsewhere); *recall*, *precision*, *coverage* (share of the picture), *dice*: at probability 0.5; *recall_at_15*: share
of the target within the 15 % of the picture with the highest probabilities; *found*: share of scans with any voxel at
or above 0.5; *seconds*: for the prompt, one thread. *equal area*: a region in the middle, as large as the prompt's.
Where the sets' makers centred their crops on the target (`ct3d_lidc_nodules`, `hippocampus3d`), a disc in the middle
must do well. The operators for brain lesions, lungs on X-ray and the hippocampus hold a few weights that were fitted
on the training splits of these sets (boxes or masks), and some choices were made on val; nothing was fitted on test."""


if __name__ == "__main__":
    main()
