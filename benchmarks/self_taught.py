# SPDX-License-Identifier: Apache-2.0
"""How well networks taught on unlabelled scans (``self_teach.yaml``) find lesions, without and with a few annotations.

    python -m benchmarks.self_taught --data $MWM_DATA --output output/self_taught --split val
    python -m benchmarks.self_taught --data $MWM_DATA --output output/self_taught --split test

Teaches what is not there yet, below ``--output``, then measures on the split; writes
``benchmarks/results/self_taught.csv`` and ``.md`` (test; other splits: ``self_taught_<split>``). Beside each network: a
disc in the middle, as large as its map at 0.5 on the same scan; and the classical operator of the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bundle import CONFIGS, make_workflow
from benchmarks.localization import Task, measure, scans, summary
from benchmarks.tables import write_table
from custom.components import load_component
from custom.localizers import CentredDisc, Localizer

RESULTS = Path(__file__).resolve().parent / "results"
SHOTS = (0, 4, 16)


@dataclass(frozen=True)
class Lesson:
    """A set with its target, the settings of ``self_teach.yaml`` for it, and the localizer that uses the result."""

    task: Task
    localizer: str
    fitted: str
    settings: Mapping[str, Any] = field(default_factory=dict)


LESSONS = (
    Lesson(
        Task("brain_mri_cheng", "brain tumor", ""),
        "self_taught",
        "boxes of 600 train slices",
        {"lesions": "brain"},
    ),
    Lesson(
        Task("ct_lidc_nodules", "lung nodule on CT", "", lambda mask: mask >= 2),
        "self_taught_lung",
        "none",
        {"lesions": "lung", "image_size": [96, 96], "mask_values": [2, 3, 4]},
    ),
)
# An annotated run goes on from the one without annotations, for fewer epochs.
FIRST = {"max_epochs": 12}
ADAPTED = {"max_epochs": 5, "learning_rate": 0.0015, "sure_share": 0.0}


def main() -> None:
    """Teach, measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--output", type=Path, required=True, help="folder of the networks")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--only", help="one set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--limit", type=int, default=0, help="at most so many scans a set (0: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lessons = [lesson for lesson in LESSONS if arguments.only in (None, lesson.task.dataset)]
    rows = [row for lesson in lessons for row in measure_lesson(lesson, arguments)]
    name = "self_taught" if arguments.split == "test" else f"self_taught_{arguments.split}"
    limited = f", at most {arguments.limit} scans a set" if arguments.limit else ""
    write_table(rows, RESULTS / name, f"# Self-taught networks, split {arguments.split}{limited}\n\n{EXPLANATION}\n")


def measure_lesson(lesson: Lesson, arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Return the table rows of one set."""
    localizers: dict[str, tuple[Localizer, str, str]] = {}
    for seed in arguments.seeds:
        for shots in SHOTS:
            weights, minutes = taught(lesson, shots, seed, arguments)
            options = {"weights": str(weights)}
            localizer = load_component(CONFIGS / "localizers", lesson.localizer, options)
            localizers[f"self-taught, k = {shots}, seed {seed}"] = (
                localizer,
                f"{shots} scans" if shots else "none",
                minutes,
            )
    localizers["classical"] = (load_component(CONFIGS / "localizers", "concept"), lesson.fitted, "")
    found: dict[str, list[dict[str, float]]] = {}
    for image, target in scans(lesson.task, arguments):
        for name, (localizer, _, _) in localizers.items():
            start = time.perf_counter()
            probability = localizer.localize(image, [lesson.task.prompt])[0].numpy()
            seconds = time.perf_counter() - start
            area = float(np.clip((probability >= 0.5).mean(), 1e-3, 0.7))
            disc = CentredDisc(area).localize(image, [""])[0].numpy()
            found.setdefault(name, []).append({**measure(probability, target), "seconds": seconds})
            found.setdefault(f"disc of equal area: {name}", []).append({**measure(disc, target), "seconds": 0.0})
    return [
        {
            **summary(lesson.task, name, values),
            "annotations": localizers[name][1] if name in localizers else "none",
            "minutes": localizers[name][2] if name in localizers else "",
        }
        for name, values in found.items()
    ]


def taught(lesson: Lesson, shots: int, seed: int, arguments: argparse.Namespace) -> tuple[Path, str]:
    """Return the weights of a network, taught now unless they are there, and the minutes of processor time it took."""
    folder = arguments.output / f"{lesson.task.dataset}_k{shots}_seed{seed}"
    weights, clock = folder / "self_taught.safetensors", folder / "minutes.json"
    if not clock.is_file():
        earlier = {"earlier": str(taught(lesson, 0, seed, arguments)[0])} if shots else {}
        settings = {**lesson.settings, **(ADAPTED if shots else FIRST), **earlier, "shots": shots, "seed": seed}
        start = time.process_time()
        dataset = arguments.data / lesson.task.dataset
        make_workflow("self_teach", dataset_dir=str(dataset), output_dir=str(folder), **settings).run()
        clock.write_text(json.dumps((time.process_time() - start) / 60))
    return weights, f"{json.loads(clock.read_text()):.1f}"


EXPLANATION = """\
Means over scans with 95 % bootstrap intervals over scans (slices of one patient are not independent, so the intervals
are somewhat too narrow). *hit*: the map's maximum lies in the target (box for `brain_mri_cheng`, mask elsewhere);
*recall*, *precision*, *coverage*, *dice*: at probability 0.5; *recall_at_15*: share of the target within the 15 % of
the picture with the highest probabilities; *seconds* a scan and *minutes* of teaching: processor time, one thread.
*annotations*: what the localizer saw of them: k = 0 saw none, k = 4 and k = 16 saw the boxes (or masks) of so many
train scans drawn by the seed, beside all train scans without annotation. The statistics of the synthetic lesions and
the training settings were chosen by looking at train scans and at val figures; test was used once.
"""


if __name__ == "__main__":
    main()
