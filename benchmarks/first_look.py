# SPDX-License-Identifier: Apache-2.0
"""A small first look: does pretraining help to classify brain tumours, and does it matter what was hidden?

From scratch against SparK's random masks, region masks and the matched random control, several seeds, linear probe and
fine-tuning, on `brain_mri_cheng`, through the very configs that users run. Sized for two CPU cores: a small network,
small pictures, few epochs. Every finished run is kept; started again, the command goes on where it stopped.

    python benchmarks/first_look.py --data $MWM_DATA --output output/first_look
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import logging
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

CONFIGS = Path("bundle/configs")
FIGURES = ("accuracy", "balanced_accuracy", "auroc")
logger = logging.getLogger("first_look")


def main() -> None:
    """Run what is missing, then write the table."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    study = ConfigParser.load_config_file(str(arguments.settings))
    dataset, output = Path(arguments.data) / study["dataset"], Path(arguments.output)
    regions = localize(study, dataset, output / "regions")
    for seed in study["seeds"]:
        for arm, pretraining in study["arms"].items():
            encoder = pretrain(study, arm, pretraining, seed, dataset, output, regions)
            for name, options in study["evaluations"].items():
                evaluate(study, name, options, encoder, seed, dataset, run_folder(output, arm, seed) / slug(name))
            write_tables(study, output, Path(arguments.results))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MWM_DATA"), help="folder of the real data sets (MWM_DATA)")
    parser.add_argument("--output", default="output/first_look", help="where runs are kept")
    parser.add_argument("--results", default="benchmarks/results", help="where the table goes")
    parser.add_argument(
        "--settings", default=Path(__file__).with_suffix(".yaml"), help="what is compared, at which size"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("give --data or set MWM_DATA")
    return arguments


def localize(study: Mapping[str, Any], dataset: Path, folder: Path) -> Path:
    """Make the region maps once; every pretraining reads them."""
    if not (folder / "summary.json").is_file():
        run("localize", dataset_dir=str(dataset), prompt=study["prompt"], output_dir=str(folder), split="all")
    return folder


def pretrain(
    study: Mapping[str, Any],
    arm: str,
    pretraining: Mapping[str, Any] | None,
    seed: int,
    dataset: Path,
    output: Path,
    regions: Path,
) -> str | None:
    """Pretrain one arm with one seed; return its encoder, None for the arm without pretraining."""
    if pretraining is None:
        return None
    folder = run_folder(output, arm, seed)
    encoder = folder / "encoder.safetensors"
    if not encoder.is_file():
        options = {**study["common"], **study["pretrain"], **pretraining, "prompt": study["prompt"], "seed": seed}
        where = {"dataset_dir": str(dataset), "output_dir": str(folder), "region_dir": str(regions)}
        run("pretrain", **options, **where, resume=True)
    return str(encoder)


def evaluate(
    study: Mapping[str, Any],
    name: str,
    options: Mapping[str, Any],
    encoder: str | None,
    seed: int,
    dataset: Path,
    folder: Path,
) -> None:
    """Classify with one encoder in one way, unless that was done."""
    if not (folder / "metrics.json").is_file():
        logger.info("%s of %s", name, encoder)
        settings = {**study["common"], **options, "seed": seed, "encoder": encoder}
        run("classify", **settings, dataset_dir=str(dataset), output_dir=str(folder))


def run(config: str, **overrides: Any) -> None:
    """Run a workflow of the bundle in this process, as `python -m monai.bundle run` would."""
    logger.info("%s: %s", config, overrides)
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / f"{config}.yaml"),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    del workflow
    gc.collect()


def run_folder(output: Path, arm: str, seed: int) -> Path:
    """Where the run of an arm with a seed lives."""
    return output / slug(arm) / f"seed_{seed}"


def slug(name: str) -> str:
    """File name of an arm or an evaluation."""
    return "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")


def write_tables(study: Mapping[str, Any], output: Path, results: Path) -> None:
    """Write every finished run to a CSV file, and mean and spread over the seeds to a Markdown table."""
    rows = [row for arm in study["arms"] for seed in study["seeds"] for row in finished(study, output, arm, seed)]
    results.mkdir(parents=True, exist_ok=True)
    with open(results / "first_look.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, ["arm", "evaluation", "seed", *FIGURES, "val_auroc"])
        writer.writeheader()
        writer.writerows(rows)
    (results / "first_look.md").write_text(markdown(study, rows))


def finished(study: Mapping[str, Any], output: Path, arm: str, seed: int) -> list[dict[str, Any]]:
    """Test figures of the finished evaluations of one arm and seed."""
    rows = []
    for name in study["evaluations"]:
        file = run_folder(output, arm, seed) / slug(name) / "metrics.json"
        if file.is_file():
            metrics = json.loads(file.read_text())
            test = {figure: metrics["test"][figure]["value"] for figure in FIGURES}
            val = {"val_auroc": metrics["val"]["auroc"]["value"]}
            rows.append({"arm": arm, "evaluation": name, "seed": seed, **test, **val})
    return rows


def markdown(study: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over the seeds on the test scans, one line per evaluation and arm."""
    lines = [
        f"# {study['dataset']}: a small first look",
        "",
        f"Test scans, mean ± standard deviation over {len(study['seeds'])} seeds; written by `benchmarks/first_look.py` with",
        f"`benchmarks/first_look.yaml` ({study['common']['backbone']}, {study['common']['image_size'][0]} px, "
        f"{study['pretrain']['max_epochs']} epochs of pretraining). Every run: `first_look.csv`.",
        "",
        "| evaluation | pretraining | runs | accuracy | balanced accuracy | macro AUROC |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in study["evaluations"]:
        for arm in study["arms"]:
            runs = [row for row in rows if row["arm"] == arm and row["evaluation"] == name]
            if runs:
                cells = " | ".join(mean_and_spread([row[figure] for row in runs]) for figure in FIGURES)
                lines.append(f"| {name} | {arm} | {len(runs)} | {cells} |")
    return "\n".join(lines) + "\n"


def mean_and_spread(values: list[float]) -> str:
    """Mean ± standard deviation (of the sample), in per cent."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


if __name__ == "__main__":
    main()
