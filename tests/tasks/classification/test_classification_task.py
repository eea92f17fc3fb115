# SPDX-License-Identifier: Apache-2.0
"""The classification task: cases, thresholds, figures, tables and pictures."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from custom.tasks.classification import ClassificationTask
from custom.tasks.classification.run import confusion_counts
from custom.tasks.classification.task import ClassifiedScan, upright_picture

CLASSES = ["cyst", "nodule", "scar"]


def make_task(multi_label: bool = False, **options: Any) -> ClassificationTask:
    return ClassificationTask(CLASSES, multi_label, resamples=20, **options)


def case(name: str, probabilities: list[float], has: list[int] | None) -> ClassifiedScan:
    truth = None if has is None else np.array(has, dtype=bool)
    return ClassifiedScan(name, np.array(probabilities), truth, np.full((6, 4), 100, dtype=np.uint8))


SINGLE = [
    case("right", [0.8, 0.1, 0.1], [1, 0, 0]),
    case("unsure", [0.3, 0.4, 0.3], [0, 1, 0]),
    case("wrong", [0.1, 0.7, 0.2], [0, 0, 1]),
    case("near", [0.4, 0.15, 0.45], [0, 0, 1]),
]
SEVERAL = [
    case("both", [0.9, 0.8, 0.1], [1, 1, 0]),
    case("none", [0.2, 0.1, 0.3], [0, 0, 0]),
    case("missed", [0.6, 0.2, 0.2], [1, 1, 1]),
    case("alarm", [0.1, 0.9, 0.8], [0, 0, 1]),
]


class Means(nn.Module):
    """Logits are the mean of the image, thrice, shifted."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).mean(1, keepdim=True) * torch.tensor([1.0, -1.0, 0.5])


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("spatial", [(4, 6), (4, 6, 3)])
def test_cases_of_a_loader(multi_label: bool, spatial: tuple[int, ...]) -> None:
    images = torch.rand(3, 1, *spatial, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]]) if multi_label else torch.tensor([0, 2, 1])
    batches = [{"image": images[:2], "label": labels[:2], "scan_id": ["a", "b"]}]
    batches += [{"image": images[2:], "scan_id": ["c"]}]
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as a trainer leaves it
        cases = make_task(multi_label).predict(Means(), batches, "test")
    logits = Means()(images)
    expected = logits.sigmoid() if multi_label else logits.softmax(1)
    assert [each.scan_id for each in cases] == ["a", "b", "c"]
    assert np.allclose(np.stack([each.probabilities for each in cases]), expected, atol=1e-6)
    assert cases[0].has is not None
    assert cases[0].has.tolist() == ([True, False, True] if multi_label else [True, False, False])
    assert cases[2].has is None
    assert cases[0].picture.shape == (6, 4)


def test_pictures_are_upright() -> None:
    image = torch.zeros(1, 4, 6)
    image[0, 3, 1] = 1.0  # column 3, row 1
    assert np.argwhere(upright_picture(image)).tolist() == [[1, 3]]
    volume = torch.zeros(1, 4, 6, 5)
    volume[0, 3, 5, 2] = 2.0  # the front (RAS+: y up) of the middle slice
    assert np.argwhere(upright_picture(volume)).tolist() == [[0, 0]], "the patient's right lies on the left"
    assert upright_picture(volume).max() == 255
    assert upright_picture(torch.rand(3, 4, 6)).shape == (6, 4, 3)


def test_thresholds_of_val_decide_elsewhere() -> None:
    decisions = make_task().calibrate(SINGLE)
    assert decisions["threshold_rule"] == "youden"
    assert decisions["thresholds"] == pytest.approx({"cyst": 0.6, "nodule": 0.275, "scar": 0.375}, abs=1e-9)
    assert json.loads(json.dumps(decisions)) == decisions
    again = make_task(threshold_rule="f1").calibrate(SINGLE)
    assert again["thresholds"]["scar"] == pytest.approx(0.15)


def test_a_label_that_validation_cannot_judge_is_cut_at_one_half(caplog: pytest.LogCaptureFixture) -> None:
    cases = [case("a", [0.9, 0.2, 0.2], [1, 0, 1]), case("b", [0.2, 0.1, 0.9], [0, 0, 1])]
    with caplog.at_level(logging.WARNING):
        decisions = make_task(True).calibrate(cases)
    assert (decisions["thresholds"]["nodule"], decisions["thresholds"]["scar"]) == (0.5, 0.5)
    assert "['nodule', 'scar']" in caplog.text


def test_reports_name_both_ways_of_deciding() -> None:
    task = make_task()
    report = task.report(SINGLE, {"thresholds": dict.fromkeys(CLASSES, 0.35)})
    assert report["accuracy"] == 0.75
    assert report["argmax"]["sensitivity_per_class"] == {"cyst": 1.0, "nodule": 1.0, "scar": 0.5}
    assert report["thresholded"]["specificity_per_class"]["cyst"] == pytest.approx(2 / 3)
    assert report["bootstrap"]["unit"] == "scan"
    assert task.summary(report).startswith("accuracy 0.750 [")
    several = make_task(True).report(SEVERAL, {"thresholds": dict.fromkeys(CLASSES, 0.5)})
    assert several["thresholded"]["sensitivity_per_class"] == {"cyst": 1.0, "nodule": 0.5, "scar": 0.5}
    assert make_task(True).summary(several).startswith("macro auroc ")


def test_groups_are_drawn_if_all_scans_have_one() -> None:
    decisions = {"thresholds": dict.fromkeys(CLASSES, 0.5)}
    groups = {"right": "p", "unsure": "p", "wrong": "q"}
    assert make_task(groups=groups).report(SINGLE[:3], decisions)["bootstrap"]["unit"] == "group"
    assert make_task(groups=groups).report(SINGLE, decisions)["bootstrap"]["unit"] == "scan"


def test_scans_without_labels_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="new has no label"):
        make_task().report([case("new", [0.2, 0.3, 0.5], None)], {"thresholds": dict.fromkeys(CLASSES, 0.5)})


def test_the_best_case_is_the_surest_right_one_and_the_worst_the_surest_wrong_one() -> None:
    scores = make_task().scores(SINGLE, {})
    assert scores == pytest.approx({"right": 0.8, "unsure": 0.4, "wrong": 0.2, "near": 0.45})
    several = make_task(True).scores([*SEVERAL, case("new", [0.1] * 3, None)], {})
    assert set(several) == {"both", "none", "missed", "alarm"}
    assert several["both"] == pytest.approx((0.9 + 0.8 + 0.9) / 3)


def read(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_predictions_as_a_table(tmp_path: Path) -> None:
    decisions = {"thresholds": {"cyst": 0.35, "nodule": 0.35, "scar": 0.5}}
    files = make_task().save(SINGLE, decisions, tmp_path)
    assert [file.name for file in files] == ["predictions.csv", "confidence.png"]
    row = read(tmp_path)[3]
    assert (row["scan_id"], row["label"], row["predicted"]) == ("near", "scar", "scar")
    assert (row["p(scar)"], row["above_threshold"]) == ("0.450000", "cyst")
    make_task(True).save(SEVERAL, decisions, tmp_path / "several")
    assert [(row["label"], row["predicted"]) for row in read(tmp_path / "several")] == [
        ("cyst|nodule", "cyst|nodule"),
        ("none", "none"),
        ("cyst|nodule|scar", "cyst"),
        ("scar", "nodule|scar"),
    ]


def test_predictions_of_new_scans(tmp_path: Path) -> None:
    new = [case("new", [0.2, 0.3, 0.5], None)]
    files = make_task().save(new, {"thresholds": dict.fromkeys(CLASSES, 0.5)}, tmp_path)
    assert [file.name for file in files] == ["predictions.csv"]
    assert read(tmp_path)[0]["label"] == ""


@pytest.mark.parametrize(("multi_label", "cases"), [(False, SINGLE), (True, SEVERAL)])
def test_what_a_case_looks_like(multi_label: bool, cases: list[ClassifiedScan]) -> None:
    decisions = {"thresholds": dict.fromkeys(CLASSES, 0.5)}
    axes = Figure().subplots()
    make_task(multi_label).draw(cases[0], decisions, axes)
    (words,) = axes.texts
    expected = "true: cyst|nodule\npredicted: cyst|nodule" if multi_label else "true: cyst\npredicted: cyst (0.80)"
    assert words.get_text() == expected
    make_task(multi_label).draw(case("new", [0.2, 0.3, 0.5], None), decisions, axes)
    assert "true" not in axes.texts[1].get_text()


def test_the_surest_and_the_least_sure_cases_are_told() -> None:
    decisions = {"thresholds": dict.fromkeys(CLASSES, 0.5)}
    told = list(make_task()._telling(SINGLE, decisions))
    # the one that is wrong is not told twice
    assert told == ["right, surest: right", "right, least sure: unsure", "wrong, surest: wrong"]
    several = list(make_task(True)._telling(SEVERAL, decisions))
    assert several[:2] == ["right, surest: both", "right, least sure: none"]


def test_confusion_of_several_labels_is_one_matrix_a_label() -> None:
    decisions = {"thresholds": dict.fromkeys(CLASSES, 0.5)}
    report = make_task(True).report(SEVERAL, decisions)
    counts, names = confusion_counts({"val": report, "test": report}, CLASSES)
    assert names == ["no", "yes"]
    assert counts["test: nodule"] == [[1, 1], [1, 1]]
    single = make_task().report(SINGLE, decisions)
    counts, names = confusion_counts({"val": single, "test": single}, CLASSES)
    assert names == CLASSES
    assert set(counts) == {"val", "test"}
