# SPDX-License-Identifier: Apache-2.0
"""Real but awkward files, one by one: each is read as it should be, or refused with words that help."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor

from datasets import LoadScand, ScanError, load_datalist
from datasets.decoding import read_scan, scan_dims
from datasets.readers.dicom_header import read_header


@dataclass(frozen=True)
class Reads:
    """The scan is read, turned to RAS+ if it is a volume, with these voxels, grey levels and voxel sizes."""

    shape: tuple[int, ...]
    grey: tuple[float, float]
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class Choose:
    """Several volumes in one file: refused, unless `frame` chooses one."""

    count: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Refuses:
    """A `ScanError` with these words."""

    words: tuple[str, ...]


ENDINGS: dict[str, Reads | Choose | Refuses] = {
    "example4d.nii.gz": Choose(2, (128, 96, 24)),
    "example_nifti2.nii.gz": Choose(2, (32, 20, 12)),
    "anatomical.nii": Reads((33, 41, 25), (-610, 30393), (2, 2, 2)),
    "resampled_anat_moved.nii": Refuses(("153 of 1071 voxels are NaN", "nan_to_num")),
    "functional.nii": Choose(20, (17, 21, 3)),
    "aniso_vox.nii.gz": Reads((58, 58, 24), (0, 2149), (4, 4, 5)),
    "small_64D.nii": Choose(65, (10, 10, 10)),
    "S0_10slices.nii.gz": Reads((128, 128, 10), (0, 4095), (2, 2, 53.14)),
    "example_ct_sm.nii.gz": Reads((122, 101, 30), (-1100, 1207), (3, 3, 3)),
    "example_seg.nii.gz": Reads((122, 101, 30), (0, 117), (3, 3, 3)),
    "example_ct.nii.gz": Reads((122, 101, 112), (-1207, 3382), (3, 3, 3)),
    "fmri_pitch.nii.gz": Reads((64, 64, 35), (0, 2210), (3.25, 3.25, 3.6)),
    "pcasl.nii.gz": Choose(10, (52, 68, 20)),
    "chris_MRA.nii.gz": Reads((200, 256, 120), (0, 254), (0.52, 0.52, 0.65)),
    "brain1_image.nrrd": Reads((256, 256, 25), (0, 3057), (0.78, 0.78, 6.5)),
    "brain1_label.nrrd": Reads((256, 256, 25), (0, 1), (0.78, 0.78, 6.5)),
    "breast1_image.nrrd": Reads((45, 120, 21), (6, 248), (0.66, 0.66, 2.1)),
    "breast1_label.nrrd": Reads((45, 120, 21), (0, 1), (0.66, 0.66, 2.1)),
    "prostate_phantom_subvolume.nrrd": Reads((82, 67, 13), (0, 2017), (0.5, 0.5, 3)),
    "prostate_phantom_subvolume-label.nrrd": Reads((82, 67, 13), (0, 9), (0.5, 0.5, 3)),
    "dcm_generic_anatomical_001": Reads((4, 256, 256), (0, 254), (1, 1, 1)),
    "dcm_generic_anatomical_002_non_isotropic": Reads((64, 28, 4), (33.44, 96.47), (6.4, 4, 0.5)),
    "dcm_generic_compressed_j2k_001": Reads((4, 256, 256), (0, 254), (1, 1, 1)),
    "dcm_generic_compressed_rle_001": Reads((4, 256, 256), (0, 254), (1, 1, 1)),
    "dcm_generic_rgb_001": Reads((52, 77, 4), (0, 255), (3, 3, 3)),
    "dcm_failing_gantrytilting_001": Refuses(("gantry tilt", "14.0 degrees", "dcm2niix")),
    "dcm_failing_sliceincrement_001": Refuses(("distance between slices is inconsistent", "5.00 to 10.00 mm")),
    "dcm_failing_notavolume_001": Refuses(("no volume", "several of the 4 images lie at one position")),
    "dcm_ge_anatomical_001_single_slice": Reads((256, 256), (0, 254), (1, 1)),
    "dcm_philips_enhanced_fmri_001": Refuses(("multi-frame", "32 frames may be slices, times or echoes", "dcm2niix")),
    "dcm_Study1_13_HCropVolume": Reads((35, 51, 32), (2, 154), (1, 1, 1)),
    "dcm_Study3_11-T1post-18670": Reads((280, 320, 22), (0, 2040), (0.69, 0.69, 6.5)),
    "CT_small.dcm": Reads((128, 128), (-896, 1167), (0.66, 0.66)),
    "MR_small.dcm": Reads((64, 64), (127, 2145), (0.31, 0.31)),
    "MR_small_RLE.dcm": Reads((64, 64), (127, 2145), (0.31, 0.31)),
    "MR_truncated.dcm": Refuses(("truncated", "Copy the file again")),
    "JPEG2000.dcm": Reads((256, 1024), (-30, 245), (2.26, 2.26)),
}

READ = [name for name, ending in ENDINGS.items() if isinstance(ending, Reads)]
VOLUMES = [name for name in READ if len(ENDINGS[name].shape) == 3]
SERIES = [name for name in VOLUMES if name.startswith("dcm_")]
LABELLED = {
    "example_ct_sm.nii.gz": "example_seg.nii.gz",
    "brain1_image.nrrd": "brain1_label.nrrd",
    "breast1_image.nrrd": "breast1_label.nrrd",
    "prostate_phantom_subvolume.nrrd": "prostate_phantom_subvolume-label.nrrd",
}


@pytest.fixture(scope="module")
def odd(data_root: Path) -> Path:
    return data_root / "odd3d"


def load(path: Path, **options: object) -> MetaTensor:
    """As a user would who asks `scan_dims` for the number of dimensions."""
    return LoadScand(spatial_dims=scan_dims(path), **options)({"image": str(path)})["image"]


def test_the_table_covers_every_file(odd: Path):
    with (odd / "manifest.csv").open(newline="") as stream:
        listed = [row["file"] for row in csv.DictReader(stream)]
    assert len(listed) == 37
    assert set(listed) == set(ENDINGS)
    assert {item["scan_id"] for item in load_datalist(odd).items} == set(ENDINGS)


@pytest.mark.parametrize("name", ENDINGS)
def test_each_file_ends_as_it_should(odd: Path, name: str, capfd: pytest.CaptureFixture[str]):
    ending = ENDINGS[name]
    if isinstance(ending, Reads):
        check_reading(load(odd / name), ending)
    elif isinstance(ending, Choose):
        check_choice(odd / name, ending)
    else:
        with pytest.raises(ScanError) as caught:
            load(odd / name)
        assert caught.value.path == str(odd / name)
        assert caught.value.remedy
        assert all(words in str(caught.value) for words in ending.words), str(caught.value)
    console = capfd.readouterr()
    assert console.out + console.err == ""  # neither ITK's C++ warnings nor anything else


def check_reading(scan: MetaTensor, ending: Reads) -> None:
    assert tuple(scan.shape) == (1, *ending.shape)
    assert scan.as_tensor().is_floating_point()
    assert (float(scan.min()), float(scan.max())) == pytest.approx(ending.grey, abs=0.01)
    sizes = nib.affines.voxel_sizes(scan.affine.numpy())[: len(ending.shape)]
    assert sizes == pytest.approx(ending.spacing, abs=0.01)
    if len(ending.shape) == 3:
        assert nib.aff2axcodes(scan.affine.numpy()) == ("R", "A", "S")


def check_choice(path: Path, ending: Choose) -> None:
    with pytest.raises(ScanError, match=f"4D with {ending.count} volumes; choose one with frame=0") as caught:
        load(path)
    assert caught.value.path == str(path)
    last = load(path, frame=ending.count - 1)
    assert tuple(last.shape) == (1, *ending.shape)
    expected = nib.as_closest_canonical(nib.load(path)).get_fdata()[..., -1]
    np.testing.assert_allclose(last[0].numpy(), expected, rtol=1e-5)
    with pytest.raises(ScanError, match=f"there is no frame {ending.count}"):
        load(path, frame=ending.count)


@pytest.mark.parametrize("name", [name for name in VOLUMES if ".nii" in name])
def test_nifti_is_turned_as_nibabel_turns_it(odd: Path, name: str):
    scan = load(odd / name)
    canonical = nib.as_closest_canonical(nib.load(odd / name))
    np.testing.assert_allclose(scan[0].numpy(), canonical.get_fdata().reshape(scan.shape[1:]), rtol=1e-5)
    np.testing.assert_allclose(scan.affine.numpy(), canonical.affine, atol=1e-4)


@pytest.mark.parametrize("name", SERIES)
def test_slices_of_a_series_lie_where_their_headers_say(odd: Path, name: str):
    scan = load(odd / name)
    origins = np.stack([read_header(str(file)).origin for file in (odd / name).iterdir()])
    places = nib.affines.apply_affine(np.linalg.inv(scan.affine.numpy()), origins * [-1, -1, 1])  # LPS+ to RAS+
    across = int(np.argmax(np.ptp(places, axis=0)))
    assert sorted(places[:, across]) == pytest.approx(range(len(places)), abs=0.02)
    within = np.delete(places, across, axis=1)
    corners = np.delete(scan.shape[1:], across) - 1
    assert (np.minimum(np.abs(within), np.abs(within - corners)) < 0.02).all()


@pytest.mark.parametrize(("name", "mask"), LABELLED.items())
def test_label_maps_keep_their_codes_and_their_place(odd: Path, name: str, mask: str):
    read = LoadScand(spatial_dims=3, label_keys="mask")({"image": str(odd / name), "mask": str(odd / mask)})
    assert read["mask"].shape == read["image"].shape
    assert not read["mask"].as_tensor().is_floating_point()
    np.testing.assert_allclose(read["mask"].affine, read["image"].affine, atol=1e-3)
    codes, counts = np.unique(read_scan(odd / mask).values, return_counts=True)
    found, found_counts = np.unique(read["mask"].numpy(), return_counts=True)
    assert (found.tolist(), found_counts.tolist()) == (codes.tolist(), counts.tolist())
    coarse = LoadScand(spatial_dims=3, label_keys="mask", spacing=4)(
        {"image": str(odd / name), "mask": str(odd / mask)}
    )
    assert coarse["mask"].shape == coarse["image"].shape
    assert set(np.unique(coarse["mask"].numpy())) <= set(codes)


def test_ct_is_in_hounsfield_units(odd: Path):
    values = load(odd / "example_ct.nii.gz").numpy()
    assert abs(float(np.median(values[values > -200]))) < 200  # soft tissue
    assert float((values < -900).mean()) > 0.1  # air


def test_compression_changes_nothing(odd: Path):
    np.testing.assert_array_equal(load(odd / "MR_small_RLE.dcm").numpy(), load(odd / "MR_small.dcm").numpy())
    jpeg2000, rle = (load(odd / f"dcm_generic_compressed_{name}_001") for name in ("j2k", "rle"))
    np.testing.assert_array_equal(jpeg2000.numpy(), rle.numpy())


def test_colour_dicom_gives_luminance_or_three_channels(odd: Path):
    grey, colour = (load(odd / "dcm_generic_rgb_001", channels=count).numpy() for count in (1, 3))
    assert colour.shape == (3, 52, 77, 4)
    assert np.abs(colour[0] - colour[2]).max() > 10
    np.testing.assert_allclose(grey[0], np.tensordot([0.299, 0.587, 0.114], colour, 1), atol=1e-2)


def test_one_frame_of_multi_frame_dicom_is_a_slice(odd: Path):
    path = str(odd / "dcm_philips_enhanced_fmri_001")
    first, last = (LoadScand(spatial_dims=2, frame=frame)({"image": path})["image"] for frame in (0, 31))
    assert tuple(first.shape) == tuple(last.shape) == (1, 64, 64)
    assert not np.array_equal(first.numpy(), last.numpy())


def test_volumes_are_no_slices_and_slices_no_volumes(odd: Path):
    with pytest.raises(ScanError, match=r"a volume of size \(58, 58, 24\), no slice.*--spatial_dims 3"):
        LoadScand(spatial_dims=2)({"image": str(odd / "aniso_vox.nii.gz")})
    with pytest.raises(ScanError, match=r"a single slice of size \(128, 128, 1\), no volume.*--spatial_dims 2"):
        LoadScand(spatial_dims=3)({"image": str(odd / "CT_small.dcm")})
