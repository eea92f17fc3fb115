# SPDX-License-Identifier: Apache-2.0
"""Pictures with an EXIF turn: read, annotated and written as they are looked at, all eight ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from custom.metrics.localization import in_boxes
from custom.regions import RegionStore
from custom.regions.record import RegionRecord
from custom.tasks.segmentation.geometry import ScanGrid
from custom.tasks.segmentation.saving import write_label_map
from datasets import LoadScand, ScanError
from datasets.file_grid import FileGrid
from datasets.geometry import boxes_in_memory

# EXIF 2.32, tag 0x0112: what was done to a picture before it was stored is undone by what viewers do to it.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
BOX = [40, 8, 24, 16]  # x, y, width, height on the upright picture


def upright_picture(mode: str = "L") -> Image.Image:
    values = np.full((48, 96), 20, dtype=np.uint8)
    values[8:24, 40:64] = 220
    return Image.fromarray(values).convert(mode)


def save(folder: Path, orientation: int, ending: str = ".jpg", mode: str = "L") -> Path:
    tag = Image.Exif()
    tag[0x0112] = orientation
    picture, turn = upright_picture(mode), STORED[orientation]
    path = folder / f"turned_{orientation}{ending}"
    (picture if turn is None else picture.transpose(turn)).save(
        path, exif=tag, **({"quality": 95} if ending == ".jpg" else {})
    )
    return path


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("ending", "mode"), [(".jpg", "L"), (".png", "RGB")])
def test_pictures_boxes_masks_maps_and_predictions_agree(
    tmp_path: Path, orientation: int, ending: str, mode: str
) -> None:
    path = save(tmp_path, orientation, ending, mode)
    codes = np.asarray(upright_picture()) // 200
    Image.fromarray(codes).save(tmp_path / "mask.png")
    read = LoadScand("image", 2, label_keys="mask")({"image": str(path), "mask": str(tmp_path / "mask.png")})
    image = read["image"]
    assert image.shape == (1, 96, 48)
    bright = image[0].numpy() > 120
    assert np.array_equal(bright, read["mask"][0].numpy() > 0), "the mask drawn on the upright picture lies on it"
    assert np.array_equal(bright, in_boxes(boxes_in_memory([BOX], image), image.shape[1:])), "and so does the box"
    grid = ScanGrid.of(image)
    assert grid.file_shape == (96, 48, 1)
    written = write_label_map(tmp_path / "labels", grid.to_file(bright.astype(np.uint8)), grid)
    assert np.array_equal(np.asarray(Image.open(written)), codes), "predictions are those of the upright picture"
    store = RegionStore(tmp_path / "store")
    record = RegionRecord({}, "x", (96, 48), "")
    store.save("scan", "x", torch.from_numpy(bright.astype(np.float32)), record, grid=FileGrid.of(image))
    assert np.array_equal(np.asarray(Image.open(store.file("scan", "x", 2))) // 255, codes)


def test_label_maps_are_turned_as_their_own_data_says(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    codes = Image.fromarray(np.asarray(upright_picture()) // 200)
    codes.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "mask.png", exif=tag)
    item = {"image": str(save(tmp_path, 6)), "mask": str(tmp_path / "mask.png")}
    read = LoadScand("image", 2, label_keys="mask")(item)
    assert np.array_equal(read["mask"][0].numpy().T, np.asarray(codes))
    codes.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "mask.png")
    with pytest.raises(ScanError, match=r"size \(48, 96, 1\) is not the image's \(96, 48, 1\)"):
        LoadScand("image", 2, label_keys="mask")(item)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_turns_that_do_not_exist_are_none(tmp_path: Path, orientation: int) -> None:
    tag = Image.Exif()
    tag[0x0112] = orientation
    upright_picture().save(tmp_path / "a.png", exif=tag)
    read = LoadScand("image", 2)({"image": str(tmp_path / "a.png")})["image"]
    assert np.array_equal(read[0].numpy().T, np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))))


def test_a_picture_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    decoded: list[str] = []
    original = ImageFile.ImageFile.load_end
    monkeypatch.setattr(ImageFile.ImageFile, "load_end", lambda self: (decoded.append("once"), original(self))[1])
    LoadScand("image", 2)({"image": str(save(tmp_path, 6))})
    assert len(decoded) == 1
