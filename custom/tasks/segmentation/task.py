# SPDX-License-Identifier: Apache-2.0
"""Segmentation as a task: predicted, measured and saved on the scans' own voxels."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from monai.data import MetaTensor, decollate_batch
from torch import Tensor, nn
from tqdm import tqdm

from custom.metrics.panoptic import Pairs, match_instances, panoptic_report
from custom.metrics.segmentation import ScanFigures, figure_text, scan_figures, segmentation_report
from custom.tasks.labelled import groups_of
from custom.tasks.segmentation.classes import LabelClasses
from custom.tasks.segmentation.components import components
from custom.tasks.segmentation.geometry import ScanGrid
from custom.tasks.segmentation.saving import save_predictions
from custom.visual.overlay import Plane, draw_plane, plane_of
from datasets import LoadScand


@dataclass(frozen=True)
class PackedLabels:
    """A label map ``[*shape]`` uint8, compressed: those of a whole test set fit into memory."""

    data: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, labels: np.ndarray) -> PackedLabels:
        """Compress a map."""
        return cls(zlib.compress(np.ascontiguousarray(labels, dtype=np.uint8).tobytes(), 1), labels.shape)

    def unpacked(self) -> np.ndarray:
        """The map."""
        return np.frombuffer(zlib.decompress(self.data), dtype=np.uint8).reshape(self.shape)


@dataclass(frozen=True)
class SegmentationCase:
    """What is known of one scan.

    Attributes:
        scan_id: its name.
        grid: where its voxels lie.
        prediction: class of each voxel of the scan, not of the network's input.
        figures: against the truth; None where there is none.
        pairs: matched components, for each class; None where there is no truth, or components were not asked for.
        plane: what to draw.
    """

    scan_id: str
    grid: ScanGrid
    prediction: PackedLabels
    figures: ScanFigures | None
    pairs: list[Pairs] | None
    plane: Plane


class Segmentation:
    """Segmentation of whole scans.

    Probabilities are brought back to the scan's own voxels linearly, then the most probable class is taken; the truth
    is read anew and never resampled. Only scans with a label map have figures; the others are predicted and saved.

    Args:
        classes: what is segmented.
        inferer: MONAI's: ``inferer(images, network)`` -> logits.
        spatial_dims: 2 or 3.
        channels: of the images.
        frame: see :class:`datasets.LoadScand`.
        tolerance: of NSD, in millimetres (pixels for pictures).
        instances: whether to report and save connected components of each class. They are instances only where objects
            do not touch.
        min_instance_size: smaller components are left out; millilitres, for slices mm2, for pictures pixels.
        groups: patient of each scan, by scan id; the bootstrap then draws patients.
        device: where the network runs, in full precision whatever training used.
        resamples: draws of the bootstrap intervals; 0: none.
        seed: of the bootstrap.
    """

    name = "segmentation"

    def __init__(
        self,
        classes: LabelClasses,
        inferer: Callable[[Tensor, nn.Module], Tensor],
        spatial_dims: int,
        channels: int = 1,
        frame: int | None = None,
        tolerance: float = 1.0,
        instances: bool = False,
        min_instance_size: float = 0.0,
        groups: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        self.classes, self.inferer = classes, inferer
        self.load = LoadScand("image", spatial_dims, channels, label_keys="label", allow_missing_keys=True, frame=frame)
        self.tolerance = tolerance
        self.instances, self.min_instance_size = instances, min_instance_size
        self.groups = groups
        self.device = torch.device(device)
        self.resamples, self.seed = resamples, seed

    def predict(self, network: nn.Module, loader: Any, progress: str) -> list[SegmentationCase]:
        """Segment all scans of a loader.

        Args:
            network: images ``[B, C, *spatial]`` -> logits ``[B, K + 1, *spatial]``.
            loader: a MONAI loader, in order, of a dataset whose ``data`` are the items that it was made from; images
                are MetaTensors, whose affines tell what was done to them.
            progress: words beside the progress bar.
        """
        found = self._probabilities(network, tqdm(loader, desc=progress, leave=False))
        return [
            self._case(item, probabilities, image)
            for item, (probabilities, image) in zip(loader.dataset.data, found, strict=True)
        ]

    def _probabilities(self, network: nn.Module, batches: Iterable[Any]) -> Iterable[tuple[Tensor, MetaTensor]]:
        for batch in batches:
            images = batch["image"]
            with torch.autocast(self.device.type, enabled=False):
                logits = self.inferer(images.as_tensor().to(self.device), network)
            yield from zip(logits.float().softmax(dim=1), decollate_batch(images), strict=True)

    def _case(self, item: Mapping[str, Any], probabilities: Tensor, image: MetaTensor) -> SegmentationCase:
        scan: dict[Any, Any] = self.load({key: item[key] for key in item})
        grid = ScanGrid.of(scan["image"])
        prediction = grid.from_network(probabilities, image).argmax(dim=0).to(torch.uint8).cpu().numpy()
        truth = self.classes.encode(scan["label"].as_tensor())[0].numpy() if "label" in item else None
        count = len(self.classes.names)
        figures = pairs = None
        if truth is not None:
            figures = scan_figures(prediction, truth, count, grid.spacing, self.tolerance, grid.voxel)
            pairs = self._matched(prediction, truth, grid) if self.instances else None
        plane = plane_of(scan["image"], prediction, truth, grid.spacing)
        name = str(item.get("scan_id", Path(item["image"]).name))
        return SegmentationCase(name, grid, PackedLabels.of(prediction), figures, pairs, plane)

    def _matched(self, prediction: np.ndarray, truth: np.ndarray, grid: ScanGrid) -> list[Pairs]:
        count = len(self.classes.names)
        true, found = components(truth, count), components(prediction, count, self._min_voxels(grid))
        return [match_instances(true.of_class(index), found.of_class(index)) for index in range(1, count + 1)]

    def _min_voxels(self, grid: ScanGrid) -> float:
        return self.min_instance_size / grid.voxel

    def calibrate(self, cases: Sequence[SegmentationCase]) -> dict[str, Any]:
        """Nothing is to be decided: the most probable class is taken."""
        return {}

    def report(self, cases: Sequence[SegmentationCase], decisions: Mapping[str, Any]) -> dict[str, Any]:
        """Return the figures of the cases with a truth, see `custom.metrics.segmentation`."""
        measured = [case for case in cases if case.figures is not None]
        if not measured:
            return {"num_scans": 0}
        settings: dict[str, Any] = {
            "groups": groups_of(measured, self.groups),
            "resamples": self.resamples,
            "seed": self.seed,
        }
        figures = [case.figures for case in measured if case.figures is not None]
        report = segmentation_report(figures, self.classes.names, **settings)
        report |= {"nsd_tolerance": self.tolerance, "distance_unit": _distance_unit(measured)}
        report["volume_unit"] = measured[0].grid.unit
        if self.instances:
            pairs = [case.pairs for case in measured if case.pairs is not None]
            report["components"] = panoptic_report(pairs, self.classes.names, **settings)
        return report

    def scores(self, cases: Sequence[SegmentationCase], decisions: Mapping[str, Any]) -> dict[str, float]:
        """Mean Dice of each scan, where a class is there or was predicted."""
        found = {case.scan_id: case.figures.mean_dice for case in cases if case.figures is not None}
        return {name: dice for name, dice in found.items() if dice is not None}

    def save(self, cases: Sequence[SegmentationCase], decisions: Mapping[str, Any], folder: Path) -> list[Path]:
        """Write label maps, sizes and, if asked for, components; see :func:`save_predictions`."""
        predictions = ((case.scan_id, case.grid, case.prediction.unpacked()) for case in cases)
        min_voxels = self._min_voxels if self.instances else None
        return save_predictions(predictions, self.classes, folder, min_voxels)

    def draw(self, case: SegmentationCase, decisions: Mapping[str, Any], axes: Axes) -> None:
        """Draw the scan, the prediction as colour, the truth as an outline."""
        draw_plane(axes, case.plane)

    def summary(self, report: Mapping[str, Any]) -> str:
        """Dice, HD95 and NSD in one line, with what their means leave out."""
        if not report["num_scans"]:
            return "no scan has a label map"
        unit = report["distance_unit"]
        words = [f"{name.upper()} {figure_text(report, name)}" for name in ("dice", "nsd")]
        words.append(f"HD95 {figure_text(report, 'hd95', f' {unit}')}")
        words += [f"{name}: Dice {figure_text(figures, 'dice')}" for name, figures in report["classes"].items()]
        return ", ".join(words)


def _distance_unit(cases: Sequence[SegmentationCase]) -> str:
    return "pixels" if cases[0].grid.is_picture else "mm"
