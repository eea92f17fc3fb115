# SPDX-License-Identifier: Apache-2.0
"""DICOM files of strangers: whatever they hold, the process goes on, and the error names the file."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import JPEG2000Lossless, SecondaryCaptureImageStorage, generate_uid

from datasets import LoadScand, ScanDataset, ScanError, itk_process, load_datalist
from datasets.readers.dicom_header import read_header

SERIES = "1.2.826.0.1.3680043.8.498.5"
MISSING = object()


def write(path: Path, **changes: object) -> Path:
    """A grey picture of 6 x 4 pixels with some tags changed, or MISSING; `syntax` is its transfer syntax."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = changes.pop("syntax", "1.2.840.10008.1.2.1")
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset = Dataset()
    dataset.file_meta = meta
    tags = {
        "SOPClassUID": SecondaryCaptureImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": SERIES + f".{sum(path.name.encode())}", "Modality": "OT", "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": 4, "Columns": 6, "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "PixelRepresentation": 0, "PixelData": bytes(range(24)), **changes,
    }  # fmt: skip
    for name, value in tags.items():
        if value is not MISSING:
            setattr(dataset, name, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = meta.TransferSyntaxUID.is_encapsulated
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


BROKEN = {
    "a palette that is not there": ({"PhotometricInterpretation": "PALETTE COLOR"}, "no complete palette"),
    "two samples": ({"SamplesPerPixel": 2, "PixelData": bytes(48)}, "SamplesPerPixel is 2"),
    "colour of one sample": ({"PhotometricInterpretation": "YBR_FULL"}, "SamplesPerPixel is 1"),
    "grey of three": ({"SamplesPerPixel": 3, "PixelData": bytes(72)}, "SamplesPerPixel is 3"),
    "an unknown interpretation": ({"PhotometricInterpretation": "SECRET"}, "unknown PhotometricInterpretation"),
    "24 bits": ({"BitsAllocated": 24, "PixelData": bytes(72)}, "BitsAllocated is 24"),
    "more bits than there are": ({"BitsStored": 12}, "do not fit BitsAllocated"),
    "no rows": ({"Rows": 0}, "it has no voxels"),
    "rows missing": ({"Rows": MISSING}, r"rows \(0028\|0010\) is missing"),
    "no pixels": ({"PixelData": MISSING}, "no pixel data"),
    "frames in words": ({"NumberOfFrames": "-3"}, "NumberOfFrames is '-3'"),
    "frames without end": ({"NumberOfFrames": "999999999"}, "23999999976 bytes of voxels .* cannot hold"),
    "sides without end": ({"Rows": 65535, "Columns": 65535}, "4294836225 bytes of voxels .* cannot hold"),
    "packed without end": (
        {"Rows": 65535, "Columns": 65535, "syntax": JPEG2000Lossless, "PixelData": b"\xfe\xff\x00\xe0" + bytes(4)},
        r"cannot hold",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_headers_that_are_not_consistent(tmp_path, name):
    """They are listed like others, without GDCM, and refused by name."""
    changes, words = BROKEN[name]
    write(tmp_path / "bad.dcm", **changes)
    write(tmp_path / "good.dcm")
    items = load_datalist(tmp_path).items
    assert [item["scan_id"] for item in items] == ["bad.dcm", "good.dcm"]
    with pytest.raises(ScanError, match=rf"bad\.dcm: .*{words}"):
        read_header(items[0]["image"])
    with pytest.raises(ScanError, match=rf"bad\.dcm: .*{words}"):
        LoadScand()(items[0])


def test_a_bad_file_in_a_folder_is_left_out_with_a_word(tmp_path, messages):
    for index in range(3):
        write(tmp_path / "s" / f"{index}.dcm", SeriesInstanceUID=SERIES, ImagePositionPatient=[0, 0, index])
    write(tmp_path / "s" / "bad.dcm", SeriesInstanceUID=SERIES, SamplesPerPixel=2, ImagePositionPatient=[0, 0, 3])
    write(tmp_path / "other.dcm")
    items = load_datalist(tmp_path).items
    assert [Path(item["scan_id"]).name for item in items] == ["other.dcm", SERIES, "bad.dcm"]
    assert "1 DICOM files are no images that can be read: " in messages()
    dataset = ScanDataset(items[1:], [LoadScand(spatial_dims=3)], skip_bad=True, progress=False)
    assert dataset[0]["image"].shape == (1, 6, 4, 3)
    assert [name for name, _ in dataset.skipped] == ["s/bad.dcm"]


CRASHES_ONCE = """
import json, os, pathlib, sys
for line in sys.stdin:
    try:
        pathlib.Path(r"{flag}").touch(exist_ok=False)
    except FileExistsError:
        eye = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
        header = dict(shape=[1, 4, 6], dtype="|u1", components=1, direction=eye, spacing=[1] * 3, origin=[0] * 3)
        sys.stdout.write(json.dumps(header) + chr(10) + "".join(map(chr, range(24))))
        sys.stdout.flush()
    else:
        os.abort()
"""


def decoder(monkeypatch, program: Path, text: str) -> None:
    program.write_text(text)
    monkeypatch.setattr(itk_process, "_processes", {})
    monkeypatch.setattr(itk_process, "_PROGRAM", program)


def test_a_decoder_that_crashes_ends_one_scan_only(tmp_path, monkeypatch):
    decoder(monkeypatch, tmp_path / "decoder.py", CRASHES_ONCE.format(flag=tmp_path / "flag"))
    items = [{"image": str(write(tmp_path / name)), "scan_id": name} for name in ("a.dcm", "b.dcm", "c.dcm")]
    dataset = ScanDataset(items, [LoadScand()], skip_bad=True, progress=False)
    assert len(dataset) == 2
    assert dataset[1]["image"][0].T.tolist() == np.arange(24).reshape(4, 6).tolist()
    ((name, message),) = dataset.skipped
    assert name == "a.dcm"
    assert "the decoder crashed at it (SIGABRT)" in message
    itk_process._stop()


def test_a_decoder_that_hangs_is_stopped(tmp_path, monkeypatch):
    decoder(monkeypatch, tmp_path / "decoder.py", "import time\ntime.sleep(600)\n")
    monkeypatch.setattr(itk_process, "_SECONDS", 0.2)
    with pytest.raises(ScanError, match="no answer within 0 s, or too little memory"):
        LoadScand()({"image": str(write(tmp_path / "a.dcm"))})


def test_pixels_that_are_more_than_the_header_says_do_not_fill_the_memory(tmp_path, monkeypatch):
    """The picture inside of the fragments has a size of its own."""
    from PIL import Image, features

    if not features.check("jpg_2000"):
        pytest.skip("Pillow without JPEG 2000")
    packed = io.BytesIO()
    Image.new("L", (6000, 6000)).save(packed, "JPEG2000", no_jp2=True, irreversible=False)
    fragment = packed.getvalue() + b"\0" * (len(packed.getvalue()) % 2)
    item = b"\xfe\xff\x00\xe0"
    pixels = item + bytes(4) + item + len(fragment).to_bytes(4, "little") + fragment
    path = write(tmp_path / "a.dcm", syntax=JPEG2000Lossless, PixelData=pixels)
    monkeypatch.setattr(itk_process, "_ROOM", 2**26)
    with pytest.raises(ScanError, match=r"a\.dcm: .*(cannot be decoded|memory)"):
        LoadScand()({"image": str(path)})


def test_the_series_names_the_slice_that_cannot_be_decoded(tmp_path):
    for index in range(3):
        broken = index == 1
        write(
            tmp_path / "s" / f"{index}.dcm", SeriesInstanceUID=SERIES, ImagePositionPatient=[0, 0, index],
            syntax=JPEG2000Lossless if broken else "1.2.840.10008.1.2.1",
            PixelData=b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\x00\xe0\x04\0\0\0junk" if broken else bytes(24),
        )  # fmt: skip
    with pytest.raises(ScanError, match=r"s/1\.dcm: its pixels cannot be decoded"):
        LoadScand(spatial_dims=3)({"image": str(tmp_path / "s")})


def test_headers_without_a_mark_are_read(tmp_path):
    """Files of the time before the preamble."""
    content = write(tmp_path / "a.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    (tmp_path / "old.dcm").write_bytes(content[start:])
    assert read_header(tmp_path / "old.dcm").size == (6, 4, 1)
    shutil.copy(tmp_path / "old.dcm", tmp_path / "a.dcm")
    assert LoadScand()({"image": str(tmp_path / "a.dcm")})["image"].shape == (1, 6, 4)


def test_a_deflated_file_is_no_bomb(tmp_path, monkeypatch):
    path = write(tmp_path / "a.dcm", syntax="1.2.840.10008.1.2.1.99")
    assert dcmread(path).Rows == 4
    assert read_header(path).size == (6, 4, 1)
    monkeypatch.setattr("datasets.readers.dicom_header._INFLATED", 100)
    path = write(tmp_path / "b.dcm", syntax="1.2.840.10008.1.2.1.99")
    with pytest.raises(ScanError, match=r"b\.dcm: deflated from more than 100 bytes"):
        read_header(path)
