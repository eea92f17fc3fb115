# SPDX-License-Identifier: Apache-2.0
"""Dice, IoU, HD95, NSD and volumes against closed forms, and against MONAI's metrics."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU, SurfaceDiceMetric

from custom.metrics.segmentation import figure_text, left_out, scan_figures, segmentation_report


def cube(shift: int = 0, side: int = 10, size: int = 32) -> np.ndarray:
    volume = np.zeros((size,) * 3, dtype=np.uint8)
    volume[8 + shift : 8 + shift + side, 8 : 8 + side, 8 : 8 + side] = 1
    return volume


@pytest.mark.parametrize("shift", [0, 1, 4])
@pytest.mark.parametrize("size", [1.0, 2.5])
def test_a_shifted_cube(shift: int, size: float) -> None:
    found = scan_figures(cube(shift), cube(), 1, (size, 1.0, 1.0), tolerance=0.0, voxel=size / 1000)
    overlap = (10 - shift) / 10
    assert found.dice[0] == pytest.approx(overlap)
    assert found.iou[0] == pytest.approx(overlap / (2 - overlap))
    assert found.true_volume[0] == pytest.approx(found.predicted_volume[0])
    assert found.true_volume[0] == pytest.approx(size)  # 1000 voxels of size mm3
    assert found.hd95[0] == pytest.approx(shift * size)  # the end faces hold more than 5 % of the surface


def test_a_thicker_cube_is_within_the_tolerance() -> None:
    """Each surface voxel of a cube of side 12 lies within sqrt(3) of one of side 10 around the same centre."""
    small, large = cube(), cube(-1, 12)
    large = np.roll(large, (0, -1, -1), (0, 1, 2))
    for tolerance, expected in ((1.75, 1.0), (0.5, 0.0)):
        assert scan_figures(large, small, 1, (1, 1, 1), tolerance).nsd[0] == pytest.approx(expected)
    assert scan_figures(large, small, 1, (1, 1, 1)).hd95[0] == pytest.approx(np.sqrt(2))  # edges exceed 5 %


def test_balls_of_two_radii() -> None:
    grid = np.ogrid[:64, :64, :64]
    distance = np.sqrt(sum((axis - 32.0) ** 2 for axis in grid))
    small, large = (distance <= 15).astype(int), (distance <= 20).astype(int)
    found = scan_figures(large, small, 1, (0.5, 0.5, 0.5), tolerance=1.0, voxel=0.125)
    assert found.dice[0] == pytest.approx(2 * 15**3 / (15**3 + 20**3), abs=0.01)
    assert found.hd95[0] == pytest.approx(2.5, abs=0.5)
    assert found.nsd[0] == 0
    assert found.true_volume[0] == pytest.approx(4 / 3 * np.pi * 7.5**3, rel=0.01)


def test_figures_equal_those_of_monai() -> None:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 3, (2, 6, 6, 5))
    prediction, truth = (np.kron(each, np.ones((3, 3, 3))).astype(int) for each in coarse)
    spacing = (0.7, 1.0, 2.0)
    found = scan_figures(prediction, truth, 2, spacing, tolerance=1.5)
    pair = [torch.nn.functional.one_hot(torch.from_numpy(each), 3).movedim(-1, 0)[None] for each in (prediction, truth)]
    metrics = {
        "dice": DiceMetric(include_background=False, reduction="none"),
        "iou": MeanIoU(include_background=False, reduction="none"),
        "hd95": HausdorffDistanceMetric(include_background=False, percentile=95, reduction="none"),
        "nsd": SurfaceDiceMetric([1.5, 1.5], include_background=False, reduction="none"),
    }
    for name, metric in metrics.items():
        options = {"spacing": spacing} if name in ("hd95", "nsd") else {}
        expected = metric(y_pred=pair[0], y=pair[1], **options)[0].numpy()
        assert getattr(found, name) == pytest.approx(expected, rel=1e-5), name


def test_where_a_class_is_absent() -> None:
    """Class 1 is missed, 2 invented, 3 in neither map."""
    truth, prediction = np.zeros((8, 8), dtype=int), np.zeros((8, 8), dtype=int)
    truth[2:4, 2:4], prediction[5:6, 5:7] = 1, 2
    found = scan_figures(prediction, truth, 3, (1.0, 1.0))
    for name in ("dice", "iou", "nsd"):
        assert getattr(found, name)[:2].tolist() == [0, 0], name
        assert np.isnan(getattr(found, name)[2]), name
    assert np.isnan(found.hd95).all()
    assert found.true_volume.tolist() == [4, 0, 0]
    assert found.predicted_volume.tolist() == [0, 2, 0]
    assert found.mean_dice == 0
    report = segmentation_report([found], ["a", "b", "c"], resamples=10)
    json.dumps(report, allow_nan=False)
    assert report["hd95"] is None
    assert report["intervals"]["hd95"] is None
    assert report["dice"] == 0
    assert {kind: report[kind] for kind in ("present", "missed", "invented", "absent")} == {
        **dict.fromkeys(("present", "missed", "invented", "absent"), 1)
    }
    assert report["classes"]["a"]["missed"] == report["classes"]["a"]["present"] == 1
    assert report["classes"]["b"]["invented"] == 1
    assert report["classes"]["c"]["dice"] is None
    assert report["classes"]["a"]["volume_difference"] == -4
    assert report["classes"]["b"]["absolute_volume_difference"] == 2


def test_a_mean_says_what_it_leaves_out() -> None:
    """Two of four lumps are missed, and one is invented: HD95 knows one scan only."""
    nothing, lump = np.zeros((8, 8, 8), dtype=int), np.zeros((8, 8, 8), dtype=int)
    lump[2:5, 2:5, 2:5] = 1
    pairs = [(lump, lump), (lump, lump), (nothing, lump), (nothing, lump), (lump, nothing), (nothing, nothing)]
    report = segmentation_report([scan_figures(*pair, 1, (1, 1, 1)) for pair in pairs], ["lump"], resamples=0)
    for figures in (report, report["classes"]["lump"]):
        assert figures["hd95"] == 0
        assert left_out(figures, "hd95") == {"missed": 2, "invented": 1, "absent": 1}
        assert left_out(figures, "dice") == left_out(figures, "nsd") == {"absent": 1}
        assert figure_text(figures, "hd95", " mm") == "0.000 mm (without 2 missed, 1 invented, 1 absent)"
    assert left_out({"auroc": 0.5}, "auroc") == {}
    assert figure_text({"hd95": None, "missed": 3}, "hd95", " mm") == "undefined (without 3 missed)"
    assert figure_text({"hd95": 1.0, "missed": 0}, "hd95") == "1.000"


def test_a_scan_with_nothing_in_it() -> None:
    empty = scan_figures(np.zeros((4, 4)), np.zeros((4, 4)), 1, (1, 1))
    assert empty.mean_dice is None
    assert segmentation_report([empty], ["a"], resamples=10)["dice"] is None


def test_one_voxel_and_the_border() -> None:
    truth = np.zeros((5, 5, 5), dtype=int)
    truth[0, 0, 0] = 1
    found = scan_figures(np.roll(truth, 2, axis=2), truth, 1, (1, 1, 3.0))
    assert (found.dice[0], found.hd95[0], found.nsd[0]) == (0, 6, 0)
    same = scan_figures(truth, truth, 1, (1, 1, 3.0))
    assert (same.dice[0], same.iou[0], same.hd95[0], same.nsd[0]) == (1, 1, 0, 1)
    full = np.ones((5, 5, 5), dtype=int)
    assert scan_figures(full, full, 1, (1, 1, 1)).hd95[0] == 0


def test_means_are_over_scans_then_classes_and_intervals_over_patients() -> None:
    half = np.zeros((4, 4), dtype=int)
    half[:2] = 1
    other = np.zeros((4, 4), dtype=int)
    other[1:3] = 1  # Dice 0.5 with half
    two = np.where(half, 2, 0)
    scans = [scan_figures(*pair, 2, (1, 1)) for pair in ((half, half), (other, half), (two, two))]
    report = segmentation_report(scans, ["a", "b"], groups=["p", "p", "q"], resamples=200)
    assert report["classes"]["a"]["dice"] == pytest.approx(0.75)
    assert report["classes"]["b"]["dice"] == 1
    assert report["dice"] == pytest.approx(0.875)
    assert report["bootstrap"]["unit"] == "group"
    assert report["intervals"]["dice"] == [0.75, 1.0], "draws hold both scans of a patient, or none"
    assert segmentation_report(scans, ["a", "b"], resamples=200)["intervals"]["dice"][0] < 0.75


@pytest.mark.parametrize(
    ("shapes", "spacing", "tolerance"),
    [
        (((4, 4), (4, 5)), (1, 1), 1),
        (((4, 4), (4, 4)), (1, 1, 1), 1),
        (((4, 4), (4, 4)), (1, 0), 1),
        (((4, 4), (4, 4)), (1, 1), -1),
    ],
)
def test_what_does_not_fit_is_refused(shapes: tuple, spacing: tuple, tolerance: float) -> None:
    with pytest.raises(ValueError, match="must"):
        scan_figures(np.zeros(shapes[0]), np.zeros(shapes[1]), 1, spacing, tolerance)


def test_without_draws_there_are_no_intervals() -> None:
    scans = [scan_figures(cube(), cube(shift), 1, (1.0,) * 3) for shift in (0, 1)]
    report = segmentation_report(scans, ["a"], resamples=0)
    full = segmentation_report(scans, ["a"], resamples=5)
    assert "intervals" not in report
    assert "intervals" not in report["classes"]["a"]
    assert report["dice"] == full["dice"]
    assert set(full) - set(report) == {"intervals", "bootstrap"}
