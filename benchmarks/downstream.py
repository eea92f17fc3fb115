# SPDX-License-Identifier: Apache-2.0
"""What is a pretrained encoder worth for detection, instance segmentation and segmentation?

From scratch against random and region masks, several seeds, on real sets, through the very configs that users run, with
guesses that never look at a scan beside them. Every finished run is kept; started again, the command goes on where it
stopped. Several processes may work on one study at once: each run is claimed by one of them.

    python -m benchmarks.downstream --data $MWM_DATA --output output/downstream
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import statistics
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser

from benchmarks.studies import (
    cell,
    claimed,
    figure,
    make_encoder,
    make_regions,
    parsed,
    run_folder,
    slug,
    study_parser,
    task_options,
)
from benchmarks.studies import run_workflow as run
from benchmarks.trivial import trivial_reports
from custom.files import write_atomically
from custom.tasks.results import write_json

NAME = "downstream"
GUESS = "guess: "
logger = logging.getLogger(NAME)


class Job(NamedTuple):
    """One run: a task on a set, learnt from one arm's encoder with one seed."""

    name: str
    task: str
    arm: str
    seed: int


def main() -> None:
    """Run what is missing, then write the tables."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    study = ConfigParser.load_config_file(str(arguments.settings))
    data, output, results = Path(arguments.data), Path(arguments.output), Path(arguments.results) / NAME
    if not arguments.tables:
        guess(study, data, output)
        done = True
        while done:  # what was claimed or not ready may be free or ready after a round
            done = False
            for job in jobs(study, arguments.sets, arguments.tasks):
                if do(study, job, data, output, arguments.encoders):
                    done = True
                    write_tables(study, output, results)
    write_tables(study, output, results)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = study_parser(__doc__, NAME, Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--sets", nargs="*", help="only these sets")
    parser.add_argument("--tasks", nargs="*", help="only these tasks")
    parser.add_argument("--encoders", type=Path, help="--output of a study that pretrains, whose encoders are taken")
    parser.add_argument("--tables", action="store_true", help="only write the tables of what is there")
    return parsed(parser)


def jobs(study: Mapping[str, Any], sets: list[str] | None = None, tasks: list[str] | None = None) -> Iterator[Job]:
    """Return all runs: every comparison is complete for the first seed before the second one starts."""
    for seed, name in product(study["seeds"], sets or study["sets"]):
        for task in study["sets"][name]["tasks"]:
            if tasks is None or task in tasks:
                for arm in study["arms"]:
                    yield Job(name, task, arm, seed)


def do(study: Mapping[str, Any], job: Job, data: Path, output: Path, encoders: Path | None = None) -> bool:
    """Do a run, unless it is done, claimed by another process, or its encoder is not ready; say whether it was done."""
    folder = job_folder(output, job)
    if (folder / "metrics.json").is_file():
        return False
    with claimed(folder) as is_ours:
        if not is_ours or (folder / "metrics.json").is_file():
            return False
        dataset = data / job.name
        if encoders is None:
            seed = pretraining_seed(study, job.seed)
            ready, encoder = pretrain(study, job.name, job.arm, seed, dataset, output / job.name)
        else:
            ready, encoder = finished_encoder(study, job, encoders)
        if not ready:
            logger.info("%s: the encoder is not ready yet.", job)
            return False
        learn(study, job, dataset, encoder, folder)
    return True


def pretraining_seed(study: Mapping[str, Any], seed: int) -> int:
    """Return the seed of the pretraining that a run starts from: all take turns where there are fewer of them."""
    seeds: list[int] = study["pretrain_seeds"]
    return seeds[study["seeds"].index(seed) % len(seeds)]


def job_folder(output: Path, job: Job) -> Path:
    """Where a run lives."""
    return run_folder(output / job.name, job.arm, job.seed) / slug(job.task)


def pretrain(
    study: Mapping[str, Any], name: str, arm: str, seed: int, dataset: Path, output: Path
) -> tuple[bool, str | None]:
    """Pretrain one arm with one seed, unless that was done.

    Returns:
        Whether the encoder is ready (another process may be making it), and its file (None: without pretraining).
    """
    arguments = study["arms"][arm]
    if arguments is None:
        return True, None
    settings = study["sets"][name]
    prompt = settings["prompt"] if arguments["masking"].startswith("region") else None
    options = {**settings["common"], **study["pretrain"], **settings["pretrain"], **arguments, "seed": seed}
    folder = run_folder(output, arm, seed)
    if (folder / "encoder.safetensors").is_file():
        return True, str(folder / "encoder.safetensors")
    if prompt:
        with claimed(output / "regions") as is_ours:
            if not is_ours:
                return False, None
            make_regions(output / "regions", dataset, prompt, run)
    with claimed(folder) as is_ours:
        return is_ours, make_encoder(folder, dataset, options, prompt, output / "regions", run) if is_ours else None


def finished_encoder(study: Mapping[str, Any], job: Job, encoders: Path) -> tuple[bool, str | None]:
    """Whether another study has made the encoder, and its file (None: without pretraining)."""
    if study["arms"][job.arm] is None:
        return True, None
    seed = pretraining_seed(study, job.seed)
    file = run_folder(encoders / job.name, job.arm, seed) / "encoder.safetensors"
    return file.is_file() and file.with_suffix(".json").is_file(), str(file)


def learn(study: Mapping[str, Any], job: Job, dataset: Path, encoder: str | None, folder: Path) -> None:
    """Run a task, and note how long it took."""
    started = time.time(), time.process_time()
    options = {**task_options(study, job.name, job.task), "seed": job.seed, "encoder": encoder}
    run(
        study["tasks"][job.task]["config"],
        **options,
        dataset_dir=str(dataset),
        output_dir=str(folder),
        resume=True,
    )
    seconds = {"seconds": time.time() - started[0], "cpu_seconds": time.process_time() - started[1]}
    write_json(folder / "seconds.json", seconds)


def guess(study: Mapping[str, Any], data: Path, output: Path) -> None:
    """Measure the guesses of every set and task with every seed, unless that was done or another process does it."""
    for name, settings in study["sets"].items():
        with claimed(output / name / "guesses") as is_ours:
            for task, seed in product(settings["tasks"] if is_ours else [], study["seeds"]):
                file = guess_file(output, name, task, seed)
                if not file.is_file():
                    kind = study["tasks"][task]["kind"]
                    reports = trivial_reports(kind, data / name, task_options(study, name, task), seed)
                    write_json(file, reports)


def guess_file(output: Path, name: str, task: str, seed: int) -> Path:
    """Where what the guesses reach is kept."""
    return output / name / "guesses" / f"{slug(task)}_seed_{seed}.json"


def write_tables(study: Mapping[str, Any], output: Path, results: Path) -> None:
    """Write every figure of every run to ``results``.csv, means, spreads and differences to ``results``.md."""
    found = finished(study, output)

    def write(target: Path) -> None:
        with open(target, "w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["set", "task", "arm", "seed", "figure", "value"])
            for job, figures in found.items():
                writer.writerows([*job, heading, value] for heading, value in figures.items())

    text = markdown(study, found)
    write_atomically(results.with_suffix(".csv"), write)
    write_atomically(results.with_suffix(".md"), lambda target: target.write_text(text))


Found = dict[Job, dict[str, float | None]]


def finished(study: Mapping[str, Any], output: Path) -> Found:
    """Test figures and seconds of the finished runs, the guesses before them."""
    found: Found = {}
    for name, settings in study["sets"].items():
        for task, seed in product(settings["tasks"], study["seeds"]):
            file = guess_file(output, name, task, seed)
            for words, report in (json.loads(file.read_text()) if file.is_file() else {}).items():
                found[Job(name, task, GUESS + words, seed)] = figures_of(study, task, report)
    for job in jobs(study):
        folder = job_folder(output, job)
        if (folder / "metrics.json").is_file():
            figures = figures_of(study, job.task, json.loads((folder / "metrics.json").read_text())["test"])
            seconds = folder / "seconds.json"
            found[job] = {**figures, **(json.loads(seconds.read_text()) if seconds.is_file() else {})}
    return found


def figures_of(study: Mapping[str, Any], task: str, report: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures that the study wants of a report."""
    return {heading: figure(report, where) for heading, where in study["tasks"][task]["figures"].items()}


def markdown(study: Mapping[str, Any], found: Found) -> str:
    """Return a table for each task: figures of the arms, then what the arms differ by."""
    lines = [
        f"# {study['title']}",
        "",
        "Test scans; mean ± standard deviation over the seeds. Guesses never look at a scan. Differences are taken",
        "seed by seed (mean ± standard deviation; with three seeds, less than twice the spread says little).",
        "Seconds: processor time of training, validation and test, without pretraining.",
        *shared_encoders(study),
        f"Every run: `{NAME}.csv`. Made by `python -m benchmarks.{NAME}`, which says how in `{NAME}.yaml`.",
    ]
    for task in study["tasks"]:
        headings = study["tasks"][task]["figures"]
        rows = [row for name in study["sets"] for row in rows_of(study, found, name, task)]
        if rows:
            lines += ["", f"## {task}", "", settings_line(study, task), ""]
            lines += table(["set", "pretraining", "runs", *headings, "seconds"], rows)
        rows = [row for name in study["sets"] for row in differences(study, found, name, task)]
        if rows:
            lines += ["", *table(["set", "difference", "seeds", *headings], rows)]
    if study.get("remarks"):
        lines += ["", study["remarks"].strip()]
    return "\n".join(lines) + "\n"


def shared_encoders(study: Mapping[str, Any]) -> list[str]:
    """Return what to know where several runs start from one encoder."""
    count, runs = len(study["pretrain_seeds"]), len(study["seeds"])
    if count >= runs:
        return []
    encoders = f"{count} pretrained encoder{'s' if count > 1 else ''}"
    return [
        f"The {runs} runs of an arm start from {encoders}: the spread is that of fine-tuning (labelled scans drawn,",
        "start of the other layers, order), not of pretraining.",
    ]


def settings_line(study: Mapping[str, Any], task: str) -> str:
    """Return the options of a task, and what some sets have otherwise."""
    lines = [f"`{study['tasks'][task]['config']}.yaml`: {_said(study['tasks'][task]['options'])}."]
    for name, settings in study["sets"].items():
        if settings["tasks"].get(task):
            lines.append(f"`{name}`: {_said(settings['tasks'][task])}.")
    return " ".join(lines)


def _said(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {'all' if value is None else value}" for key, value in options.items())


def rows_of(study: Mapping[str, Any], found: Found, name: str, task: str) -> list[list[str]]:
    """Return one row for each guess and arm."""
    headings = study["tasks"][task]["figures"]
    rows = []
    for arm in dict.fromkeys(job.arm for job in found if (job.name, job.task) == (name, task)):
        runs = [figures for job, figures in found.items() if (job.name, job.task, job.arm) == (name, task, arm)]
        cells = [cell([figures[heading] for figures in runs], where) for heading, where in headings.items()]
        seconds = [value for figures in runs if (value := figures.get("cpu_seconds")) is not None]
        spent = f"{statistics.fmean(seconds):.0f}" if seconds else ""
        rows.append([name, arm, str(len(runs)), *cells, spent])
    return rows


def differences(study: Mapping[str, Any], found: Found, name: str, task: str) -> list[list[str]]:
    """Return one row for each pair of arms: what the first has more than the second, seed by seed."""
    headings = study["tasks"][task]["figures"]
    rows = []
    for more, less in study["differences"]:
        pairs = [
            (found[Job(name, task, more, seed)], found[Job(name, task, less, seed)])
            for seed in study["seeds"]
            if Job(name, task, more, seed) in found and Job(name, task, less, seed) in found
        ]
        if pairs:
            cells = [
                cell([minus(a[heading], b[heading]) for a, b in pairs], where) for heading, where in headings.items()
            ]
            rows.append([name, f"{more} − {less}", str(len(pairs)), *cells])
    return rows


def minus(first: float | None, second: float | None) -> float | None:
    """Return the difference; None if one of them is undefined."""
    return None if first is None or second is None else first - second


def table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *rows]]


if __name__ == "__main__":
    main()
