# SPDX-License-Identifier: Apache-2.0
"""Classification from a pretrained encoder: the shared order of events, and a picture of what is taken for what."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from custom.files import write_atomically
from custom.tasks.task_run import TaskRun
from custom.visual.confusion import confusion_figure

logger = logging.getLogger(__name__)


class ClassificationRun(TaskRun):
    """A :class:`TaskRun` that also writes ``confusion_matrix.png`` into ``output_dir``."""

    def run(self) -> dict[str, Any]:
        """Do all of it; return the content of ``metrics.json``."""
        metrics = super().run()
        counts, classes = confusion_counts({split: metrics[split] for split in self.loaders}, metrics["classes"])
        figure = confusion_figure(counts, classes)
        write_atomically(self.output_dir / "confusion_matrix.png", lambda target: figure.savefig(target, format="png"))
        logger.info(
            "Next: the same command %s and with other values of --seed, to see what the pretraining is worth.",
            "without --encoder" if metrics.get("encoder") else "with --encoder <output of pretrain.yaml>",
        )
        return metrics


def confusion_counts(reports: Mapping[str, Any], classes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return what a confusion figure shows: a matrix for each split, with several labels per scan one for each label.

    Args:
        reports: split -> report; with several labels per scan the last split is shown.
        classes: of the reports.

    Returns:
        Matrices ``[K][K]`` by title, and the names of their rows.
    """
    if all("confusion_matrix" in report for report in reports.values()):
        return {split: report["confusion_matrix"] for split, report in reports.items()}, classes
    split, report = list(reports.items())[-1]
    per_class = report["thresholded"]["confusion_per_class"]
    return {f"{split}: {name}": counts for name, counts in per_class.items()}, ["no", "yes"]
