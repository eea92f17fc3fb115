# SPDX-License-Identifier: Apache-2.0
"""Classification from a pretrained encoder: fit, choose on val, test once, report."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from custom.files import write_atomically
from custom.metrics import FIGURES, classification_report
from custom.tasks.classification.collect import Collected, collect
from custom.tasks.fine_tuning import Method
from custom.tasks.results import write_json, write_table
from custom.visual.confusion import confusion_figure

logger = logging.getLogger(__name__)


class ClassificationRun:
    """Fit by a method, then evaluate val and test once and write what was found.

    Writes ``metrics.json``, ``predictions.csv`` and ``confusion_matrix.png`` into ``output_dir``.

    Args:
        method: how to fit.
        loaders: "val" and "test" -> loader, in a fixed order.
        classes: names of the classes.
        facts: JSON-able facts of the run for ``metrics.json`` (task, dataset, seed, encoder, ...).
        output_dir: where the files go.
        groups: patient of each scan, by scan id; the bootstrap then draws patients.
        device: where the network runs.
        amp: mixed precision.
        resamples: draws of the bootstrap.
        seed: of the bootstrap.
    """

    def __init__(
        self,
        method: Method,
        loaders: Mapping[str, Iterable],
        classes: Sequence[str],
        facts: Mapping[str, Any],
        output_dir: str | Path,
        groups: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        amp: bool = False,
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        self.method = method
        self.loaders = dict(loaders)
        self.classes = list(classes)
        self.facts = dict(facts)
        self.output_dir = Path(output_dir)
        self.groups = groups
        self.device, self.amp = device, amp
        self.resamples, self.seed = resamples, seed

    def run(self) -> dict[str, Any]:
        """Do all of it; return the content of ``metrics.json``."""
        fit = self.method.fit()
        network = self.method.model.network.eval()
        found = {
            split: collect(lambda image: network(image).float().softmax(dim=1), loader, self.device, self.amp, split)
            for split, loader in self.loaders.items()
        }
        reports = {split: self._report(result) for split, result in found.items()}
        metrics = {**self.facts, "method": self.method.name, "classes": self.classes, "fit": fit, **reports}
        metrics["versions"] = {"torch": torch.__version__, "monai": monai.__version__, "numpy": np.__version__}
        self._write(metrics, found)
        self._tell(metrics)
        return metrics

    def _report(self, result: Collected) -> dict[str, Any]:
        groups = None if self.groups is None else [self.groups[name] for name in result.scan_ids]
        return classification_report(
            result.values, result.labels, self.classes, groups, resamples=self.resamples, seed=self.seed
        )

    def _write(self, metrics: dict[str, Any], found: dict[str, Collected]) -> None:
        rows = [row for split, result in found.items() for row in self._rows(split, result)]
        write_table(self.output_dir / "predictions.csv", rows)
        splits = {split: metrics[split]["confusion_matrix"] for split in found}
        figure = confusion_figure(splits, self.classes)
        write_atomically(self.output_dir / "confusion_matrix.png", lambda target: figure.savefig(target, format="png"))
        write_json(self.output_dir / "metrics.json", metrics)

    def _rows(self, split: str, result: Collected) -> list[dict[str, Any]]:
        return [
            {
                "split": split,
                "scan_id": name,
                "label": self.classes[label],
                "predicted": self.classes[values.argmax()],
                **{f"p({known})": f"{value:.6f}" for known, value in zip(self.classes, values, strict=True)},
            }
            for name, label, values in zip(result.scan_ids, result.labels, result.values, strict=True)
        ]

    def _tell(self, metrics: dict[str, Any]) -> None:
        test = metrics["test"]
        figures = ", ".join(f"{name.replace('_', ' ')} {_with_interval(test, name)}" for name in FIGURES)
        logger.info("Test, %d scans: %s.", test["num_scans"], figures)
        logger.info(
            "Written: metrics.json, predictions.csv and confusion_matrix.png in %s. Next: the same command %s and with "
            "other values of --seed, to see what the pretraining is worth.",
            self.output_dir,
            "without --encoder" if metrics.get("encoder") else "with --encoder <output of pretrain.yaml>",
        )


def _with_interval(report: Mapping[str, Any], name: str) -> str:
    if report[name] is None:
        return "undefined"
    low, high = report["intervals"][name]
    return f"{report[name]:.3f} [{low:.3f}, {high:.3f}]"
