# SPDX-License-Identifier: Apache-2.0
"""The order of events of a downstream task: fit, choose on val, test once, write; later evaluate or predict again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import monai
import numpy as np
import torch
from torch import nn

from custom.files import write_atomically
from custom.networks import file_hash
from custom.records import check_plain
from custom.tasks.fine_tuning import Method
from custom.tasks.record import read_record, record_path, write_record
from custom.tasks.results import BestModel, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


class Task(Protocol):
    """One kind of prediction. A *case* is what is known of one scan: any object with a ``scan_id``."""

    name: str

    def predict(self, network: nn.Module, loader: Iterable, progress: str) -> list[Any]:
        """Run the network, which is in evaluation mode, over all scans; return cases on the scans' own grids."""

    def calibrate(self, cases: Sequence[Any]) -> dict[str, Any]:
        """Decide on the validation scans (thresholds); JSON-able, empty if there is nothing to decide."""

    def report(self, cases: Sequence[Any], decisions: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures of labelled cases: JSON-able, with ``num_scans``, None where undefined."""

    def scores(self, cases: Sequence[Any], decisions: Mapping[str, Any]) -> dict[str, float]:
        """Return how good each case is, by scan id, higher is better; only where that is defined."""

    def save(self, cases: Sequence[Any], decisions: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write the predictions of cases, labelled or not, in standard formats; return the files."""

    def draw(self, case: Any, decisions: Mapping[str, Any], axes: Axes) -> None:
        """Draw the scan, its prediction and, if known, the truth."""

    def summary(self, report: Mapping[str, Any]) -> str:
        """Say a report in one line."""


class TaskRun:
    """Fit, decide on the validation scans, test once, and write what was found.

    Writes ``model.pt`` with ``model.json``, ``metrics.json``, ``predictions/`` and ``cases.png`` into ``output_dir``.
    What an earlier run left there stays until this one replaces it, file by file; which files belong together is told
    by the SHA-256 of the weights that both JSON files hold.

    Args:
        task: what is predicted.
        method: how to fit; its model is what is measured.
        loaders: "val" and "test" -> loader, in a fixed order.
        facts: JSON-able facts of the run for ``metrics.json`` (dataset, seed, encoder, ...).
        config: name of the config file, for ``model.json``.
        model_settings: what to give to that config so that it builds the same network.
        output_dir: where the files go.
        preprocessing: what is done to scans, plain values, which that config takes over from the record; None: a config
            of one's own that has all of it in ``model_settings``.

    Raises:
        ValueError: if a setting, such as the name of a class, could not be read back, see :mod:`custom.records`.
    """

    def __init__(
        self,
        task: Task,
        method: Method,
        loaders: Mapping[str, Iterable],
        facts: Mapping[str, Any],
        config: str,
        model_settings: Mapping[str, Any],
        output_dir: str | Path,
        preprocessing: Mapping[str, Any] | None = None,
    ) -> None:
        self.task = task
        self.method = method
        self.loaders = dict(loaders)
        self.facts = dict(facts)
        self.contract = {} if preprocessing is None else {"preprocessing": dict(preprocessing)}
        self.config, self.model_settings = config, dict(model_settings)
        check_plain(record_path(method.model.file), self.model_settings, "settings")  # before hours of training
        self.output_dir = Path(output_dir)

    def run(self) -> dict[str, Any]:
        """Do all of it; return the content of ``metrics.json``."""
        model = self.method.model
        fit = self.method.fit()
        network = model.network.eval()
        val = predicted(self.task, network, self.loaders["val"], "val")
        decisions = self.task.calibrate(val)
        self._write_record(model, decisions)
        test = predicted(self.task, network, self.loaders["test"], "test")
        cases = {"val": val, "test": test}
        reports = {split: self.task.report(found, decisions) for split, found in cases.items()}
        metrics = {"task": self.task.name, **self.facts, **self.contract, "method": self.method.name, "fit": fit}
        metrics |= {"decisions": decisions, **reports, "model_sha256": file_hash(model.file), "versions": versions()}
        for split, found in cases.items():
            write_predictions(self.task, found, decisions, self.output_dir / "predictions" / split)
        write_cases(self.task, test, decisions, self.output_dir / "cases.png")
        write_json(self.output_dir / "metrics.json", metrics)
        logger.info("Test, %d scans: %s", reports["test"]["num_scans"], self.task.summary(reports["test"]))
        logger.info("Written: metrics.json, cases.png, model.pt and predictions in %s.", self.output_dir)
        return metrics

    def _write_record(self, model: BestModel, decisions: Mapping[str, Any]) -> None:
        content = {
            "task": self.task.name,
            "config": self.config,
            "settings": self.model_settings,
            **self.contract,
            "decisions": dict(decisions),
            "facts": self.facts,
            "versions": versions(),
        }
        write_record(model.file, content)


class Evaluation:
    """Measure a trained model on labelled scans, with what was decided when it was trained.

    Writes ``metrics.json``, ``predictions/<split>`` and ``cases.png`` into ``output_dir``.

    Args:
        task: what is predicted.
        model: the network, and the file of its weights; ``model.json`` beside it holds the decisions.
        loader: labelled scans.
        facts: JSON-able facts for ``metrics.json``.
        output_dir: where the files go.
        split: name of the scans in ``metrics.json``.
    """

    def __init__(
        self,
        task: Task,
        model: BestModel,
        loader: Iterable,
        facts: Mapping[str, Any],
        output_dir: str | Path,
        split: str = "test",
    ) -> None:
        self.task, self.model, self.loader = task, model, loader
        self.facts = dict(facts)
        self.output_dir = Path(output_dir)
        self.split = split

    def run(self) -> dict[str, Any]:
        """Do it; return the content of ``metrics.json``."""
        record = _restored(self.model, self.task)
        cases = predicted(self.task, self.model.network.eval(), self.loader, self.split)
        decisions = record["decisions"]
        report = self.task.report(cases, decisions)
        facts = {"task": self.task.name, **self.facts, "model": str(self.model.file), "model_sha256": record["sha256"]}
        metrics = {**facts, "decisions": decisions, self.split: report, "versions": versions()}
        write_predictions(self.task, cases, decisions, self.output_dir / "predictions" / self.split)
        write_cases(self.task, cases, decisions, self.output_dir / "cases.png")
        write_json(self.output_dir / "metrics.json", metrics)
        logger.info("%s, %d scans: %s", self.split, report["num_scans"], self.task.summary(report))
        logger.info("Written: metrics.json, cases.png and predictions in %s.", self.output_dir)
        return metrics


class Prediction:
    """Apply a trained model to scans, labelled or not, and write its predictions into ``output_dir``.

    Args:
        task: what is predicted.
        model: as for :class:`Evaluation`.
        loader: the scans.
        output_dir: where the files go.
    """

    def __init__(self, task: Task, model: BestModel, loader: Iterable, output_dir: str | Path) -> None:
        self.task, self.model, self.loader = task, model, loader
        self.output_dir = Path(output_dir)

    def run(self) -> list[Path]:
        """Do it; return the files."""
        record = _restored(self.model, self.task)
        cases = predicted(self.task, self.model.network.eval(), self.loader, "predict")
        files = self.task.save(cases, record["decisions"], self.output_dir)
        logger.info("Predictions of %d scans written to %s.", len(cases), self.output_dir)
        return files


@torch.no_grad()
def predicted(task: Task, network: nn.Module, loader: Iterable, progress: str) -> list[Any]:
    """Return a task's cases, without gradients."""
    return task.predict(network, loader, progress)


def write_predictions(task: Task, cases: Sequence[Any], decisions: Mapping[str, Any], folder: Path) -> None:
    """Write predictions in place of an earlier run's, whose other scans nobody must take for this one's.

    Args:
        task: writes them.
        cases: what was predicted.
        decisions: of :meth:`Task.calibrate`.
        folder: of these predictions, and of nothing else.
    """
    new = folder.with_name(f".{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    task.save(cases, decisions, new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def write_cases(task: Task, cases: Sequence[Any], decisions: Mapping[str, Any], file: Path) -> Path | None:
    """Draw the best, the median and the worst case side by side; none if no case has a score, nor an earlier picture.

    Args:
        task: draws and scores.
        cases: labelled cases.
        decisions: of :meth:`Task.calibrate`.
        file: the picture, PNG.
    """
    scores = task.scores(cases, decisions)
    if not scores:
        file.unlink(missing_ok=True)
        return None
    chosen = best_median_worst(scores)
    by_id = {case.scan_id: case for case in cases}
    figure = _figure(len(chosen))
    for axes, (word, name) in zip(figure.axes, chosen.items(), strict=True):
        task.draw(by_id[name], decisions, axes)
        axes.set_title(f"{word}: {name}\n{scores[name]:.3f}", fontsize=8)
        axes.set_axis_off()
    return write_atomically(file, lambda target: figure.savefig(target, format="png", dpi=150))


def best_median_worst(scores: Mapping[str, float]) -> dict[str, str]:
    """Return the scans with the best, the median and the worst score, as far as these are different scans.

    Args:
        scores: by scan id, higher is better.
    """
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    chosen = {"best": ranked[0], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[-1]}
    return {
        word: name for index, (word, name) in enumerate(chosen.items()) if name not in list(chosen.values())[:index]
    }


def versions() -> dict[str, str]:
    """Versions of what decides the figures."""
    return {"torch": torch.__version__, "monai": monai.__version__, "numpy": np.__version__}


def _restored(model: BestModel, task: Task) -> dict[str, Any]:
    record = read_record(model.file)
    if record["task"] != task.name:
        raise ValueError(f"{model.file} was trained for {record['task']}, not for {task.name}.")
    model.restore()
    return record


def _figure(columns: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * columns, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.subplots(1, columns, squeeze=False)
    return figure
