# SPDX-License-Identifier: Apache-2.0
"""Every picture shows volumes alike: the patient's left on the right, front and head up, with letters at the sides."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.data import MetaTensor
from PIL import Image

from custom.tasks.classification.task import ClassificationTask, ClassifiedScan, upright_picture
from custom.visual.boxes import draw_boxes
from custom.visual.confidence import confidence_figure
from custom.visual.contact_sheet import contact_sheet, make_tiles
from custom.visual.overlay import draw_plane, plane_of
from custom.visual.planes import view_of
from custom.visual.reconstruction import make_example, reconstruction_figure
from custom.visual.region_page import make_pictures
from datasets import LoadScand

SHAPE = (16, 24, 32)
LEFT_FRONT = (slice(0, 5), slice(16, 24), slice(14, 18))  # of RAS+ voxels: low x is the patient's left


def phantom() -> MetaTensor:
    """A volume with one bright block at the patient's left and front, RAS+."""
    volume = torch.full((1, *SHAPE), 0.1)
    volume[(0, *LEFT_FRONT)] = 1
    return MetaTensor(volume, affine=torch.eye(4))


def stored(tmp_path: Path, codes: str, **forms: int) -> MetaTensor:
    """The same volume, stored along other axes and read back as it lies in its file."""
    image = nib.Nifti1Image(phantom()[0].numpy(), np.eye(4))
    ornt = nib.orientations.axcodes2ornt(tuple(codes))
    image = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), ornt))
    nib.save(image, tmp_path / f"{codes}.nii")
    return LoadScand("image", 3, orientation=None)({"image": str(tmp_path / f"{codes}.nii")})["image"]


def quarter(picture: np.ndarray) -> tuple[str, str]:
    """Where the bright part of a picture ``[right, down]`` lies."""
    bright = np.argwhere(picture > 0.6).mean(axis=0) / np.array(picture.shape[:2])
    return ("left", "right")[int(bright[0] > 0.5)], ("top", "bottom")[int(bright[1] > 0.5)]


def letters(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text() in "RLAP"]


def shown(name: str, image: MetaTensor) -> tuple[np.ndarray, list[str]]:
    """The picture ``[right, down]`` that a kind of picture makes, and its letters."""
    figure = Figure()
    axes = figure.subplots()
    region = (image.as_tensor()[0] > 0.5).float()
    if name == "contact sheet":
        (tile,) = make_tiles(image, region[None], "scan", ["block"])
        assert np.array_equal(tile.region > 0.5, tile.scan > 0.5)
        return tile.scan, letters(contact_sheet([[tile]]))
    if name == "overlay":
        plane = plane_of(image, region.numpy().astype(np.uint8), region.numpy().astype(np.uint8), (1.0, 1.0, 1.0))
        draw_plane(axes, plane)
        assert np.array_equal(plane.prediction > 0, plane.scan > 0.5)
        assert np.array_equal(plane.truth, plane.prediction)
        return plane.scan.astype(np.float32), letters(figure)
    if name == "boxes":
        low, high = np.argwhere(region.numpy()).min(axis=0), np.argwhere(region.numpy()).max(axis=0) + 1
        draw_boxes(axes, image[0].numpy(), None, [[*low, *high]], view=view_of(image))
        (patch,), picture = axes.patches, np.asarray(axes.images[0].get_array()).T
        assert np.array_equal(np.argwhere(picture > 0.5).min(axis=0), patch.get_xy()), "the box lies around the block"
        return picture, letters(figure)
    if name == "reconstruction":
        visible = torch.ones(1, *(side // 8 for side in image.shape[1:]), dtype=torch.bool)
        example = make_example(image, visible, torch.zeros(image.shape), 8, region[None])
        found = letters(reconstruction_figure([example]))
        assert found == ["R", "L"] * 4 or not found, "in every panel"
        return example.scan, found[:2]
    sides = view_of(image).sides
    case = ClassifiedScan("scan", np.array([0.7, 0.3]), np.array([True, False]), upright_picture(image), sides)
    if name == "cases of a classifier":
        ClassificationTask(["a", "b"]).draw(case, {"thresholds": {"a": 0.5, "b": 0.5}}, axes)
        return case.picture.T / 255, letters(figure)
    return case.picture.T / 255, letters(confidence_figure({"a": (case.picture, "words", case.sides)}))


KINDS = ["contact sheet", "overlay", "boxes", "reconstruction", "cases of a classifier", "confidence"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_patients_left_is_on_the_right(kind: str) -> None:
    picture, words = shown(kind, phantom())
    assert picture.shape[:2] == SHAPE[:2]
    assert quarter(picture) == ("right", "top")
    assert words == ["R", "L"]


@pytest.mark.parametrize("codes", ["LPS", "SAR"])
def test_other_axes_make_the_same_picture(tmp_path: Path, codes: str) -> None:
    image = stored(tmp_path, codes)
    for kind in KINDS:
        picture, words = shown(kind, image)
        assert picture.shape[:2] == SHAPE[:2], kind
        assert quarter(picture) == ("right", "top"), kind
        assert words == ["R", "L"], kind


@pytest.mark.parametrize("codes", ["RAS", "PSR"])
def test_the_page_shows_three_planes_upright_with_letters(tmp_path: Path, codes: str) -> None:
    image = stored(tmp_path, codes)
    pictures = make_pictures(image, (image.as_tensor()[0] > 0.5).float())
    region = np.asarray(Image.open(io.BytesIO(pictures.region))).T / 255
    scan = np.asarray(Image.open(io.BytesIO(pictures.scan))).T / 255
    starts = [0, 16 + 4, 2 * (16 + 4)]
    axial, coronal, sagittal = (
        region[start : start + width] for start, width in zip(starts, (16, 16, 24), strict=True)
    )
    assert quarter(axial[:, 4:28]) == ("right", "top")  # in the middle of the height of the others
    assert quarter(coronal)[0] == "right"
    assert quarter(sagittal)[0] == "left", "front"
    assert scan.shape == region.shape
    assert scan[:4].max() > 0.6, "a letter on the patient's right, where the block is not"
    assert scan[1:4, 1:-1].min() < 0.05, "with a dark edge"
    head = torch.full((1, *SHAPE), 0.1)
    head[0, :, :, 26:30] = 1
    upper = np.asarray(Image.open(io.BytesIO(make_pictures(MetaTensor(head), head[0]).region))).T / 255
    assert np.argwhere(upper[20:36] > 0.6).mean(axis=0)[1] < 10, "the head is up"


def test_no_letters_where_nobody_knows_the_sides(tmp_path: Path) -> None:
    picture = (np.random.default_rng(0).random((16, 24)) * 255).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    read = LoadScand("image", 2)({"image": str(tmp_path / "a.png")})["image"] / 255
    assert view_of(read).sides == ("", "")
    assert view_of(torch.zeros(1, 4, 4)).sides == ("", "")
    for kind in KINDS:
        if kind not in ("overlay", "boxes", "reconstruction"):
            assert shown(kind, read)[1] == [], kind
    nib.save(nib.Nifti1Image(phantom()[0].numpy(), None), tmp_path / "no_forms.nii")
    no_forms = LoadScand("image", 3)({"image": str(tmp_path / "no_forms.nii")})["image"]
    assert view_of(no_forms).sides == ("", "")
    for read, is_marked in ((0 * no_forms, False), (0 * phantom(), True)):
        scan = np.asarray(Image.open(io.BytesIO(make_pictures(read, torch.zeros(SHAPE)).scan)))
        assert (scan.max() > 100) == is_marked


def test_slices_with_a_place_in_space_have_letters_too(tmp_path: Path) -> None:
    for name, affine, shape, sides in (
        ("axial", np.diag([1.0, 1, 1, 1]), (16, 24, 1), ("R", "L")),
        ("sagittal", np.diag([-1.0, 1, 1, 1]), (1, 24, 16), ("A", "P")),
    ):
        nib.save(
            nib.Nifti1Image(np.random.default_rng(0).random(shape).astype(np.float32), affine), tmp_path / f"{name}.nii"
        )
        for orientation in ("RAS", None):
            read = LoadScand("image", 2, orientation=orientation)({"image": str(tmp_path / f"{name}.nii")})["image"]
            assert view_of(read).sides == (sides if orientation else sides[::-1]), (name, orientation)
