# SPDX-License-Identifier: Apache-2.0
"""What studies of several runs share: a folder a run, each run made once, mean and spread over the seeds."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bundle import make_workflow
from custom.locks import FolderInUseError, only_one

logger = logging.getLogger("study")

Run = Callable[..., None]
"""A config's name and its overrides -> the workflow has run."""


def run_workflow(config: str, **overrides: Any) -> None:
    """Run a workflow of the bundle in this process, as `python -m monai.bundle run` would."""
    logger.info("%s: %s", config, overrides)
    workflow = make_workflow(config, **overrides)
    workflow.run()
    workflow.finalize()
    del workflow
    gc.collect()


def make_regions(region_dir: Path, dataset: Path, prompt: str, run: Run) -> None:
    """Make the region maps of a prompt, unless that was done."""
    if not (region_dir / "summary.json").is_file():
        run("localize", dataset_dir=str(dataset), prompt=prompt, output_dir=str(region_dir))


def make_encoder(
    folder: Path, dataset: Path, options: Mapping[str, Any], prompt: str | None, region_dir: Path, run: Run
) -> str:
    """Pretrain into a folder, unless that was done; return the encoder's file.

    Args:
        folder: of the pretraining.
        dataset: of the scans.
        options: of pretrain.yaml, with the seed.
        prompt: of what the regions are; None: no regions are needed.
        region_dir: where the prompt's region maps are, or are made once.
        run: runs a config.
    """
    encoder = folder / "encoder.safetensors"
    if not encoder.is_file():
        regions = {}
        if prompt:
            make_regions(region_dir, dataset, prompt, run)
            regions = {"prompt": prompt, "region_dir": str(region_dir)}
        run("pretrain", **options, **regions, dataset_dir=str(dataset), output_dir=str(folder), resume=True)
    return str(encoder)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim a run for this process: false if another one works on it.

    The claim ends with the process, however that ends.
    """
    with contextlib.ExitStack() as claim:
        try:
            claim.enter_context(only_one(folder, "on this run"))
        except FolderInUseError:
            yield False
            return
        yield True


def run_folder(output: Path, arm: str, seed: int) -> Path:
    """Where the run of an arm with a seed lives."""
    return output / slug(arm) / f"seed_{seed}"


def slug(name: str) -> str:
    """File name of an arm, a task or an evaluation."""
    return "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")


def mean_and_spread(values: Sequence[float], factor: float = 100.0) -> str:
    """Mean ± standard deviation (of the sample), in per cent by default."""
    spread = f" ± {factor * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{factor * statistics.fmean(values):.1f}{spread}"


def task_options(study: Mapping[str, Any], name: str, task: str) -> dict[str, Any]:
    """Options of a task on a set: those of the set, then of the task, then of the task on this set."""
    settings = study["sets"][name]
    return {
        **settings["common"],
        **settings.get("options", {}),
        **study["tasks"][task]["options"],
        **settings["tasks"][task],
    }


def figure(report: Mapping[str, Any], where: str | Sequence[Any]) -> float | None:
    """Return a figure of a report by its path, "per_class.glioma.ap50"; a factor may stand beside it, see `cell`."""
    value: Any = report
    path = where if isinstance(where, str) else where[0]
    for key in path.split("."):
        if key not in value:
            raise ValueError(f"A report has no figure {path!r}; it has {', '.join(value)}. Is it of another version?")
        value = value[key]
    return None if value is None else float(value)


def cell(values: Sequence[float | None], where: str | Sequence[Any]) -> str:
    """Mean and spread of a figure: in per cent, or times the factor in ``[path, factor]``; "–" if it is undefined.

    Values that are undefined are left out, and the others counted: "3.1 ± 0.2 (2 of 3)".
    """
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    counted = "" if len(known) == len(values) else f" ({len(known)} of {len(values)})"
    return mean_and_spread(known, 100.0 if isinstance(where, str) else float(where[1])) + counted


def study_parser(doc: str | None, name: str, settings: Path) -> argparse.ArgumentParser:
    """Return the command line that studies share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MWM_DATA"), help="folder of the real data sets (MWM_DATA)")
    parser.add_argument("--output", default=f"output/{name}", help="where runs are kept")
    parser.add_argument("--results", default="benchmarks/results", help="where the table goes")
    parser.add_argument("--settings", default=settings, help="what is compared, at which size")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line; the data must be somewhere."""
    arguments = parser.parse_args()
    if not arguments.data:
        parser.error("give --data or set MWM_DATA")
    return arguments
