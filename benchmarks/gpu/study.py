# SPDX-License-Identifier: Apache-2.0
"""A first study for one GPU, in calls of a few minutes: what is not finished yet, in a fixed order, until time is up.

    python -m benchmarks.gpu.check
    TQDM_DISABLE=1 python -m benchmarks.gpu.study --packed output/gpu_packed --output OUT --minutes 9.5
    python -m benchmarks.gpu.merge OUT/results.jsonl ...

Every run goes through the bundle's own configs, with the arguments of `study.yaml`. Killed at any moment or stopped by
itself, it goes on from the last checkpoint in `--work`. `OUT/results.jsonl` holds a line for each finished run; it is
all that must come back. On another machine, where `--work` is empty, give what came back from earlier calls with
`--done`, so that nothing is repeated.

What the machine needs, the first command tells: a PyTorch for its GPU, and the packages of requirements.txt, of which
several may be missing. Those that must be there can travel as wheels, beside the archives:
`pip download --no-deps -d wheels NAME ...` here, `pip install --no-index --no-deps --target site wheels/*` and
`PYTHONPATH=site` there.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import logging
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.bundle import make_workflow
from benchmarks.gpu.archive import unpack
from benchmarks.gpu.clock import Clock, OutOfTime
from benchmarks.gpu.results import Result, read_results, write_result
from benchmarks.gpu.settings import (
    SETTINGS,
    Run,
    code_digest,
    evaluation_options,
    load_settings,
    planned,
    pretraining_options,
)
from custom.files import write_atomically
from custom.handlers import TrainingCheckpoint, read_history
from custom.networks import file_hash

START_SECONDS = 45  # with less time left, nothing is begun whose duration is not known
logger = logging.getLogger("study")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is left and fits; return 1 if a run failed."""
    given = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    study = Study(load_settings(given.settings), given.packed, given.work, given.output, given.minutes, given.done)
    study.go()
    print(study.summary())
    return 1 if study.failed else 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", type=Path, required=True, help="folder of the archives that pack.py made")
    parser.add_argument("--output", type=Path, required=True, help="where results.jsonl goes")
    parser.add_argument("--work", type=Path, default=Path("output/gpu_study"), help="pictures, checkpoints, encoders")
    parser.add_argument("--done", nargs="*", default=[], help="results of earlier calls, not to be repeated")
    parser.add_argument("--minutes", type=float, default=9.5, help="stop before so many minutes have passed")
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="what is compared, at which size")
    return parser.parse_args(arguments)


class Study:
    """The runs that are planned, those that are finished, and the time that is left.

    Args:
        settings: content of `study.yaml`.
        packed: folder of the archives; sets without one are left out.
        work: folder of all that is needed to go on.
        output: folder of what is to come back.
        minutes: until when to work, counted from now.
        done: files with results of earlier calls.

    Attributes:
        results: what is known of finished runs, by name.
        failed: names of runs that raised an error.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        packed: Path,
        work: Path,
        output: Path,
        minutes: float,
        done: Sequence[str | Path] = (),
    ) -> None:
        self.deadline = time.monotonic() + 60 * minutes
        self.settings, self.work, self.output = settings, work, output
        self.archives = {name: packed / f"{name}.zip" for name in settings["sets"]}
        if not any(path.is_file() for path in self.archives.values()):
            raise ValueError(f"{packed}: no archive of {', '.join(self.archives)}. Make them with benchmarks.gpu.pack.")
        self.digests = {name: file_hash(path) for name, path in self.archives.items() if path.is_file()}
        own = [work / "results"] if (work / "results").is_dir() else []
        self.results: dict[str, Result] = {each["name"]: each for each in read_results([*done, *own])}
        self.failed: list[str] = []

    def go(self) -> None:
        """Do the runs in their order, until all are done or time is up; an error ends its own run only."""
        self._gather()
        for run in planned(self.settings):
            if run.name in self.results or run.dataset not in self.digests:
                continue
            try:
                self.do(run)
            except OutOfTime as reason:
                logger.info("Time is up at %s: %s.", run.name, reason)
                return
            except Exception:
                logger.exception("%s failed.", run.name)
                self.failed.append(run.name)

    def do(self, run: Run) -> None:
        """Pretrain, unless that was done, then evaluate and keep the result."""
        dataset = unpack(self.archives[run.dataset], self.work / "sets" / run.dataset)
        pretraining = self._pretrain(run, dataset)
        self._require(self._expected_seconds(run))
        options, folder = evaluation_options(self.settings, run), self.work / "runs" / run.name
        settings = {"data": self.digests[run.dataset], "pretrain": pretraining_options(self.settings, run)}
        settings["evaluate"] = options
        claim(folder, settings)
        encoder = None if pretraining is None else str(self._pretraining_folder(run) / "encoder.safetensors")
        start = time.monotonic()
        made = {"dataset_dir": str(dataset), "output_dir": str(folder), "seed": run.seed, "encoder": encoder}
        made["resume"] = True
        training = self._workflow("classify", {**options, **made}, None if options["probe"] else folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        facts = {"pretraining": pretraining, "training": training, "seconds": round(time.monotonic() - start, 1)}
        self._keep(run, {"settings": settings, **facts, **measured(folder / "metrics.json")})

    def summary(self) -> str:
        """How much of the plan is done."""
        runs = planned(self.settings)
        known = sum(run.name in self.results for run in runs)
        absent = [name for name in self.archives if name not in self.digests]
        parts = [f"{known} of {len(runs)} runs are finished: {self.output / 'results.jsonl'}."]
        parts += [f"Not packed: {', '.join(absent)}."] if absent else []
        parts += [f"Failed, see above: {', '.join(self.failed)}."] if self.failed else []
        return " ".join(parts)

    def _pretrain(self, run: Run, dataset: Path) -> dict[str, Any] | None:
        """Pretrain the arm of a run, unless that was done; return facts of it, None without pretraining."""
        options, folder = pretraining_options(self.settings, run), self._pretraining_folder(run)
        if options is None:
            return None
        claim(folder, {"data": self.digests[run.dataset], **options})
        facts = folder / "pretraining.json"
        if not facts.is_file():
            self._require(START_SECONDS)
            made = {"dataset_dir": str(dataset), "output_dir": str(folder), "seed": run.seed, "resume": True}
            if options["prompt"]:
                made["region_dir"] = str(dataset / "regions")
            found = self._workflow("pretrain", {**options, **made}, folder)
            found = {**found, "history": read_history(folder / "history.csv")}
            write_atomically(facts, lambda target: target.write_text(json.dumps(found)))
            shutil.rmtree(folder / "checkpoints")  # half a gigabyte each
        return json.loads(facts.read_text())

    def _workflow(self, config: str, options: Mapping[str, Any], timed: Path | None) -> dict[str, Any] | None:
        """Run a workflow of the bundle, a training in the folder ``timed`` until time is up; return facts of it."""
        logger.info("%s: %s", config, options)
        # A copy, because MONAI's parser writes into what it is given.
        workflow = make_workflow(config, **copy.deepcopy({**options, **self.settings["machine"]}))
        # Workflows ask for convolutions that are the same in every run; here the fastest ones are wanted.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        clock = None if timed is None else self._clock(workflow.parser, timed)
        try:
            workflow.run()
        except Exception as error:
            if clock is not None and clock.stopped:
                raise OutOfTime(root_cause(error)) from None
            raise
        finally:
            del workflow
            gc.collect()
        return None if clock is None else {**clock.facts(), "peak_memory_gib": peak_memory()}

    def _clock(self, parser: Any, folder: Path) -> Clock:
        """Time the trainer of a workflow."""
        trainer = parser.get_parsed_content("train#trainer")
        handlers = parser.get_parsed_content("train#handlers")
        save = next((handler for handler in handlers if isinstance(handler, TrainingCheckpoint)), None)
        if save is None:
            (folder / "epochs.json").unlink(missing_ok=True)  # it cannot be resumed: earlier epochs do not count
        clock = Clock(folder / "epochs.json", self.deadline, save)
        clock.attach(trainer)
        return clock

    def _keep(self, run: Run, facts: Mapping[str, Any]) -> None:
        """Write the result of a run, and all results where they are to come back."""
        about = {"dataset": run.dataset, "seed": run.seed, "arm": run.arm, "evaluation": run.evaluation}
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        result = {"name": run.name, **about, **facts, "device": device_name(), "finished": finished}
        result["versions"] = {**facts["versions"], "python": platform.python_version(), "code": code_digest()}
        write_result(self.work / "results" / f"{run.name}.json", result)
        self.results[run.name] = result
        self._gather()

    def _gather(self) -> None:
        lines = "".join(json.dumps(result) + "\n" for result in self.results.values())
        write_atomically(self.output / "results.jsonl", lambda target: target.write_text(lines))

    def _pretraining_folder(self, run: Run) -> Path:
        return self.work / "pretraining" / run.pretraining

    def _expected_seconds(self, run: Run) -> float:
        """How long an evaluation took elsewhere on the same set; a probe cannot be resumed."""
        like = (run.dataset, run.evaluation)
        known = [each["seconds"] for each in self.results.values() if (each["dataset"], each["evaluation"]) == like]
        return max(known, default=START_SECONDS)

    def _require(self, seconds: float) -> None:
        left = self.deadline - time.monotonic()
        if left < seconds:
            raise OutOfTime(f"{max(left, 0):.0f} seconds are left, {seconds:.0f} are needed for the next step")


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make sure that what lies in a folder was made with these settings, and will be.

    Raises:
        ValueError: it was made with others.
    """
    file = folder / "settings.json"
    if not file.is_file():
        write_atomically(file, lambda target: target.write_text(json.dumps(settings)))
    elif json.loads(file.read_text()) != json.loads(json.dumps(settings)):
        raise ValueError(f"{folder} was begun with other settings or data: choose another --work, or remove it.")


def measured(file: Path) -> dict[str, Any]:
    """What a result keeps of the metrics.json of an evaluation."""
    metrics = json.loads(file.read_text())
    return {key: metrics[key] for key in ("classes", "num_scans", "fit", "val", "test", "versions")}


def root_cause(error: BaseException) -> str:
    """Message of the error that started a chain: MONAI wraps what its components raise."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def device_name() -> str:
    """Name of the GPU, or that there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


def peak_memory() -> float | None:
    """Most memory that tensors took on the GPU since the last reset, in GiB."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None


if __name__ == "__main__":
    sys.exit(main())
