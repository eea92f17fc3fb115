# SPDX-License-Identifier: Apache-2.0
"""Phantoms: anatomy, known regions, folders, and classes that grey levels do not give away."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.stats import binom

from datasets.phantoms import KINDS, SPECS, Phantom, ensure_phantoms, histogram_baseline, make_phantom, writer
from datasets.phantoms.baseline import _fit_and_score, read_image

EVERY = [(kind, dims) for kind, all_dims in KINDS.items() for dims in all_dims]
SMALL = {2: 64, 3: 40}
FEW = {"train": 3, "val": 3, "test": 3}


def small(kind: str, dims: int, seed: int = 0, label: int = 0) -> Phantom:
    return make_phantom(kind, dims, seed, list(SPECS[kind].classes)[label], SMALL[dims])


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def shape_features(image: np.ndarray, mask: np.ndarray) -> list[float]:
    """Outline (border length, spread of the radius) and layout (is the lesion bright where it is deep)."""
    border = (mask & ~ndimage.binary_erosion(mask)).sum() / mask.sum() ** (1 - 1 / mask.ndim)
    place = np.argwhere(mask)
    radius = np.linalg.norm(place - place.mean(0), axis=1)
    padded = ndimage.distance_transform_edt(np.pad(mask, 1))
    depth = padded[tuple(slice(1, -1) for _ in mask.shape)][mask]
    layout = np.corrcoef(image[mask], depth)[0, 1]
    return [float(border), float(radius.std() / radius.mean()), float(layout)]


@pytest.fixture(scope="module", params=EVERY, ids=lambda p: f"{p[0]}_{p[1]}d")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, dims = request.param
    return ensure_phantoms(kind, dims, tmp_path_factory.mktemp("phantoms"), size=SMALL[dims], counts=FEW)


# one scan


@pytest.mark.parametrize(("kind", "dims"), EVERY)
def test_a_seed_gives_one_scan_and_another_seed_another(kind: str, dims: int) -> None:
    first, again, other = small(kind, dims, 3), small(kind, dims, 3), small(kind, dims, 4)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.codes, again.codes)
    assert (first.image != other.image).mean() > 0.2


@pytest.mark.parametrize(("kind", "dims"), EVERY)
def test_a_scan_has_a_lesion_in_its_organ(kind: str, dims: int) -> None:
    organ = {"brain_mri": "brain"}.get(kind, "lungs")
    for label in range(3):
        phantom = small(kind, dims, 5, label)
        lesion = phantom.regions["lesion"]
        assert phantom.image.shape == lesion.shape == (SMALL[dims],) * dims
        assert lesion.sum() >= 8
        assert not (lesion & ~phantom.regions[organ]).any()
        assert phantom.regions["lesion core"].any() == (label == 2)
        pieces = ndimage.label(lesion, np.ones([3] * dims))[0]
        assert np.bincount(pieces.ravel())[1:].max() > 0.9 * lesion.sum()


@pytest.mark.parametrize(("kind", "dims"), EVERY)
def test_the_class_changes_the_lesion_and_nothing_else(kind: str, dims: int) -> None:
    scans = [small(kind, dims, 8, label) for label in range(3)]
    sizes = [int(p.regions["lesion"].sum()) for p in scans]
    assert len(set(sizes)) == 1
    means = [float(p.image[p.regions["lesion"]].mean()) for p in scans]
    spread = float(scans[0].image.std())
    assert max(means) - min(means) < 0.25 * spread
    apart = ~(scans[0].regions["lesion"] | scans[1].regions["lesion"])
    np.testing.assert_array_equal(scans[0].codes[apart], scans[1].codes[apart])


@pytest.mark.parametrize(("kind", "dims"), EVERY)
def test_every_named_region_but_the_core_is_there(kind: str, dims: int) -> None:
    union: Counter[str] = Counter()
    for seed in range(4):
        union.update({name: int(mask.sum()) for name, mask in small(kind, dims, seed, 2).regions.items()})
    missing = {name for name in SPECS[kind].regions if not union[name]}
    # a radiograph shows no single vessel, bone or mediastinum: its codes know the lungs and the nodule
    assert missing <= ({"vessels", "bone", "mediastinum"} if kind == "chest_xray" else set())


@pytest.mark.parametrize("dims", [2, 3])
def test_ct_is_in_hounsfield_units(dims: int) -> None:
    phantom = small("chest_ct", dims, 1)
    image, regions = phantom.image.astype(float), phantom.regions
    assert phantom.image.dtype == np.int16
    assert np.median(image[~regions["body"]]) == pytest.approx(-1000, abs=30)
    lungs = np.isin(phantom.codes, (2, 3))
    assert -920 < np.median(image[lungs]) < -780
    assert np.percentile(image[regions["bone"]], 75) > 150
    assert -60 < np.percentile(image[regions["mediastinum"]], 60) < 260
    assert -500 < image[regions["lesion"]].mean() < 60
    assert image.min() >= -1200
    assert image.max() <= 1500


def test_mr_shows_fat_bright_bone_dark_and_air_black() -> None:
    for seed in range(4):
        phantom = make_phantom("brain_mri", 2, seed, "ring")
        image, regions = phantom.image.astype(float), phantom.regions
        scalp = (phantom.codes == 1) & ~ndimage.binary_dilation(regions["brain"], iterations=4)
        air, skull, brain = (float(np.median(image[m])) for m in (~regions["head"], regions["skull"], regions["brain"]))
        assert air < skull < brain < float(np.percentile(image[scalp], 75))
        assert phantom.image.dtype == np.uint8


def test_xray_shows_lungs_darker_than_the_mediastinum_between_them() -> None:
    for seed in range(3):
        phantom = small("chest_xray", 2, seed)
        lungs = phantom.regions["lungs"]
        rows = np.flatnonzero(lungs.any(0))
        right = np.flatnonzero(phantom.regions["right lung"].any(1)).max()
        left = np.flatnonzero(phantom.regions["left lung"].any(1)).min()
        between = phantom.image[right : left + 1, rows[len(rows) // 4] : rows[-1]]
        assert between.mean() > phantom.image[lungs].mean() + 40


@pytest.mark.parametrize(("kind", "dims"), [e for e in EVERY if e[0] != "brain_mri"])
def test_sides_follow_the_conventions(kind: str, dims: int) -> None:
    phantom = small(kind, dims, 2)
    right, left = (np.argwhere(phantom.regions[f"{side} lung"])[:, 0].mean() for side in ("right", "left"))
    # pictures: the patient's right at low x; volumes: RAS+, the patient's left at low indices
    assert (right < left) == (dims == 2)


def test_volumes_grow_to_the_front_and_the_head() -> None:
    chest = small("chest_ct", 3, 2)
    bone, lungs = np.argwhere(chest.regions["bone"]), np.argwhere(chest.regions["lungs"])
    assert bone[:, 1].mean() < lungs[:, 1].mean()  # spine and ribs lie at the back
    assert np.ptp(np.argwhere(chest.regions["lungs"][..., 12])[:, 0]) > 0  # lungs are wide below
    head = small("brain_mri", 3, 2)
    assert head.regions["head"][..., 0].any()  # the neck leaves the picture below
    assert not head.regions["head"][..., -1].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("knee", 2, 0, "ring"), "Unknown kind.*brain_mri"),
        (("chest_xray", 3, 0, "smooth"), "2D"),
        (("brain_mri", 2, 0, "cavitary"), "circumscribed"),
        (("brain_mri", 2, 0, "ring", 16), "at least 32"),
        (("brain_mri", 3, 0, "ring", (40, 40)), "3"),
    ],
)
def test_wrong_requests_say_what_is_allowed(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_phantom(*arguments)


# a folder


def test_a_folder_is_complete_and_balanced(folder: Path) -> None:
    rows = rows_of(folder)
    assert tuple(rows[0]) == writer.COLUMNS
    assert Counter(row["split"] for row in rows) == FEW
    assert set(Counter((row["split"], row["label"]) for row in rows).values()) == {1}
    assert len({row["group"] for row in rows}) == len(rows)
    record = json.loads((folder / "phantom.json").read_text())
    prompts = {row["prompt"] for row in rows}
    assert prompts == {record["prompt"]}
    assert prompts <= {"brain tumor", "lung nodule"}
    assert 0 <= record["histogram_accuracy"] <= 1
    assert sorted({row["label"] for row in rows}) == record["classes"]


def test_boxes_and_coco_agree_with_the_label_maps(folder: Path) -> None:
    codes = json.loads((folder / "regions.json").read_text())["regions"]["lesion"]
    annotations = {}
    for file in folder.glob("coco_*.json"):
        coco = json.loads(file.read_text())
        names = {image["id"]: image["file_name"] for image in coco["images"]}
        labels = {category["id"]: category["name"] for category in coco["categories"]}
        annotations.update({names[a["image_id"]]: (a, labels[a["category_id"]]) for a in coco["annotations"]})
    for row in rows_of(folder):
        lesion = np.isin(read_image(folder / row["mask"]), codes)
        if lesion.ndim == 3:
            assert row["box_xywh"] == ""
            continue
        (x, y), (w, h) = np.argwhere(lesion).min(0), np.ptp(np.argwhere(lesion), axis=0) + 1
        assert [int(v) for v in row["box_xywh"].split()] == [x, y, w, h]
        note, label = annotations[Path(row["file"]).name]
        assert (note["bbox"], note["area"], label) == ([x, y, w, h], lesion.sum(), row["label"])
        height, width = note["segmentation"]["size"]
        values = np.arange(len(note["segmentation"]["counts"])) % 2
        flat = np.repeat(values, note["segmentation"]["counts"])
        np.testing.assert_array_equal(flat.reshape((height, width), order="F"), lesion.T)


def test_files_have_the_promised_formats(folder: Path) -> None:
    for row in rows_of(folder):
        path, mask = folder / row["file"], folder / row["mask"]
        if path.suffix == ".png":
            assert Image.open(path).mode == Image.open(mask).mode == "L"
            continue
        scan, labels = nib.load(path), nib.load(mask)
        assert (scan.get_data_dtype(), labels.get_data_dtype()) == (np.int16, np.uint8)
        assert scan.shape == labels.shape
        assert len(scan.shape) == 3
        np.testing.assert_array_equal(scan.affine, labels.affine)
        flat = scan.shape[2] == 1
        assert nib.aff2axcodes(scan.affine) == (("L", "P", "S") if flat else ("R", "A", "S"))


def test_a_scan_does_not_depend_on_how_many_are_made(tmp_path: Path) -> None:
    few = ensure_phantoms("brain_mri", 2, tmp_path / "few", size=48, counts={"train": 2, "test": 1})
    more = ensure_phantoms("brain_mri", 2, tmp_path / "more", size=48, counts={"train": 4, "val": 2, "test": 2})
    for row in rows_of(few):
        assert row in rows_of(more)
        assert (few / row["file"]).read_bytes() == (more / row["file"]).read_bytes()
        assert (few / row["mask"]).read_bytes() == (more / row["mask"]).read_bytes()


def test_a_folder_is_reused_and_made_anew_when_asked_for_otherwise(tmp_path: Path) -> None:
    def ensure(seed: int) -> Path:
        return ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts=FEW, seed=seed)

    first = ensure(0)
    (first / "mark").touch()
    before = (first / "images/train_0000.png").read_bytes()
    assert ensure(0) == first
    assert (first / "mark").exists()
    assert ensure(1) == first
    assert not (first / "mark").exists()
    assert (first / "images/train_0000.png").read_bytes() != before
    assert os.listdir(tmp_path) == [first.name]


def test_a_new_generator_makes_old_folders_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts={"train": 1})
    (made / "mark").touch()
    monkeypatch.setattr(writer, "GENERATOR_VERSION", writer.GENERATOR_VERSION + 1)
    ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts={"train": 1})
    assert not (made / "mark").exists()


def test_a_run_that_stops_half_way_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = writer.make_phantom, []

    def stops(*arguments: object) -> Phantom:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(writer, "make_phantom", stops)
    with pytest.raises(KeyboardInterrupt):
        ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts=FEW)
    assert os.listdir(tmp_path) == []
    assert len(rows_of(ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts=FEW))) == 9


def test_what_a_killed_run_left_is_cleared_once_it_is_old(tmp_path: Path) -> None:
    old, young = tmp_path / ".brain_mri_2d-old", tmp_path / ".brain_mri_2d-young"
    for left in (old, young):
        (left / "new").mkdir(parents=True)
    os.utime(old, (0, 0))
    ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts={"train": 1})
    assert not old.exists()
    assert young.exists()


def test_a_faster_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_process_first(folder: Path) -> float:
        monkeypatch.setattr(writer, "histogram_baseline", lambda _: 0.5)
        ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts={"train": 1})
        return 0.25

    monkeypatch.setattr(writer, "histogram_baseline", other_process_first)
    monkeypatch.setattr(writer.os, "replace", _refuse_existing(os.replace))
    made = ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts={"train": 1})
    assert len(rows_of(made)) == 1
    assert os.listdir(tmp_path) == [made.name]


def _refuse_existing(replace):
    # a third process may have moved its folder in between; the rename of the loser then fails
    def guarded(source: Path, target: Path) -> None:
        if Path(source).name != "new" and Path(target).name == "old":
            return
        replace(source, target)

    return guarded


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "brain_mri_2d").mkdir()
    (tmp_path / "brain_mri_2d" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="brain_mri_2d"):
        ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts=FEW)
    assert (tmp_path / "brain_mri_2d" / "mine.txt").exists()


@pytest.mark.parametrize("counts", [{"training": 3}, {"train": 0}, {"train": -1, "test": 3}])
def test_impossible_counts_are_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="train, val, test"):
        ensure_phantoms("brain_mri", 2, tmp_path, counts=counts)


# classes


@pytest.mark.parametrize(
    ("kind", "dims", "size", "count"),
    [
        ("brain_mri", 2, 96, 90),
        ("brain_mri", 3, 40, 60),
        ("chest_ct", 2, 96, 90),
        ("chest_ct", 3, 40, 60),
        ("chest_xray", 2, 64, 60),
    ],
)
def test_grey_levels_hide_the_class_and_shape_shows_it(
    tmp_path: Path, kind: str, dims: int, size: int, count: int
) -> None:
    made = ensure_phantoms(kind, dims, tmp_path, size=size, counts={"train": count, "test": count}, seed=11)
    # guessing among three classes stays below this in 999 of 1000 sets
    bound = float(binom.ppf(0.999, count, 1 / 3)) / count
    assert histogram_baseline(made) <= bound

    rows = rows_of(made)
    codes = json.loads((made / "regions.json").read_text())["regions"]["lesion"]
    features = np.array([
        shape_features(read_image(made / row["file"]).astype(float), np.isin(read_image(made / row["mask"]), codes))
        for row in rows
    ])  # fmt: skip
    labels = np.array([row["label"] for row in rows])
    train = np.array([row["split"] == "train" for row in rows])
    assert _fit_and_score(features, labels, train) > 0.9


def test_the_histogram_baseline_does_find_a_class_in_grey_levels(tmp_path: Path) -> None:
    made = ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts={"train": 30, "test": 15})
    for row in rows_of(made):
        lift = 40 * sorted(SPECS["brain_mri"].classes).index(row["label"])
        image = np.clip(np.asarray(Image.open(made / row["file"])).astype(int) + lift, 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(made / row["file"])
    assert histogram_baseline(made) > 0.9


def test_the_histogram_baseline_needs_two_classes_and_a_test_scan(tmp_path: Path) -> None:
    made = ensure_phantoms("brain_mri", 2, tmp_path, size=48, counts={"train": 3})
    assert np.isnan(histogram_baseline(made))
    assert json.loads((made / "phantom.json").read_text())["histogram_accuracy"] is None
