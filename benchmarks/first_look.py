# SPDX-License-Identifier: Apache-2.0
"""A small first look: does pretraining help to classify brain tumours, and does it matter what was hidden?

From scratch against SparK's random masks, region masks and the matched random control, several seeds, linear probe and
fine-tuning, on `brain_mri_cheng`, through the very configs that users run. Sized for two CPU cores: a small network,
small pictures, few epochs. Every finished run is kept; started again, the command goes on where it stopped.

    python -m benchmarks.first_look --data $MWM_DATA --output output/first_look
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from benchmarks.studies import make_encoder, mean_and_spread, parsed, run_folder, slug, study_parser
from benchmarks.studies import run_workflow as run

FIGURES = ("accuracy", "balanced_accuracy", "macro_auroc")
INTERVAL = ("macro_auroc_low", "macro_auroc_high")


def main() -> None:
    """Run what is missing, then write the table."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    study = ConfigParser.load_config_file(str(arguments.settings))
    dataset, output = Path(arguments.data) / study["dataset"], Path(arguments.output)
    for seed in study["seeds"]:
        for arm in arguments.arms or study["arms"]:
            encoder = pretrain(study, arm, seed, dataset, output)
            for name, options in study["evaluations"].items():
                folder = run_folder(output, arm, seed) / slug(name)
                evaluate(study["common"], options, encoder, seed, dataset, folder)
            write_tables(study, output, Path(arguments.results) / Path(arguments.settings).stem)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = study_parser(__doc__, "first_look", Path(__file__).with_suffix(".yaml"))
    parser.add_argument("--arms", nargs="*", help="only these arms of the settings")
    return parsed(parser)


def pretrain(study: Mapping[str, Any], arm: str, seed: int, dataset: Path, output: Path) -> str | None:
    """Pretrain one arm with one seed, unless that was done; return its encoder (none: without pretraining)."""
    arguments = study["arms"][arm]
    if arguments is None:
        return None
    prompt = arguments.get("prompt")
    options = {**study["common"], **study["pretrain"], **arguments, "seed": seed}
    options.pop("prompt", None)
    region_dir = output / "regions" / slug(prompt or "")
    return make_encoder(run_folder(output, arm, seed), dataset, options, prompt, region_dir, run)


def evaluate(
    common: Mapping[str, Any], options: Mapping[str, Any], encoder: str | None, seed: int, dataset: Path, folder: Path
) -> None:
    """Classify with one encoder in one way, unless that was done."""
    if not (folder / "metrics.json").is_file():
        settings = {**common, **options, "seed": seed, "encoder": encoder}
        run("classify", **settings, dataset_dir=str(dataset), output_dir=str(folder))


def write_tables(study: Mapping[str, Any], output: Path, results: Path) -> None:
    """Write every finished run to ``results``.csv, mean and spread over the seeds to ``results``.md."""
    rows = [row for arm in study["arms"] for seed in study["seeds"] for row in finished(study, output, arm, seed)]
    results.parent.mkdir(parents=True, exist_ok=True)
    with open(results.with_suffix(".csv"), "w", newline="") as stream:
        writer = csv.DictWriter(stream, ["arm", "evaluation", "seed", *FIGURES, *INTERVAL, "val_macro_auroc"])
        writer.writeheader()
        writer.writerows(rows)
    results.with_suffix(".md").write_text(markdown(study, rows, results.name))


def finished(study: Mapping[str, Any], output: Path, arm: str, seed: int) -> list[dict[str, Any]]:
    """Test figures of the finished evaluations of one arm and seed."""
    rows = []
    for name in study["evaluations"]:
        file = run_folder(output, arm, seed) / slug(name) / "metrics.json"
        if file.is_file():
            metrics = json.loads(file.read_text())
            test = {figure: metrics["test"][figure] for figure in FIGURES}
            low, high = metrics["test"]["intervals"]["macro_auroc"]
            more = {"macro_auroc_low": low, "macro_auroc_high": high, "val_macro_auroc": metrics["val"]["macro_auroc"]}
            rows.append({"arm": arm, "evaluation": name, "seed": seed, **test, **more})
    return rows


def markdown(study: Mapping[str, Any], rows: list[dict[str, Any]], name: str) -> str:
    """One line per evaluation and arm: test figures over the seeds."""
    size, epochs = study["common"]["image_size"][0], study["pretrain"]["max_epochs"]
    lines = [
        f"# {study['dataset']}: {study['title']}",
        "",
        "Test scans; mean ± standard deviation over the seeds, in per cent. In brackets: 95 % bootstrap interval of",
        f"one run (runs of slices drawn), averaged over the seeds. {study['common']['backbone']}, {size} px, "
        f"{epochs} epochs of pretraining. Every run: `{name}.csv`. Made by `{command(name)}`.",
        "",
        "| evaluation | pretraining | runs | accuracy | balanced accuracy | macro AUROC |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in study["evaluations"]:
        for arm in study["arms"]:
            runs = [row for row in rows if row["arm"] == arm and row["evaluation"] == name]
            if runs:
                cells = [mean_and_spread([row[figure] for row in runs]) for figure in FIGURES]
                low, high = (100 * statistics.fmean(row[bound] for row in runs) for bound in INTERVAL)
                lines.append(f"| {name} | {arm} | {len(runs)} | {' | '.join(cells)} [{low:.1f}, {high:.1f}] |")
    if study.get("remarks"):
        lines += ["", study["remarks"].strip()]
    return "\n".join(lines) + "\n"


def command(name: str) -> str:
    """Return the command that made a table."""
    default = Path(__file__).stem
    more = "" if name == default else f" --settings benchmarks/{name}.yaml --output output/{name}"
    return f"python -m benchmarks.{default}{more}"


if __name__ == "__main__":
    main()
