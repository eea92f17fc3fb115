# SPDX-License-Identifier: Apache-2.0
"""DICOM: series to volumes, and series that are none."""

from __future__ import annotations

import numpy as np
import pytest

from datasets import LoadScand, ScanError, load_datalist
from datasets.readers.dicom import describing_tags

pytest.importorskip("itk")


def load(path, dims=3, **options):
    return LoadScand(spatial_dims=dims, **options)({"image": str(path)})["image"]


def test_slices_are_stacked_by_position_and_turned(make, tmp_path):
    scan = load(make.series(tmp_path, heights=(4, 0, 2)))
    assert scan.shape == (1, 6, 5, 3)
    assert scan.pixdim.tolist() == [1, 1, 2]
    # Slice 1 of the files is the lowest; rows run to the left and to the back, RAS the other way.
    assert scan[0, :, :, 0].tolist() == (np.arange(30).reshape(5, 6).T + 100)[::-1, ::-1].tolist()
    assert [float(level.min()) for level in scan[0].permute(2, 0, 1)] == [100, 200, 0]


def test_a_series_is_chosen_by_its_identifier(make, tmp_path):
    make.series(tmp_path / "s", "1.2.826.0.1.3680043.8.498.11")
    make.series(tmp_path / "s", "1.2.826.0.1.3680043.8.498.12", heights=(0, 1), value=500)
    items = load_datalist(tmp_path).items
    shapes = [LoadScand(spatial_dims=3)(item)["image"].shape for item in items]
    assert sorted(shape[-1] for shape in shapes) == [2, 3]
    with pytest.raises(ScanError, match=r"holds 2 series: .*Give each series a folder of its own"):
        load(tmp_path / "s")
    with pytest.raises(ScanError, match=r"series 1\.2\.3 is not among the 2 series"):
        LoadScand(spatial_dims=3)({"image": str(tmp_path / "s"), "series_uid": "1.2.3"})


def test_a_single_file_is_a_slice_in_display_order(make, tmp_path, messages):
    path = make.dicom(tmp_path / "a.dcm", "1.2.826.0.1.3680043.8.498.1")
    assert load(path, 2)[0].T.tolist() == np.arange(30).reshape(5, 6).tolist()
    with pytest.raises(ScanError, match="a single slice"):
        load(path, 3)
    path.write_bytes(path.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1"))
    turned = load(path, 2)[0].T
    assert (turned[0, 0] - turned).tolist() == np.arange(30).reshape(5, 6).tolist()
    assert "stored inverted (MONOCHROME1)" in messages()


@pytest.mark.parametrize(
    ("heights", "shear", "words"),
    [
        ((0, 2, 6), 0.0, "inconsistent: 2.00 to 4.00 mm. Slices may be missing"),
        ((0, 0, 0), 0.0, "no volume: several of the 3 images lie at one position"),
        ((0, 2, 4), 0.25, "gantry tilt: the slices are sheared by 14.0 degrees. Convert it to NIfTI"),
    ],
)
def test_series_that_are_no_volume(make, tmp_path, heights, shear, words):
    with pytest.raises(ScanError, match=words):
        load(make.series(tmp_path, heights=heights, shear=shear))


def test_slices_of_other_size_or_direction(make, tmp_path):
    uid = "1.2.826.0.1.3680043.8.498.7"
    make.series(tmp_path / "a", uid)
    make.dicom(tmp_path / "a" / "x.dcm", uid, (0, 0, 6), size=(4, 4))
    with pytest.raises(ScanError, match="differ in size or colour"):
        load(tmp_path / "a")
    make.series(tmp_path / "b", uid)
    make.dicom(tmp_path / "b" / "x.dcm", uid, (0, 0, 6), row=(np.cos(0.3), 0, np.sin(0.3)))
    with pytest.raises(ScanError, match="the 4 slices are not parallel"):
        load(tmp_path / "b")


def test_damaged_files_and_folders_without_dicom(make, tmp_path, capfd):
    path = make.dicom(tmp_path / "a.dcm", "1.2.826.0.1.3680043.8.498.1")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ScanError, match=r"a\.dcm: .*truncated"):
        load(path, 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="no DICOM file was found in this folder"):
        load(tmp_path / "empty")
    assert "WARNING" not in capfd.readouterr().err, "ITK's, which name no file"


def test_a_compression_without_codec(make, tmp_path):
    path = make.dicom(tmp_path / "a.dcm", "1.2.826.0.1.3680043.8.498.1", size=(64, 64), compress=True)
    assert load(path, 2).max() == 64 * 64 - 1, "JPEG 2000 is among the codecs"
    content = path.read_bytes()
    jpeg, video = b"UI\x16\x001.2.840.10008.1.2.4.90", b"UI\x18\x001.2.840.10008.1.2.4.100\x00"
    assert content.count(jpeg) == 1
    length = int.from_bytes(content[140:144], "little")  # of the file's own header
    longer = (length + len(video) - len(jpeg)).to_bytes(4, "little")
    path.write_bytes(content[:140] + longer + content[144:].replace(jpeg, video))
    with pytest.raises(ScanError, match=r"a\.dcm: .*compression without codec.*Convert it"):
        load(path, 2)


def test_a_mosaic_is_refused(make, tmp_path):
    path = make.dicom(tmp_path / "a.dcm", "1.2.826.0.1.3680043.8.498.1", image_type="ORIGINAL\\PRIMARY\\M\\MOSAIC")
    with pytest.raises(ScanError, match=r"a\.dcm: a mosaic: the slices of a volume as tiles.*Convert it"):
        load(path, 2)


def _multi_frame(path, values, uid="1.2.826.0.1.3680043.8.498.21", tags=()):
    import itk

    image = itk.image_from_array(values, is_vector=values.ndim == 4)
    for tag, text in {"0020|000e": uid, **dict(tags)}.items():
        image.GetMetaDataDictionary()[tag] = text
    io = itk.GDCMImageIO.New()
    io.KeepOriginalUIDOn()
    itk.imwrite(image, str(path), imageio=io)
    return path


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 5, 6, 3)])
def test_frames_are_no_slices(tmp_path, shape):
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) % 251
    path = _multi_frame(tmp_path / "a.dcm", values)
    with pytest.raises(ScanError, match=r"a\.dcm: multi-frame DICOM: its 3 frames may be slices, times or echoes"):
        load(path, 3)
    with pytest.raises(ScanError, match=r"multi-frame DICOM with 3 frames; choose one with frame=0\. Set `frame`"):
        load(path, 2)
    frame = load(path, 2, frame=2, channels=3 if shape[3:] else 1)
    assert frame.permute(2, 1, 0).squeeze(-1).tolist() == values[2].tolist()


def test_a_series_of_multi_frame_files(tmp_path):
    for index in range(2):
        _multi_frame(tmp_path / f"{index}.dcm", np.zeros((3, 5, 6), np.uint8))
    with pytest.raises(ScanError, match="2 multi-frame files of 3 frames in one series"):
        load(tmp_path, 3)


def test_colour_of_sixteen_bits(tmp_path):
    path = _multi_frame(tmp_path / "a.dcm", np.zeros((1, 5, 6, 3), np.uint16))
    with pytest.raises(ScanError, match="3 components of more than 8 bits are not read"):
        load(path, 2)


def test_describing_tags(make, tmp_path):
    tags = {"0008|0060": "MR", "0018|0015": "BRAIN ", "0008|1030": "Sch?del MRT", "0008|103e": ""}
    path = _multi_frame(tmp_path / "a.dcm", np.zeros((1, 5, 6), np.uint8), tags=tags)
    expected = {"Modality": "MR", "BodyPartExamined": "BRAIN", "StudyDescription": "Sch?del MRT"}
    assert describing_tags(path) == expected
    path.write_bytes(path.read_bytes().replace(b"Sch?del", "Schädel".encode("latin-1")))
    assert describing_tags(path) == {**expected, "StudyDescription": "Schädel MRT"}
    assert describing_tags(make.series(tmp_path / "s")) == {"Modality": "MR"}
    assert describing_tags(make.png(tmp_path / "a.png")) == describing_tags(make.nifti(tmp_path / "a.nii.gz")) == {}


def test_a_scan_brings_its_modality_and_body_part(make, tmp_path):
    tags = {"0008|0060": "CT", "0018|0015": "ABDOMEN"}
    path = _multi_frame(tmp_path / "a.dcm", np.zeros((1, 5, 6), np.uint8), tags=tags)
    for scan, expected in (
        (load(path, 2), ("CT", "ABDOMEN")),
        (load(make.series(tmp_path / "s"), 3), ("MR", "")),
        (load(make.nifti(tmp_path / "a.nii.gz"), 3), ("", "")),
    ):
        assert (scan.meta["modality"], scan.meta["body_part"]) == expected
