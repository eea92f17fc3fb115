# SPDX-License-Identifier: Apache-2.0
"""Files of strangers: what they hold does not decide which other file is read, nor how much memory is taken."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from custom.regions import RegionStore
from datasets import LoadScand, ScanDataset, ScanError, load_datalist
from datasets.claims import MAX_VOXELS, bound_from, check_claim
from datasets.decoding import read_scan, scan_dims
from datasets.orientation import knows_sides

NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nendian: little\nencoding: raw\n"
VOXELS = np.arange(24, dtype="<i2").tobytes()


def load(path: Path, dims: int = 3, **options):
    return LoadScand(spatial_dims=dims, **options)({"image": str(path)})["image"]


def nrrd(path: Path, header: str = NRRD, voxels: bytes = VOXELS) -> Path:
    path.write_bytes(header.encode() + b"\n" + voxels)
    return path


# ------------------------------------------------------------------------------------------------- other files


@pytest.mark.parametrize(
    "line",
    [
        "data file: {secret}", "datafile: {secret}", "DATA FILE: {secret}", "Data File: ../secret.raw",
        "data file: secret.raw", "data file: LIST\n{secret}", "data file: %03d.raw 1 4 1", "data  file: {secret}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_detached_headers_are_refused(tmp_path, line, end):
    (tmp_path / "secret.raw").write_bytes(VOXELS)
    header = (NRRD + line.format(secret=tmp_path / "secret.raw") + "\n").replace("\n", end)
    (tmp_path / "D").mkdir()
    path = nrrd(tmp_path / "D" / "a.nrrd", header, b"")
    for read in (load, scan_dims, read_scan):
        with pytest.raises(ScanError, match=r"a\.nrrd: a detached header.*Save header and voxels in one"):
            read(path)


def test_an_attached_header_is_read_whatever_its_comments_say(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", NRRD + "# data file: elsewhere\nspace: RAS\n", VOXELS)
    path.write_bytes(path.read_bytes().replace(b"space: RAS", b"note:=data file: elsewhere"))
    assert load(path).shape == (1, 2, 3, 4)


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd", "a.mha", "a.hdr", "a.img"])
def test_formats_with_a_second_file_are_none_that_is_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"ObjectType = Image\nElementDataFile = /etc/passwd\n" + bytes(400))
    with pytest.raises(ScanError, match="not a format that is read"):
        load(tmp_path / name)


def test_pictures_are_png_or_jpeg_whatever_they_are_called(tmp_path):
    """Pillow knows formats by their content: EPS runs Ghostscript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ScanError, match=r"a\.png: it cannot be read \(UnidentifiedImageError"):
        load(tmp_path / "a.png", 2)


@pytest.mark.parametrize("kind", ["file", "folder", "above"])
@pytest.mark.parametrize(
    "layout", ["plain", "classes", "manifest", "manifest mask", "decathlon", "dicom", "coco", "list", "coco beside"]
)
def test_links_that_lead_out_are_refused_alike(make, tmp_path, layout, kind):
    """Wherever they are; the folder of the set may be a link itself, and links inside of it are files like others."""
    outside, real = tmp_path / "outside", tmp_path / "real"
    make.png(outside / "a.png")
    make.png(real / "x" / "own.png")
    (outside / "list.json").write_text('{"images": [], "annotations": []}')
    (outside / "manifest.csv").write_text("file,label,split\nx/own.png,a,train\n")
    root = tmp_path / "D"
    root.symlink_to(real)
    (real / "x" / "inside.png").symlink_to(real / "x" / "own.png")
    assert len(load_datalist(root).items) == 2
    target = {"file": outside / "a.png", "folder": outside, "above": Path("../../outside/a.png")}[kind]
    link = "x/out.png" if kind != "folder" else "x/out"
    (real / link).symlink_to(target)
    inner = link if kind != "folder" else "x/out/a.png"
    if layout == "manifest":
        make.manifest(real, f"{inner},a,train")
    if layout == "manifest mask":
        make.manifest(real, f"x/own.png,{inner},train", header="file,mask,split")
    if layout == "decathlon":
        (real / "dataset.json").write_text(f'{{"training": ["{inner}"]}}')
    if layout == "dicom":  # a folder that a list names
        make.manifest(real, "x,a,train")
    if layout == "list":
        (real / "manifest.csv").symlink_to(outside / "manifest.csv")
    if layout == "coco":
        (real / link).unlink()
        (real / "x" / "inside.json").symlink_to(outside / "list.json")
    if layout == "coco beside":
        make.manifest(real, "x/own.png,a,train")
        (real / "coco_train.json").symlink_to(outside / "list.json")
    with pytest.raises(ScanError, match="is a link that leaves the folder"):
        load_datalist(root, coco="x/inside.json" if layout == "coco" else None)


def test_region_maps_are_those_of_their_store(make, tmp_path):
    make.png(tmp_path / "secret.png")
    store = RegionStore(tmp_path / "regions", read_only=True)
    folder = tmp_path / "regions" / "maps" / "a.png"
    make.png(folder / "lung.png")
    assert store.load("a.png", "lung").shape == (4, 3)
    (folder / "lung.png").unlink()
    (folder / "lung.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="no readable region map"):
        store.load("a.png", "lung")


# ------------------------------------------------------------------------------------------------- sizes


def nifti(path: Path, shape=(1000, 1000, 1000), code=4, bits=16, offset=352.0, ndim=None, voxels=b"") -> Path:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, len(shape) if ndim is None else ndim, *shape, *([1] * (7 - len(shape))))
    struct.pack_into("<2h", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<f", header, 108, offset)
    header[344:348] = b"n+1\0"
    content = bytes(header) + voxels
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"shape": (32767,) * 7}, {"offset": 1e30}, {"offset": float("nan")}, {"offset": -9.0}, {"shape": (-4, 5, 6)},
     {"shape": (4, 0, 6)}, {"code": 0}, {"code": 9999}, {"ndim": 99}, {"ndim": -1}, {"offset": 1e6}],
)  # fmt: skip
def test_nifti_that_claims_what_it_cannot_hold(tmp_path, suffix, changes):
    path = nifti(tmp_path / f"a{suffix}", **{"shape": (1000, 1000, 1000) if not changes else (4, 5, 6), **changes})
    for read in (load, scan_dims, knows_sides):
        with pytest.raises(ScanError, match=rf"a\{suffix}: "):
            read(path)


def test_nrrd_that_claims_what_it_cannot_hold(tmp_path):
    sizes = NRRD.replace("2 3 4", "1000 1000 1000")
    cases = [sizes, sizes.replace("raw", "gzip"), sizes.replace("raw", "ascii"), NRRD.replace("2 3 4", "2 0 4"),
             NRRD.replace("2 3 4", "2 -3 4"), NRRD.replace("dimension: 3", "dimension: 4")]  # fmt: skip
    for header in [*cases, NRRD.replace("short", "block"), "NRRD0004\n" + "# x\n" * 300000]:
        for read in (load, scan_dims):
            with pytest.raises(ScanError, match=r"a\.nrrd: "):
                read(nrrd(tmp_path / "a.nrrd", header))


def png(path: Path, width: int, height: int, rows: int) -> Path:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    data = zlib.compress(bytes((width + 1) * rows))
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def test_pictures_that_claim_what_they_cannot_hold(tmp_path):
    with pytest.raises(ScanError, match=r"a\.png: .*truncated, or a wrong header: 160000000 bytes of voxels"):
        load(png(tmp_path / "a.png", 20000, 8000, 10), 2)
    with pytest.raises(ScanError, match=r"b\.png: .*DecompressionBomb"):
        load(png(tmp_path / "b.png", 60000, 60000, 1), 2)


def test_the_bound_on_voxels_is_an_option(make, tmp_path):
    assert MAX_VOXELS >= 512 * 512 * 2000, "a whole body"
    volume, picture = make.nifti(tmp_path / "a.nii.gz"), make.png(tmp_path / "a.png")
    for path, dims, size in ((volume, 3, 60), (picture, 2, 12), (nrrd(tmp_path / "a.nrrd"), 3, 24)):
        assert load(path, dims, max_voxels=size).numel() == size
        with pytest.raises(ScanError, match=rf"{size} voxels, more than the {size - 1} that are .*MWM_MAX_VOXELS"):
            load(path, dims, max_voxels=size - 1)
    with pytest.raises(ValueError, match="max_voxels must be positive"):
        LoadScand(max_voxels=0)


def test_a_bound_that_is_no_number_is_named():
    assert bound_from("2e9") == 2_000_000_000
    for text in ("much", "0", "-5", "inf", "nan", ""):
        with pytest.raises(ValueError, match=r"MWM_MAX_VOXELS .*must be a number of voxels"):
            bound_from(text)


def test_voxel_sizes_without_measure_make_no_volume_without_measure(make, tmp_path):
    path = make.nifti(tmp_path / "a.nii", affine=np.diag([1e6, 1e6, 1e6, 1]))
    with pytest.raises(ScanError, match=r"voxels, more than the .* that are read"):
        load(path, spacing=1.0)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_leaves_out_the_scan(make, tmp_path, monkeypatch, error):
    items = [{"image": str(make.png(tmp_path / name)), "scan_id": name} for name in ("a.png", "b.png")]

    def fails_once(self, path, raw, convert, original=LoadScand._in_space):
        if path.endswith("a.png"):
            raise error
        return original(self, path, raw, convert)

    monkeypatch.setattr(LoadScand, "_in_space", fails_once)
    with pytest.raises(ScanError, match=r"a\.png: it does not fit into the memory"):
        ScanDataset(items, [LoadScand()], progress=False)
    dataset = ScanDataset(items, [LoadScand()], skip_bad=True, progress=False)
    assert [name for name, _ in dataset.skipped] == ["a.png"]


def test_claims():
    check_claim("a", (10, 10), 100, 100)
    check_claim("a", (10, 10), 100, 1, "deflate")
    check_claim("a", (10, 10), 1e6, 1, "JPEG 2000")
    with pytest.raises(ScanError, match="101 bytes of voxels"):
        check_claim("a", (10, 10), 101, 100)
    with pytest.raises(ScanError, match=r"which the file's 10 \(deflate\) cannot hold"):
        check_claim("a", (10, 10), 1e6, 10, "deflate")
    with pytest.raises(ScanError, match=r"which the file's 10000 \(JPEG 2000\) cannot hold"):
        check_claim("a", (20000, 16000), 3.2e8, 10000, "JPEG 2000")


def peak(read, *arguments) -> float:
    """Bytes that a call takes at most beside what was there before."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")
    except OSError:
        pytest.skip("the peak of the memory cannot be reset here")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    before = int(fields["VmRSS"].split()[0])
    read(*arguments)
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * (int(fields["VmHWM"].split()[0]) - before)


def test_a_voxel_takes_about_what_it_takes_in_the_end(tmp_path):
    """4 bytes; before copies were released 14 of scaled volumes, 47 of colours, at the peak."""
    torch.zeros(1)
    values = np.zeros((256, 256, 256), np.int16)
    values[::7] = 3
    image = nib.Nifti1Image(values, np.diag([-1, -1, 1, 1]))
    image.header.set_slope_inter(2, -1000)
    nib.save(image, tmp_path / "a.nii")
    assert peak(load, tmp_path / "a.nii") / values.size < 11.5
    colours = np.zeros((4096, 4096, 3), np.uint8)
    colours[::5, ::3] = 200
    Image.fromarray(colours).save(tmp_path / "a.png", compress_level=1)
    assert peak(load, tmp_path / "a.png", 2) / 4096**2 < 14


def test_a_range_that_overflows_single_precision(make, tmp_path):
    values = np.zeros((4, 4, 4))
    values[0], values[1] = -3e38, 3e38
    with pytest.raises(ScanError, match=r"its range from -3e\+38 to 3e\+38 overflows single precision"):
        load(make.nifti(tmp_path / "a.nii", values))
    image = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    image.header.set_slope_inter(1e38, 0)
    nib.save(image, tmp_path / "b.nii")
    with pytest.raises(ScanError, match="60 of 64 voxels are NaN or infinite"):
        load(tmp_path / "b.nii")
