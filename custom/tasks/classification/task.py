# SPDX-License-Identifier: Apache-2.0
"""Classification as a task: probabilities of each scan, thresholds chosen on val, figures, tables and pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import decollate_batch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from custom.files import write_atomically
from custom.metrics.classification import FIGURES, MULTI_LABEL_FIGURES, classification_report, to_probabilities
from custom.metrics.thresholds import check_rule, choose_thresholds
from custom.tasks.classification.labels import NO_CLASS
from custom.tasks.labelled import groups_of
from custom.tasks.results import write_table
from custom.visual.confidence import confidence_figure
from custom.visual.planes import mark_sides, view_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

JOINT = "|"  # between the names of several classes in tables and pictures


@dataclass(frozen=True)
class ClassifiedScan:
    """What is known of a scan.

    Attributes:
        scan_id: its name.
        probabilities: float64 ``[K]``.
        has: boolean ``[K]``, which classes it has; None where nobody knows.
        picture: uint8 ``[height, width]`` or ``[height, width, 3]``, the scan as the network sees it (of a volume the
            middle axial slice), upright.
        sides: the patient's at the left and the right edge of the picture, as far as they are known.
    """

    scan_id: str
    probabilities: NDArray[np.float64]
    has: NDArray[np.bool_] | None
    picture: NDArray[np.uint8]
    sides: tuple[str, str] = ("", "")


class ClassificationTask:
    """Tell the class of each scan, or with several labels per scan which of them it has.

    Args:
        classes: names of the K outputs of the network.
        multi_label: several labels per scan.
        threshold_rule: how :meth:`calibrate` chooses thresholds, see
            :func:`custom.metrics.thresholds.choose_thresholds`.
        groups: group (patient) by scan id; if all scans have one, the bootstrap draws groups.
        resamples: draws of the bootstrap intervals; 0: none.
        seed: of the bootstrap.
        device: where the network runs, in full precision whatever training used.
    """

    name = "classification"

    def __init__(
        self,
        classes: Sequence[str],
        multi_label: bool = False,
        threshold_rule: str = "youden",
        groups: Mapping[str, Any] | None = None,
        resamples: int = 1000,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        check_rule(threshold_rule)
        self.classes = list(classes)
        self.multi_label = multi_label
        self.threshold_rule = threshold_rule
        self.groups = dict(groups or {})
        self.resamples, self.seed = resamples, seed
        self.device = device

    @torch.no_grad()
    def predict(self, network: nn.Module, loader: Iterable, progress: str) -> list[ClassifiedScan]:
        """Return the probabilities of all scans; batches have ``image``, ``scan_id`` and perhaps ``label``."""
        cases: list[ClassifiedScan] = []
        for batch in tqdm(loader, desc=progress, leave=False):
            with torch.autocast(torch.device(self.device).type, enabled=False):
                logits = network(batch["image"].to(self.device))
            probabilities = to_probabilities(logits, self.multi_label).cpu().numpy().astype(np.float64)
            known = self._indicators(batch["label"]) if "label" in batch else [None] * len(probabilities)
            images = decollate_batch(batch["image"])
            pictures, views = map(upright_picture, images), map(view_of, images)
            sides = [view.sides for view in views]
            cases += map(ClassifiedScan, batch["scan_id"], probabilities, known, pictures, sides)
        return cases

    def calibrate(self, cases: Sequence[ClassifiedScan]) -> dict[str, Any]:
        """Choose a threshold for each class; 0.5 where all scans or none have it."""
        chosen = choose_thresholds(_values(cases), _truth(cases), self.threshold_rule)
        thresholds = dict(zip(self.classes, chosen.tolist(), strict=True))
        undecided = [name for name, value in thresholds.items() if np.isnan(value)]
        if undecided:
            logger.warning("In the split 'val' all scans or none have %s: their threshold is 0.5.", undecided)
        thresholds.update(dict.fromkeys(undecided, 0.5))
        return {"threshold_rule": self.threshold_rule, "thresholds": thresholds}

    def report(self, cases: Sequence[ClassifiedScan], decisions: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures, see :func:`custom.metrics.classification.classification_report`."""
        truth = _truth(cases)
        return classification_report(
            _values(cases),
            truth.astype(np.int64) if self.multi_label else truth.argmax(axis=1),
            self.classes,
            groups_of(cases, self.groups),
            resamples=self.resamples,
            seed=self.seed,
            thresholds=decisions["thresholds"],
        )

    def scores(self, cases: Sequence[ClassifiedScan], decisions: Mapping[str, Any]) -> dict[str, float]:
        """Return the probability given to the true class, or with several labels the mean one of what is true."""
        return {case.scan_id: self._trust(case) for case in cases if case.has is not None}

    def save(self, cases: Sequence[ClassifiedScan], decisions: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write ``predictions.csv`` and, of labelled scans, ``confidence.png``: the surest and the least sure ones."""
        files = [write_table(folder / "predictions.csv", [self._row(case, decisions) for case in cases])]
        labelled = [case for case in cases if case.has is not None]
        if labelled:
            figure = confidence_figure(self._telling(labelled, decisions))
            target = folder / "confidence.png"
            files.append(write_atomically(target, lambda path: figure.savefig(path, format="png")))
        return files

    def draw(self, case: ClassifiedScan, decisions: Mapping[str, Any], axes: Axes) -> None:
        """Draw the scan with its true and its predicted classes."""
        axes.imshow(case.picture, cmap="gray", vmin=0, vmax=255)
        mark_sides(axes, case.sides)
        axes.text(
            0.02,
            0.02,
            self._words(case, decisions),
            transform=axes.transAxes,
            fontsize=7,
            color="white",
            bbox={"facecolor": "black", "alpha": 0.6, "pad": 2, "linewidth": 0},
        )

    def summary(self, report: Mapping[str, Any]) -> str:
        """Say the figures with their intervals."""
        names = MULTI_LABEL_FIGURES if self.multi_label else FIGURES
        return ", ".join(f"{name.replace('_', ' ')} {_with_interval(report, name)}" for name in names)

    def predicted(self, case: ClassifiedScan, decisions: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Return the decision ``[K]``: the most probable class, or with several labels those above the thresholds."""
        if self.multi_label:
            return self.above_threshold(case, decisions)
        return np.arange(len(self.classes)) == case.probabilities.argmax()

    def above_threshold(self, case: ClassifiedScan, decisions: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Return which classes reach their threshold, ``[K]``."""
        return case.probabilities >= np.array([decisions["thresholds"][name] for name in self.classes])

    def _indicators(self, labels: Tensor) -> NDArray[np.bool_]:
        values = torch.as_tensor(labels).numpy()
        return values > 0.5 if self.multi_label else values[:, None] == np.arange(len(self.classes))

    def _trust(self, case: ClassifiedScan) -> float:
        assert case.has is not None
        if self.multi_label:
            return float(np.where(case.has, case.probabilities, 1 - case.probabilities).mean())
        return float(case.probabilities[case.has].item())

    def _row(self, case: ClassifiedScan, decisions: Mapping[str, Any]) -> dict[str, Any]:
        probabilities = zip(self.classes, case.probabilities, strict=True)
        return {
            "scan_id": case.scan_id,
            "label": "" if case.has is None else self._names(case.has),
            "predicted": self._names(self.predicted(case, decisions)),
            **{f"p({name})": f"{value:.6f}" for name, value in probabilities},
            "above_threshold": self._names(self.above_threshold(case, decisions)),
        }

    def _names(self, has: NDArray[np.bool_]) -> str:
        return JOINT.join(name for name, value in zip(self.classes, has, strict=True) if value) or NO_CLASS

    def _words(self, case: ClassifiedScan, decisions: Mapping[str, Any]) -> str:
        predicted = self.predicted(case, decisions)
        sure = "" if self.multi_label else f" ({case.probabilities.max():.2f})"
        truth = "" if case.has is None else f"true: {self._names(case.has)}\n"
        return f"{truth}predicted: {self._names(predicted)}{sure}"

    def _telling(
        self, cases: Sequence[ClassifiedScan], decisions: Mapping[str, Any]
    ) -> dict[str, tuple[NDArray[np.uint8], str, tuple[str, str]]]:
        """Pictures and words of the surest and least sure of the right and wrong decisions, as far as there are any."""
        told = {}
        for word, right in (("right", True), ("wrong", False)):
            group = [case for case in cases if bool((self.predicted(case, decisions) == case.has).all()) is right]
            group.sort(key=lambda case: (-self._confidence(case, decisions), case.scan_id))
            ends = {"surest": group[:1], "least sure": group[1:][-1:]}
            for degree, case in ((degree, case) for degree, found in ends.items() for case in found):
                told[f"{word}, {degree}: {case.scan_id}"] = (case.picture, self._words(case, decisions), case.sides)
        return told

    def _confidence(self, case: ClassifiedScan, decisions: Mapping[str, Any]) -> float:
        """Probability of the decision, with several labels the mean of all decisions."""
        predicted = self.predicted(case, decisions)
        if self.multi_label:
            return float(np.where(predicted, case.probabilities, 1 - case.probabilities).mean())
        return float(case.probabilities.max())


def upright_picture(image: Tensor) -> NDArray[np.uint8]:
    """Return an image ``[C, *spatial]`` in [0, 1] as uint8 ``[height, width]`` or ``[height, width, 3]``.

    Of a volume it is the middle axial slice, laid on the page as :mod:`custom.visual.planes` says.
    """
    view = view_of(image)
    index = None if view.across is None else image.shape[1 + view.across] // 2
    plane = view.plane(torch.as_tensor(image).cpu().numpy(), index).T  # [height, width, C]
    values = (plane.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    return values if values.shape[-1] == 3 else values[..., 0]


def _values(cases: Sequence[ClassifiedScan]) -> NDArray[np.float64]:
    return np.stack([case.probabilities for case in cases])


def _truth(cases: Sequence[ClassifiedScan]) -> NDArray[np.bool_]:
    unknown = [case.scan_id for case in cases if case.has is None]
    if unknown:
        raise ValueError(f"{unknown[0]} has no label, so that nothing can be measured on it.")
    return np.stack([case.has for case in cases if case.has is not None])


def _with_interval(report: Mapping[str, Any], name: str) -> str:
    if report[name] is None:
        return "undefined"
    low, high = report.get("intervals", {}).get(name, (None, None))
    return f"{report[name]:.3f}" if low is None else f"{report[name]:.3f} [{low:.3f}, {high:.3f}]"
