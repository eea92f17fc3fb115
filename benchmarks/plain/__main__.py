# SPDX-License-Identifier: Apache-2.0
"""Do the workflows lose anything beside plain scripts with the same network, scans and schedule?

For each run of `benchmarks.downstream` from scratch (on one set a task) the plain script of that task is run with the
same seed; finished runs are kept. Needs those runs: `--study` is their folder.

    python -m benchmarks.plain --data $MWM_DATA --study output/downstream --output output/plain
"""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from benchmarks.studies import cell, figure, parsed, run_folder, slug, study_parser, task_options

NAME = "plain"
ARM = "from scratch"
SETS = {"segmentation": "hippocampus3d", "detection": "ct_lidc_nodules", "instances": "ct_lidc_nodules"}
FIGURES = {
    "segmentation": {"Dice": "dice"},
    "detection": {"AP50": "ap50", "AP75": "ap75", "AP": "ap"},
    "instances": {"box AP50": "boxes.ap50", "box AP": "boxes.ap", "mask AP50": "masks.ap50", "mask AP": "masks.ap"},
}
logger = logging.getLogger(NAME)
Pairs = dict[str, list[tuple[int, Mapping[str, Any], Mapping[str, Any]]]]


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = study_parser(__doc__, NAME, Path(__file__).parents[1] / "downstream.yaml")
    parser.add_argument(
        "--study", type=Path, default=Path("output/downstream"), help="--output of benchmarks.downstream"
    )
    parser.add_argument("--tasks", nargs="*", choices=list(SETS), default=list(SETS), help="only these tasks")
    arguments = parsed(parser)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    study = ConfigParser.load_config_file(str(arguments.settings))
    pairs: Pairs = {task: [] for task in SETS}
    for task, name in SETS.items():
        for seed in study["seeds"]:
            ours = run_folder(arguments.study / name, ARM, seed) / slug(task) / "metrics.json"
            if not ours.is_file():
                logger.warning("%s is not there: run benchmarks.downstream first.", ours)
                continue
            workflow = json.loads(ours.read_text())
            file = Path(arguments.output) / task / f"seed_{seed}.json"
            if not file.is_file() and task in arguments.tasks:
                write_run(file, task, Path(arguments.data) / name, task_options(study, name, task), workflow, seed)
            if file.is_file():
                pairs[task].append((seed, workflow, json.loads(file.read_text())))
    write_tables(pairs, Path(arguments.results) / NAME)


def write_run(
    file: Path, task: str, dataset: Path, options: Mapping[str, Any], workflow: Mapping[str, Any], seed: int
) -> None:
    """Run a plain script and keep what it found."""
    started = time.process_time()
    found = import_module(f"benchmarks.plain.{task}").run(dataset, options, workflow, seed)
    found["cpu_seconds"] = time.process_time() - started
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2))
    logger.info("%s, seed %d: %s", task, seed, found["test"])


def write_tables(pairs: Pairs, results: Path) -> None:
    """Write every figure to ``results``.csv, and means and differences to ``results``.md."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with open(results.with_suffix(".csv"), "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["task", "set", "seed", "figure", "workflow", "plain"])
        for task, runs in pairs.items():
            for seed, workflow, plain in runs:
                for heading, where in FIGURES[task].items():
                    values = figure(workflow["test"], where), figure(plain["test"], where)
                    writer.writerow([task, SETS[task], seed, heading, *values])
    results.with_suffix(".md").write_text(markdown(pairs))


def markdown(pairs: Pairs) -> str:
    """Return the table."""
    lines = [
        "# The bundle's workflows beside plain scripts",
        "",
        "Same network, scans, augmentation, schedule and seeds, from scratch; the scripts are written with MONAI,",
        "torchvision and pycocotools alone (`benchmarks/plain`). Test scans, in per cent, mean ± standard deviation of",
        "the seeds; the difference is taken seed by seed. The random numbers differ, so single runs do too. Pictures",
        "are stretched alike along both axes by the scripts, along the first one by the workflows of these runs.",
        "Every run: `plain.csv`. Made by `python -m benchmarks.plain`.",
        "",
        "| task | set | figure | seeds | workflow | plain script | workflow − plain |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, runs in pairs.items():
        for heading, where in FIGURES[task].items() if runs else ():
            ours = [figure(workflow["test"], where) for _, workflow, _ in runs]
            plain = [figure(found["test"], where) for _, _, found in runs]
            known = [(mine, other) for mine, other in zip(ours, plain, strict=True) if mine is not None]
            cells = [cell(ours, where), cell(plain, where), cell([mine - (other or 0) for mine, other in known], where)]
            lines.append(f"| {' | '.join([task, SETS[task], heading, str(len(runs)), *cells])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
