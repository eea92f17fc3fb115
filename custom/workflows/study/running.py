# SPDX-License-Identifier: Apache-2.0
"""Runs of configs in this process: each made once, resumed where it was stopped, noted with its settings."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from custom.tasks.results import write_json
from custom.workflows.errors import root_cause
from custom.workflows.study.plan import LOCALIZATION, PRETRAINING, Step

logger = logging.getLogger(__name__)

RECORD = "study_run.json"
CHANGES_NO_FIGURE = ("device", "num_workers", "log_interval", "checkpoint_interval", "preview_interval", "cards")

RunConfig = Callable[[str, Mapping[str, Any]], None]
"""Name of a config and its settings -> it has run."""


class BundleRuns:
    """Runs configs of a bundle as ``python -m monai.bundle run`` would, in this process.

    Args:
        bundle_root: holds ``configs``.
    """

    def __init__(self, bundle_root: str | Path) -> None:
        self.bundle_root = Path(bundle_root)

    def __call__(self, config: str, settings: Mapping[str, Any]) -> None:
        """Run a config; errors are those of the config."""
        configs = self.bundle_root / "configs"
        workflow = ConfigWorkflow(
            config_file=str(configs / f"{config}.yaml"),
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            bundle_root=str(self.bundle_root),
            # The workflow changes nested settings in place, and they serve other runs, too.
            **copy.deepcopy(dict(settings)),
        )
        with _test_untold():
            workflow.initialize()
            workflow.run()
            workflow.finalize()


def free_memory() -> None:
    """Give back what a finished run still holds: engines and handlers refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _test_untold() -> Iterator[None]:
    """Keep the figures of the test scans out of the log: they are told once, when all runs are done."""
    told = logging.getLogger("custom.tasks.task_run")
    level = told.level
    told.setLevel(logging.WARNING)
    try:
        yield
    finally:
        told.setLevel(level)


def is_done(step: Step) -> bool:
    """Whether a run has left what it is made for."""
    if step.kind == LOCALIZATION:
        summary = read_json(step.folder / "summary.json")
        return bool(summary) and "stopped" not in summary
    if step.kind == PRETRAINING:
        return all((step.folder / f"encoder.{ending}").is_file() for ending in ("safetensors", "json"))
    return (step.folder / "metrics.json").is_file()


def perform(step: Step, run: RunConfig) -> str | None:
    """Make a run, or go on with it; return why it failed, None if it did not.

    Raises:
        ValueError: see :func:`check_same`.
    """
    check_same(step)
    record = {"config": step.config, "settings": _full(step), "seconds": 0.0, **read_json(step.folder / RECORD)}
    write_json(step.folder / RECORD, {**record, "error": None})
    resume = {} if step.kind == LOCALIZATION else {"resume": True}
    started, error = time.monotonic(), None
    try:
        run(step.config, {**step.settings, **resume, "output_dir": str(step.folder)})
    except Exception as problem:
        logger.exception("This run failed: %s.", step.name)
        error = in_one_line(problem)
    free_memory()  # the error held every frame of the run until here
    if error is None and not is_done(step):
        error = f"{step.config}.yaml ended without a result in {step.folder}."
    seconds = record["seconds"] + time.monotonic() - started
    write_json(step.folder / RECORD, {**record, "seconds": seconds, "error": error})
    return error


def check_same(step: Step) -> None:
    """Refuse to go on with, or take for granted, a run that was made with other settings.

    Raises:
        ValueError: naming what differs and what to do.
    """
    record = read_json(step.folder / RECORD)
    if not record:
        if is_done(step):
            raise ValueError(
                f"{step.folder} holds a run that no study made. Choose another --output_dir, or move that folder away."
            )
        return
    before, now = record["settings"], json.loads(json.dumps(_full(step)))
    names = sorted(name for name in {*before, *now} - set(CHANGES_NO_FIGURE) if before.get(name) != now.get(name))
    if record["config"] != step.config:
        names, before, now = ["config"], record, {"config": step.config}
    if names:
        differences = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names)
        raise ValueError(
            f"{step.folder} was made with other settings: {differences}. Runs of different settings cannot be "
            "compared: choose another --output_dir, give the settings of before, or remove the folders of this study "
            "that are to be made anew."
        )


def _full(step: Step) -> dict[str, Any]:
    return {**step.settings, **step.noted}


def seconds_left(steps: Sequence[Step]) -> float | None:
    """Return about how long the missing runs will take, from what those that are done took; None: unknown."""
    taken: dict[str, list[float]] = {}
    for step in steps:
        if is_done(step) and (seconds := read_json(step.folder / RECORD).get("seconds")):
            taken.setdefault(step.kind, []).append(seconds)
    known = [seconds for kind, each in taken.items() for seconds in each if kind != LOCALIZATION]
    missing = [step.kind for step in steps if not is_done(step)]
    if not known or not missing:
        return None
    return sum(statistics.fmean(taken.get(kind, known)) for kind in missing)


def in_one_line(error: BaseException) -> str:
    """Return what went wrong, in one line."""
    cause = root_cause(error)
    words = " ".join(str(cause).split())
    return words if isinstance(cause, ValueError) and words else f"{type(cause).__name__}: {words}"


def read_json(file: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if there is none."""
    return json.loads(file.read_text()) if file.is_file() else {}
