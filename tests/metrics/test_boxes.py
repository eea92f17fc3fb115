# SPDX-License-Identifier: Apache-2.0
"""Box and mask figures: hand-made cases, pycocotools' own evaluation, MONAI's metric."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from custom.metrics.boxes import (
    COCO_SIZES,
    box_iou,
    box_size,
    coco_figures,
    detection_report,
    encode_masks,
    mask_iou,
    match_objects,
)

SIZES = {"small": (0, 120), "medium": (120, 400), "large": (400, 1e6)}


def objects(boxes, labels=None, scores=None, dims=2):
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 2 * dims)
    found = {"boxes": boxes, "labels": np.zeros(len(boxes), int) if labels is None else np.asarray(labels, int)}
    return found if scores is None else {**found, "scores": np.asarray(scores, dtype=np.float32)}


EMPTY = objects([])
NOTHING = objects([], scores=[])


def random_scans(seed, scans=25, classes=2):
    """Truth, and predictions near it, with misses, false positives, duplicates and equal scores."""
    generator = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(scans):
        count = int(generator.integers(0, 5))
        low = generator.uniform(0, 60, (count, 2))
        truth = np.concatenate([low, low + generator.uniform(4, 32, (count, 2))], axis=1)
        labels = generator.integers(0, classes, count)
        again = generator.integers(0, max(count, 1), 0 if count == 0 else 6)
        near = np.sort((truth[again] + generator.normal(0, 2, (len(again), 4))).reshape(-1, 2, 2), axis=1).reshape(
            -1, 4
        )
        low = generator.uniform(0, 60, (3, 2))
        false = np.concatenate([low, low + generator.uniform(4, 32, (3, 2))], axis=1)
        named = np.concatenate([labels[again], generator.integers(0, classes, 3)])
        scores = generator.integers(1, 10, len(named)) / 10
        truths.append(objects(truth, labels))
        predictions.append(objects(np.concatenate([near, false]), named, scores))
    return truths, predictions


def pictures_of(scans, size=96):
    """The same scans with the boxes painted as masks."""
    painted = []
    for scan in scans:
        masks = np.zeros((len(scan["boxes"]), size, size), dtype=np.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, scan["boxes"].round().astype(int).clip(0), strict=True):
            mask[x0 : max(x1, x0 + 1), y0 : max(y1, y0 + 1)] = 1
        painted.append({**scan, "masks": masks})
    return painted


def pycocotools_own(truths, predictions, classes, sizes, kind="bbox"):
    """What pycocotools gives for COCO files that somebody would write of the same objects."""

    def annotations(scans):
        made = []
        for index, scan in enumerate(scans):
            for number in range(len(scan["labels"])):
                x0, y0, x1, y1 = np.asarray(scan["boxes"][number], dtype=np.float64)
                item = {
                    "id": len(made) + 1,
                    "image_id": index,
                    "category_id": int(scan["labels"][number]),
                    "iscrowd": 0,
                }
                item |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
                if kind == "segm":
                    picture = np.asfortranarray(scan["masks"][number].T)
                    item |= {"segmentation": coco_mask.encode(picture), "area": float(picture.sum())}
                if "scores" in scan:
                    item["score"] = float(scan["scores"][number])
                made.append(item)
        return made

    with contextlib.redirect_stdout(io.StringIO()):
        databases = []
        for scans in (truths, predictions):
            database = COCO()
            database.dataset = {
                "images": [{"id": i, "height": 96, "width": 96} for i in range(len(scans))],
                "categories": [{"id": i} for i in range(classes)],
                "annotations": annotations(scans),
            }
            database.createIndex()
            databases.append(database)
        evaluation = COCOeval(*databases, kind)
        evaluation.params.areaRng = [[0, 1e10], *map(list, sizes.values())]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def stats(figures):
    """Figures in the order of pycocotools' summary; its mark of the undefined is -1."""
    by_size = [f"ap_{size}" for size in SIZES], [f"ar_{size}" for size in SIZES]
    names = ["ap", "ap50", "ap75", *by_size[0], "ar_1", "ar_10", "ar_100", *by_size[1]]
    return [-1 if figures[name] is None else figures[name] for name in names]


def extruded(scans, depth=7.0):
    """2D boxes as boxes of a volume that all go through its slices."""
    return [{**s, "boxes": np.insert(np.insert(s["boxes"], 2, 0, axis=1), 5, depth, axis=1)} for s in scans]


@pytest.mark.parametrize("seed", range(4))
def test_boxes_equal_pycocotools(seed):
    truths, predictions = random_scans(seed)
    found = coco_figures(truths, predictions, ["a", "b"], sizes=SIZES)
    assert stats(found) == pytest.approx(pycocotools_own(truths, predictions, 2, SIZES), abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_masks_equal_pycocotools(seed):
    truths, predictions = (pictures_of(scans) for scans in random_scans(seed))
    found = coco_figures(truths, predictions, ["a", "b"], kind="masks", sizes=SIZES)
    assert stats(found) == pytest.approx(pycocotools_own(truths, predictions, 2, SIZES, "segm"), abs=1e-12)


def test_extruded_boxes_give_the_figures_of_the_flat_ones():
    truths, predictions = random_scans(5)
    flat = coco_figures(truths, predictions, ["a", "b"], sizes=SIZES)
    deep_sizes = {name: (7 * low, 7 * high) for name, (low, high) in SIZES.items()}
    assert coco_figures(extruded(truths), extruded(predictions), ["a", "b"], sizes=deep_sizes) == flat


def test_boxes_of_volumes_equal_monai():
    # Seed: no recall below 1 is a multiple of 0.01, where the single precision of MONAI takes another point.
    truths, predictions = (extruded(scans) for scans in random_scans(13))
    metric = COCOMetric(["a", "b"], iou_list=[0.5, 0.75], iou_range=(0.5, 0.95, 0.05), max_detection=[1, 10, 100])
    matched = matching_batch(
        iou_fn=box_iou,  # MONAI's own adds a small constant to the union
        iou_thresholds=metric.iou_thresholds,
        pred_boxes=[s["boxes"] for s in predictions],
        pred_classes=[s["labels"] for s in predictions],
        pred_scores=[s["scores"] for s in predictions],
        gt_boxes=[s["boxes"] for s in truths],
        gt_classes=[s["labels"] for s in truths],
    )
    theirs, _ = metric(matched)
    ours = coco_figures(truths, predictions, ["a", "b"])
    assert ours["ap"] == pytest.approx(theirs["mAP_IoU_0.50_0.95_0.05_MaxDet_100"], abs=1e-6)
    assert ours["ap50"] == pytest.approx(theirs["AP_IoU_0.50_MaxDet_100"], abs=1e-6)
    assert ours["ap75"] == pytest.approx(theirs["AP_IoU_0.75_MaxDet_100"], abs=1e-6)
    assert ours["ar_1"] == pytest.approx(theirs["mAR_IoU_0.50_0.95_0.05_MaxDet_1"], abs=1e-6)
    assert ours["per_class"]["b"]["ap50"] == pytest.approx(theirs["b_AP_IoU_0.50_MaxDet_100"], abs=1e-6)


def test_iou_at_the_borders():
    box = [[0, 0, 2, 2]]
    assert box_iou(box, [[2, 0, 4, 2]])[0, 0] == 0, "touching"
    assert box_iou(box, [[2, 2, 4, 4]])[0, 0] == 0, "touching at a corner"
    assert box_iou(box, box)[0, 0] == 1
    assert box_iou([[3, 3, 4, 4]], [[3, 3, 4, 4]])[0, 0] == 1, "one voxel"
    assert box_iou([[3, 3, 3, 4]], [[3, 3, 3, 4]])[0, 0] == 0, "no extent"
    assert box_iou(box, [[0, 0, 2, 4]])[0, 0] == 0.5
    assert box_iou([[0, 0, 0, 2, 2, 2]], [[1, 1, 1, 3, 3, 3]])[0, 0] == pytest.approx(1 / 15)
    assert box_iou(np.zeros((0, 4)), box).shape == (0, 1)
    assert box_size([[0, 0, 0, 2, 3, 4]]).tolist() == [24]


@pytest.mark.parametrize("shape", [(2, 12, 9), (2, 6, 5, 4)])
def test_mask_iou_counts_voxels(shape):
    generator = np.random.default_rng(0)
    first, second = generator.random(shape) < 0.4, generator.random(shape) < 0.6
    slow = [[(a & b).sum() / (a | b).sum() for b in second] for a in first]
    assert mask_iou(first, second) == pytest.approx(np.array(slow))
    assert mask_iou(encode_masks(first), second) == pytest.approx(np.array(slow))
    assert mask_iou(first[:0], second).shape == (0, 2)


def test_half_overlap_is_a_hit_at_one_half():
    truth, prediction = [objects([[0, 0, 2, 2]])], [objects([[0, 0, 2, 4]], scores=[0.9])]
    found = coco_figures(truth, prediction, ["a"])
    assert found["ap50"] == pytest.approx(1)
    assert found["ap75"] == 0
    assert found["ap"] == pytest.approx(0.1)


def test_no_truth_is_undefined_no_prediction_is_zero():
    nothing_there = coco_figures([EMPTY], [objects([[0, 0, 1, 1]], scores=[1])], ["a"], sizes=COCO_SIZES)
    assert all(nothing_there[name] is None for name in ("ap", "ap50", "ap75", "ar_1", "ap_small", "ar_large"))
    nothing_found = coco_figures([objects([[0, 0, 1, 1]])], [NOTHING], ["a"], sizes=COCO_SIZES)
    assert nothing_found["ap"] == nothing_found["ap_small"] == nothing_found["ar_100"] == 0
    assert nothing_found["ap_large"] is None
    assert coco_figures([EMPTY], [NOTHING], ["a"])["ap"] is None
    report = detection_report([EMPTY], [NOTHING], ["a"], resamples=5)
    assert report["intervals"]["ap50"] is None
    assert report["at_threshold"]["f1"] is None


def test_an_absent_class_does_not_count_a_missed_one_does():
    truths = [objects([[0, 0, 4, 4], [8, 8, 12, 12]], [0, 1])]
    predictions = [objects([[0, 0, 4, 4]], [0], [0.9])]
    found = coco_figures(truths, predictions, ["a", "b", "never"])
    assert found["ap"] == pytest.approx(0.5)
    assert found["per_class"]["a"]["ap"] == pytest.approx(1)
    assert found["per_class"]["b"] == {"ap": 0, "ap50": 0, "ap75": 0, "ar": 0, "num_objects": 1}
    assert found["per_class"]["never"]["ap"] is None


def test_an_empty_scan_is_where_false_positives_count():
    truths = [objects([[0, 0, 4, 4]]), EMPTY]
    hit, wrong = objects([[0, 0, 4, 4]], scores=[0.5]), objects([[0, 0, 4, 4]], scores=[0.9])
    assert coco_figures(truths, [hit, NOTHING], ["a"])["ap50"] == pytest.approx(1)
    assert coco_figures(truths, [hit, wrong], ["a"])["ap50"] == pytest.approx(0.5)


def test_of_a_crowd_of_duplicates_one_is_a_hit():
    truths = [objects([[0, 0, 4, 4]])]
    predictions = [objects([[0, 0, 4, 4]] * 5, scores=[0.75] * 5)]
    matches = match_objects(truths, predictions, 1)
    assert matches.hit.sum() == 1
    assert matches.at(0.75)["precision"] == pytest.approx(0.2)
    assert matches.average_precision() == pytest.approx(1), "the first finds it, nothing is left to find"


def test_equal_scores_are_cut_together():
    truths = [objects([[0, 0, 4, 4]]), objects([[0, 0, 4, 4]])]
    wrong = [9, 9, 12, 12]
    predictions = [objects([[0, 0, 4, 4], wrong], scores=[0.5, 0.5]), objects([wrong], scores=[0.8])]
    matches = match_objects(truths, predictions, 1)
    assert matches.best_threshold() == 0.5
    assert matches.at(0.5) == {
        "score_threshold": 0.5,
        "precision": pytest.approx(1 / 3),
        "recall": 0.5,
        "f1": pytest.approx(0.4),
        "true_positives": 1,
        "false_positives": 2,
        "false_negatives": 1,
    }


def test_best_threshold_is_the_best_of_all():
    truths, predictions = random_scans(7)
    matches = match_objects(truths, predictions, 2)
    best = matches.at(matches.best_threshold())["f1"]
    assert best == max(matches.at(score)["f1"] for score in np.unique(matches.score))
    for score in (0.3, 0.6):
        kept = [{k: v[p["scores"] >= np.float32(score)] for k, v in p.items()} for p in predictions]
        alone, cut = match_objects(truths, kept, 2), matches.at(float(np.float32(score)))
        assert alone.at(0)["true_positives"] == cut["true_positives"]
    assert match_objects([EMPTY], [NOTHING], 1).best_threshold(0.25) == 0.25


@pytest.mark.parametrize("iou", [0.1, 0.5, 0.75])
def test_matched_once_is_the_average_precision_of_pycocotools(iou):
    truths, predictions = random_scans(8)
    matches = match_objects(truths, predictions, 2, iou=iou)
    if iou > 0.1:
        assert matches.average_precision() == pytest.approx(
            coco_figures(truths, predictions, ["a", "b"])[f"ap{int(100 * iou)}"]
        )

    generator = np.random.default_rng(0)
    for scan in predictions:  # repeated scans stand elsewhere among equal scores of others
        scan["scores"] = generator.random(len(scan["scores"]))
    matches = match_objects(truths, predictions, 2, iou=iou)
    weights = generator.integers(0, 3, len(truths))
    repeated = np.repeat(np.arange(len(truths)), weights)
    again = match_objects([truths[i] for i in repeated], [predictions[i] for i in repeated], 2, iou=iou)
    assert matches.average_precision(weights) == pytest.approx(again.average_precision(), abs=1e-9)


def test_interval_surrounds_the_figure_and_groups_widen_it():
    truths, predictions = random_scans(9, scans=60)
    report = detection_report(truths, predictions, ["a", "b"], resamples=100)
    low, high = report["intervals"]["ap50"]
    assert low < report["ap50"] < high
    assert report["num_scans"] == 60
    grouped = detection_report(truths, predictions, ["a", "b"], resamples=100, groups=[i // 20 for i in range(60)])
    assert grouped["bootstrap"]["unit"] == "group"


def test_masks_may_be_given_encoded():
    truths, predictions = (pictures_of(scans) for scans in random_scans(3, scans=5))
    encoded = [[{**scan, "masks": encode_masks(scan["masks"])} for scan in scans] for scans in (truths, predictions)]
    assert coco_figures(*encoded, ["a", "b"], "masks") == coco_figures(truths, predictions, ["a", "b"], "masks")


def test_instances_of_volumes_have_mask_figures():
    masks = np.zeros((2, 8, 8, 8), dtype=bool)
    masks[0, :4], masks[1, 6:] = True, True
    truth = [{"labels": np.array([0, 0]), "masks": masks}]
    prediction = [{"labels": np.array([0]), "scores": np.array([0.7]), "masks": masks[:1]}]
    assert coco_figures(truth, prediction, ["a"], "masks")["ar_100"] == 0.5


@pytest.mark.parametrize(
    ("truth", "prediction", "words"),
    [
        ([EMPTY], [], "1 scans"),
        ([objects([[0, 0, 1, 1]], [3])], [NOTHING], r"labels must lie in \[0, 1\)"),
        ([EMPTY], [objects([[0, 0, 1, 1]])], "one score for each"),
        ([EMPTY], [objects([[0, 0, 1, 1]], scores=[np.nan])], "diverged"),
        ([objects([[2, 0, 1, 1]])], [NOTHING], "upper edge"),
        ([{"boxes": np.zeros((1, 5)), "labels": np.zeros(1, int)}], [NOTHING], r"\[N, 4\] or \[N, 6\]"),
    ],
)
def test_errors_say_what_is_wrong(truth, prediction, words):
    with pytest.raises(ValueError, match=words):
        coco_figures(truth, prediction, ["a"])
