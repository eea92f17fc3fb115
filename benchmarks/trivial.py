# SPDX-License-Identifier: Apache-2.0
"""What guesses that never look at a scan reach, on the splits and with the metrics of the downstream study.

The median training box, a box in the middle, the mean training mask: what a network must beat to have learnt anything.
Places and sizes are shares of the picture, so they fit pictures of any size.

    python -m benchmarks.trivial --data $MWM_DATA
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image
from torch.nn import functional

from benchmarks.studies import cell, figure, parsed, task_options
from benchmarks.tables import write_table
from custom.metrics.boxes import Objects, coco_figures, encode_masks
from custom.metrics.froc import find_hits, froc_report
from custom.metrics.segmentation import scan_figures, segmentation_report
from custom.tasks.instances.masks import hulls, rasterised
from custom.tasks.labelled import few_labelled
from custom.tasks.segmentation.classes import label_classes
from datasets import LoadScand, load_datalist
from datasets.decoding import upright

GRID = 64
"""Sides of the grid on which training masks are averaged."""
SETTINGS = Path(__file__).with_name("downstream.yaml")
Guess = Callable[[tuple[int, ...]], Any]
"""Size of a scan -> objects, or a label map."""


@dataclass(frozen=True)
class ObjectScan:
    """Size ``[X, Y]`` of a picture and its true objects: ``boxes``, ``labels`` and, if asked for, ``masks``."""

    size: tuple[int, ...]
    truth: Objects


@dataclass(frozen=True)
class LabelScan:
    """Class of each voxel, ``[*spatial]``, 0 for background, and the size of a voxel in mm."""

    labels: np.ndarray
    spacing: tuple[float, ...]


def object_scans(
    items: Sequence[Mapping[str, Any]], categories: Sequence[str], masks: bool = False
) -> list[ObjectScan]:
    """Read the true objects of pictures; items are those of a datalist with boxes (and outlines)."""
    scans = []
    for item in items:
        with Image.open(item["image"]) as picture:
            size = upright(picture).size
        boxes = np.array(item["boxes"], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truth: dict[str, Any] = {
            "boxes": boxes,
            "labels": np.array([categories.index(name) for name in item["box_labels"]], dtype=np.int64),
        }
        if masks:
            truth["masks"] = rasterised(item["outlines"], size).astype(bool)
        scans.append(ObjectScan(size, truth))
    return scans


def object_guesses(scans: Sequence[ObjectScan], num_classes: int, masks: bool = False) -> dict[str, Guess]:
    """Return ways to guess the objects of a scan from nothing but its size.

    - median box: of each class, scored by the objects of that class a training scan has (at most 1);
    - median box, commonest class: that one only;
    - box in the middle: of each class, of the median size.

    With masks, boxes are filled, and there are

    - mean mask over 0.5: of each class, with the box around it;
    - mean mask, median size: so many of its highest voxels as the median object has.

    Args:
        scans: for training.
        num_classes: of labels.
        masks: whether to guess masks too.

    Raises:
        ValueError: if no training scan has an object of some class.
    """
    priors, boxes, middles = [], [], []
    for label in range(num_classes):
        own = np.concatenate([_relative(scan)[scan.truth["labels"] == label] for scan in scans])
        if not len(own):
            raise ValueError(f"No training scan has an object of class {label}: there is nothing to guess it from.")
        priors.append(min(len(own) / len(scans), 1.0))
        median = np.median(own, axis=0)
        half = np.median(own[:, 2:] - own[:, :2], axis=0) / 2
        boxes.append(median)
        middles.append(np.concatenate([0.5 - half, 0.5 + half]))
    commonest = [int(np.argmax(priors))]
    everything = range(num_classes)
    guesses: dict[str, Guess] = {
        "median box": lambda size: _boxes(size, boxes, priors, everything, masks),
        "median box, commonest class": lambda size: _boxes(size, boxes, priors, commonest, masks),
        "box in the middle": lambda size: _boxes(size, middles, priors, everything, masks),
    }
    if masks:
        means, shares = zip(*(_mean_object(scans, label) for label in everything), strict=True)
        halves = [0.5] * num_classes
        guesses["mean mask over 0.5"] = lambda size: _masks(size, means, priors, halves, None)
        guesses["mean mask, median size"] = lambda size: _masks(size, means, priors, None, shares)
    return guesses


def label_scans(items: Sequence[Mapping[str, Any]], classes: Any) -> list[LabelScan]:
    """Read the label maps of volumes; items have ``image`` and ``mask``."""
    load = LoadScand("image", 3, label_keys="mask")
    scans = []
    for item in items:
        codes = load({"image": item["image"], "mask": item["mask"]})["mask"]
        labels = classes.encode(codes.as_tensor())[0].numpy()
        scans.append(LabelScan(labels, tuple(float(side) for side in codes.pixdim)))
    return scans


def label_guesses(scans: Sequence[LabelScan], num_classes: int) -> dict[str, Guess]:
    """Return ways to guess the label map of a scan from nothing but its size.

    - mean mask: the class, or background, that most training scans have there (one class: its mean over 0.5);
    - mean mask, median size: so many of each class's highest voxels as it has in the median;
    - box in the middle: of the median size of everything together, of the commonest class.

    Args:
        scans: for training.
        num_classes: without the background.
    """
    means = [_mean([scan.labels == label for scan in scans]) for label in range(1, num_classes + 1)]
    shares = [float(np.median([(s.labels == label).mean() for s in scans])) for label in range(1, num_classes + 1)]
    extents = [_extent(scan.labels > 0) for scan in scans if scan.labels.any()]
    half = np.median(extents, axis=0) / 2
    commonest = int(np.argmax(shares)) + 1

    def likeliest(size: tuple[int, ...]) -> np.ndarray:
        maps = np.stack([_resized(mean, size) for mean in means])
        return np.concatenate([1 - maps.sum(axis=0, keepdims=True), maps]).argmax(axis=0)

    def sized(size: tuple[int, ...]) -> np.ndarray:
        maps = np.stack([_resized(mean, size) for mean in means])
        chosen = np.stack([_highest(each, share) for each, share in zip(maps, shares, strict=True)])
        return np.where(chosen.any(axis=0), np.where(chosen, maps, -1).argmax(axis=0) + 1, 0)

    def middle(size: tuple[int, ...]) -> np.ndarray:
        return commonest * _filled(np.concatenate([0.5 - half, 0.5 + half]), size).astype(np.int64)

    return {"mean mask": likeliest, "mean mask, median size": sized, "box in the middle": middle}


def trivial_reports(kind: str, dataset: Path, options: Mapping[str, Any], seed: int) -> dict[str, dict[str, Any]]:
    """Return what each guess reaches on the test scans: name of the guess -> report of the form of ``metrics.json``.

    Args:
        kind: detection, instances or segmentation.
        dataset: folder of the set.
        options: of the task's config: ``coco``, ``train_scans``, ``sizes`` and ``classes`` are heeded.
        seed: chooses the training scans.
    """
    datalist = load_datalist(dataset, coco=options.get("coco"))
    if kind == "segmentation":
        train, test = ([i for i in datalist.split(split) if i.get("mask")] for split in ("train", "test"))
        return _label_reports(few_labelled(train, _count(options, train), seed), test, options.get("classes"))
    train, test = ([i for i in datalist.split(split) if "boxes" in i] for split in ("train", "test"))
    chosen = few_labelled(train, _count(options, train), seed)
    return _object_reports(chosen, test, datalist.categories, kind == "instances", options.get("sizes"))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MWM_DATA"), help="folder of the real data sets (MWM_DATA)")
    parser.add_argument("--results", default="benchmarks/results/trivial", help="where the table goes")
    arguments = parsed(parser)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    study = ConfigParser.load_config_file(str(SETTINGS))
    rows = []
    for name, settings in study["sets"].items():
        for task in settings["tasks"]:
            kind, figures = study["tasks"][task]["kind"], study["tasks"][task]["figures"]
            reports = trivial_reports(kind, Path(arguments.data) / name, task_options(study, name, task), 0)
            for guess, report in reports.items():
                said = ", ".join(f"{label} {cell([figure(report, where)], where)}" for label, where in figures.items())
                rows.append({"set": name, "task": task, "guess": guess, "test": said})
                logging.getLogger("trivial").info(" ".join(rows[-1].values()))
    head = "# Guesses that never look at a scan\n\nTest scans; training scans chosen with seed 0. Made by "
    head += f"`python -m benchmarks.trivial`.\n\n{study['remarks']}"
    write_table(rows, Path(arguments.results), head)


def _object_reports(
    train: Sequence[Mapping[str, Any]],
    test: Sequence[Mapping[str, Any]],
    categories: Sequence[str],
    masks: bool,
    sizes: Mapping[str, tuple[float, float]] | None,
) -> dict[str, dict[str, Any]]:
    guesses = object_guesses(object_scans(train, categories, masks), len(categories), masks)
    truth = [ObjectScan(scan.size, _small(scan.truth)) for scan in object_scans(test, categories, masks)]
    reports = {}
    for name, guess in guesses.items():
        found = [_small(guess(scan.size)) for scan in truth]
        kinds: tuple[Any, ...] = ("boxes", "masks") if masks else ("boxes",)
        figures = {kind: coco_figures([s.truth for s in truth], found, categories, kind, sizes) for kind in kinds}
        reports[name] = {"num_scans": len(test), **(figures if masks else figures["boxes"])}
        reports[name]["froc"] = froc_report(find_hits([s.truth for s in truth], found), resamples=0)
    return reports


def _label_reports(
    train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]], rules: Any
) -> dict[str, dict[str, Any]]:
    classes = label_classes(rules, [{"label": item["mask"]} for item in train], 3)
    guesses = label_guesses(label_scans(train, classes), len(classes.names))
    truth = label_scans(test, classes)
    reports = {}
    for name, guess in guesses.items():
        figures = [
            scan_figures(guess(scan.labels.shape), scan.labels, len(classes.names), scan.spacing) for scan in truth
        ]
        reports[name] = segmentation_report(figures, classes.names, resamples=1)
    return reports


def _count(options: Mapping[str, Any], items: Sequence[Any]) -> int | None:
    """As many training scans as the task learns from; sets with fewer are used whole."""
    wanted = options.get("train_scans")
    return None if wanted is None else min(int(wanted), len(items))


def _relative(scan: ObjectScan) -> np.ndarray:
    return np.asarray(scan.truth["boxes"], dtype=np.float64) / np.tile(scan.size, 2)


def _boxes(
    size: tuple[int, ...], boxes: Sequence[np.ndarray], priors: Sequence[float], labels: Sequence[int], masks: bool
) -> Objects:
    chosen = np.stack([boxes[label] for label in labels])
    guess = {
        "boxes": chosen * np.tile(size, 2),
        "labels": np.array(labels, dtype=np.int64),
        "scores": np.array([priors[label] for label in labels]),
    }
    return {**guess, "masks": np.stack([_filled(box, size) for box in chosen])} if masks else guess


def _masks(
    size: tuple[int, ...],
    means: Sequence[np.ndarray],
    priors: Sequence[float],
    thresholds: Sequence[float] | None,
    shares: Sequence[float] | None,
) -> Objects:
    """Cut each class's mean at its threshold, or at the size of its share; a class with nothing left is not there."""
    masks, labels = [], []
    for label, mean in enumerate(means):
        probability = _resized(mean, size)
        mask = _highest(probability, shares[label]) if shares else probability >= (thresholds or [])[label]
        if mask.any():
            masks.append(mask)
            labels.append(label)
    values = np.array(masks, dtype=bool).reshape(len(masks), *size)
    return {
        "masks": values,
        "boxes": hulls(torch.from_numpy(values)).numpy() if len(masks) else np.zeros((0, 2 * len(size))),
        "labels": np.array(labels, dtype=np.int64),
        "scores": np.array([priors[label] for label in labels]),
    }


def _mean_object(scans: Sequence[ObjectScan], label: int) -> tuple[np.ndarray, float]:
    """Mean mask of the objects of a class, and the share of the picture that the median one covers."""
    own = [mask for scan in scans for mask in np.asarray(scan.truth["masks"])[scan.truth["labels"] == label]]
    return _mean(own), float(np.median([mask.mean() for mask in own]))


def _mean(masks: Sequence[np.ndarray]) -> np.ndarray:
    total = sum(_resized(mask.astype(np.float32), (GRID,) * mask.ndim) for mask in masks)
    return np.asarray(total) / len(masks)


def _resized(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    mode = "bilinear" if values.ndim == 2 else "trilinear"
    return functional.interpolate(torch.from_numpy(values)[None, None], size, mode=mode)[0, 0].numpy()


def _highest(values: np.ndarray, share: float) -> np.ndarray:
    """Return the highest values, as many as the share says; of equal ones the first."""
    chosen = np.zeros(values.size, dtype=bool)
    chosen[np.argsort(-values, axis=None, kind="stable")[: round(share * values.size)]] = True
    return chosen.reshape(values.shape)


def _filled(box: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return the mask of a box whose edges are shares of the sides."""
    edges = (box * np.tile(size, 2)).round().astype(int)
    mask = np.zeros(size, dtype=bool)
    dims = len(size)
    mask[tuple(slice(max(edges[axis], 0), max(edges[dims + axis], 0)) for axis in range(dims))] = True
    return mask


def _extent(mask: np.ndarray) -> np.ndarray:
    """Sides of the box around a mask, as shares of the scan's."""
    box = hulls(torch.from_numpy(mask[None])).numpy()[0]
    return (box[mask.ndim :] - box[: mask.ndim]) / mask.shape


def _small(objects: Objects) -> Objects:
    return {**objects, "masks": encode_masks(objects["masks"])} if "masks" in objects else objects


if __name__ == "__main__":
    main()
