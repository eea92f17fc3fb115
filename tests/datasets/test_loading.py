# SPDX-License-Identifier: Apache-2.0
"""LoadScand: known voxels in known places, and an error for every kind of bad file."""

from __future__ import annotations

import gzip
import pickle
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from datasets import LoadScand, ScanError


def load(path, **options):
    return LoadScand(**options)({"image": str(path)})["image"]


def load_3d(path, **options):
    return load(path, spatial_dims=3, **options)


# ------------------------------------------------------------------------------------------------------- pictures


def test_pictures_are_x_right_y_down_and_not_rescaled(make, tmp_path):
    scan = load(make.png(tmp_path / "a.png"))
    assert isinstance(scan, MetaTensor)
    assert scan.dtype == torch.float32
    assert scan.shape == (1, 4, 3)
    assert scan[0, 1, 2] == 2 * 4 + 1
    assert scan.meta["filename_or_obj"] == str(tmp_path / "a.png")


def test_sixteen_bits_stay(make, tmp_path):
    values = np.array([[0, 40000], [65535, 7]], dtype=np.uint16)
    assert load(make.png(tmp_path / "a.png", values))[0].T.tolist() == values.tolist()


def test_colour_to_grey_and_grey_to_colour(make, tmp_path):
    colour = np.zeros((2, 2, 3), dtype=np.uint8)
    colour[0, 1] = (255, 0, 0)
    colour[1, 0] = (10, 10, 10)
    path = make.png(tmp_path / "a.png", colour)
    assert load(path)[0, 1, 0] == pytest.approx(0.299 * 255)
    assert load(path)[0, 0, 1] == pytest.approx(10), "grey content keeps its value"
    assert load(path, channels=3)[:, 1, 0].tolist() == [255, 0, 0]
    grey = load(make.png(tmp_path / "b.png"), channels=3)
    assert grey.shape == (3, 4, 3)
    assert torch.equal(grey[0], grey[2])


def test_transparency_palette_and_bilevel(make, tmp_path):
    values = np.full((2, 2, 4), 200, dtype=np.uint8)
    values[0, 0, 3], values[1:, :, 3], values[0, 1, 3] = 0, 255, 255
    scan = load(make.png(tmp_path / "rgba.png", values))
    assert scan[0, 0, 0] == 0
    assert scan[0, 1, 1] == pytest.approx(200)
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    picture = picture.resize((4, 4), 0)
    picture.putpalette([9, 9, 9, 0, 0, 255])
    picture.save(tmp_path / "palette.png")
    assert load(tmp_path / "palette.png", channels=3)[:, 3, 0].tolist() == [0, 0, 255]
    assert load(tmp_path / "palette.png")[0, 0, 0] == pytest.approx(9)
    Image.fromarray(np.eye(3, dtype=bool)).save(tmp_path / "bits.png")
    assert load(tmp_path / "bits.png")[0].tolist() == (np.eye(3) * 255).tolist()


# ------------------------------------------------------------------------------------------------- volumes and slices


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_volumes_are_turned_to_ras(tmp_path, codes, byte_order):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    stored = nib.Nifti1Image(values, np.diag([2, 3, 4, 1.0])).as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    )
    header = nib.Nifti1Header(endianness=byte_order)
    header.set_data_dtype(np.dtype(np.int16).newbyteorder(byte_order))
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj).astype(np.int16), stored.affine, header), tmp_path / "a.nii")
    scan = load_3d(tmp_path / "a.nii")
    assert scan[0].tolist() == values.tolist()
    assert torch.allclose(scan.affine, torch.diag(torch.tensor([2, 3, 4, 1.0], dtype=torch.float64)))
    kept = load_3d(tmp_path / "a.nii", orientation=None)
    assert kept.shape[1:] == stored.shape


def test_int32_and_scaled_values(make, tmp_path):
    values = np.arange(-60, 60, 2, dtype=np.int32).reshape(5, 4, 3)
    assert load_3d(make.nifti(tmp_path / "a.nii.gz", values)).min() == -60
    image = nib.Nifti1Image(np.full((2, 2, 2), 3, np.int16) * np.arange(2, dtype=np.int16), np.eye(4))
    image.header.set_slope_inter(2, -1000)
    nib.save(image, tmp_path / "b.nii")
    assert load_3d(tmp_path / "b.nii").unique().tolist() == [-1000, -994]


def test_slices_are_turned_as_one_looks_at_them(make, tmp_path):
    ramp = np.arange(12, dtype=np.int16).reshape(4, 3)
    axial = load(make.nifti(tmp_path / "axial.nii", ramp[:, :, None]))  # RAS: x to the right, y to the front
    assert axial[0].tolist() == ramp[::-1, ::-1].tolist()
    coronal = load(make.nifti(tmp_path / "coronal.nii", ramp[:, None, :], np.diag([1, 2, 3, 1.0])))
    assert coronal[0].tolist() == ramp[::-1, ::-1].tolist(), "patient's right at low x, head at low y"
    assert coronal.pixdim.tolist() == [1, 3]
    flat = load(make.nifti(tmp_path / "flat.nii", ramp, np.diag([-1, -1, 1, 1.0])))
    assert flat[0].tolist() == ramp.tolist()
    assert load(tmp_path / "axial.nii", orientation=None)[0].tolist() == ramp.tolist()


def test_resampling(make, tmp_path):
    values = np.repeat(np.arange(10, dtype=np.int16)[:, None, None], 6, 1).repeat(4, 2)
    path = make.nifti(tmp_path / "a.nii", values, np.diag([1, 2, 3, 1.0]))
    scan = load_3d(path, spacing=[2, 2, 3])
    assert scan.shape[1] in (5, 6)
    assert scan[0, :5, 3, 2].tolist() == pytest.approx([0, 2, 4, 6, 8], abs=0.01)
    assert load_3d(path, spacing=1.0).shape[1:] == (10, 11, 10)
    flat = load(make.nifti(tmp_path / "b.nii", values[:, :1], np.diag([1, 2, 3, 1.0])), spacing=1.5)
    assert flat.pixdim.tolist() == pytest.approx([1.5, 1.5])
    with pytest.raises(ScanError, match="a picture has no voxel size"):
        load(make.png(tmp_path / "c.png"), spacing=1.0)


def test_several_volumes_need_a_choice(make, tmp_path):
    values = np.stack([np.full((4, 4, 4), index, np.int16) for index in range(3)], -1)
    values[0, 0, 0] += 50
    path = make.nifti(tmp_path / "a.nii", values)
    with pytest.raises(ScanError, match=r"4D with 3 volumes; choose one with frame=0\. Set `frame` .* 0\.\.2"):
        load_3d(path)
    assert load_3d(path, frame=2).max() == 52
    with pytest.raises(ScanError, match="there is no frame 3"):
        load_3d(path, frame=3)
    assert load_3d(make.nifti(tmp_path / "b.nii", values[..., :1])).shape == (1, 4, 4, 4)
    assert load_3d(make.nifti(tmp_path / "c.nii", values[:, :, :, None, :]), frame=1).shape == (1, 4, 4, 4)


def test_colour_volumes(tmp_path):
    values = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    values["G"][0, 0, 0] = 100
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    assert load_3d(tmp_path / "a.nii", channels=3)[:, 0, 0, 0].tolist() == [0, 100, 0]
    assert load_3d(tmp_path / "a.nii")[0, 0, 0, 0] == pytest.approx(58.7)


def test_slices_are_no_volumes_and_volumes_no_slices(make, tmp_path):
    with pytest.raises(ScanError, match=r"a single slice of size \(4, 3, 1\), no volume\. Set --spatial_dims 2"):
        load_3d(make.nifti(tmp_path / "a.nii", np.ones((4, 3, 1), np.int16)))
    with pytest.raises(ScanError, match=r"single slice.*--spatial_dims 2"):
        load_3d(make.png(tmp_path / "a.png"))
    with pytest.raises(ScanError, match=r"a volume of size \(5, 4, 3\), no slice\. Set --spatial_dims 3"):
        load(make.nifti(tmp_path / "b.nii"))
    with pytest.raises(ScanError, match="a line of voxels"):
        load(make.nifti(tmp_path / "c.nii", np.ones((4, 1, 1), np.int16)))


@pytest.mark.parametrize(("space", "sign"), [("left-posterior-superior", -1), ("right-anterior-superior", 1)])
def test_nrrd_written_by_hand(tmp_path, space, sign):
    values = np.arange(24, dtype="<i2").reshape(4, 3, 2)  # z, y, x
    header = f"""NRRD0004
type: short
dimension: 3
space: {space}
sizes: 2 3 4
space directions: (2,0,0) (0,1,0) (0,0,3)
space origin: (10,20,30)
kinds: domain domain domain
endian: little
encoding: raw

"""
    (tmp_path / "a.nrrd").write_bytes(header.encode() + values.tobytes())
    scan = load_3d(tmp_path / "a.nrrd")
    assert scan[0].tolist() == values.transpose(2, 1, 0)[::sign, ::sign].tolist()
    first = [10, 20, 30] if sign > 0 else [-10 - 2, -20 - 2, 30]  # of the voxel at the left, back and bottom
    assert scan.affine.tolist() == [[2, 0, 0, first[0]], [0, 1, 0, first[1]], [0, 0, 3, first[2]], [0, 0, 0, 1]]


def test_nrrd(tmp_path, make):
    itk = pytest.importorskip("itk")
    values = np.arange(24, dtype=np.int16).reshape(4, 3, 2)  # z, y, x
    image = itk.image_from_array(values)
    image.SetSpacing([1.0, 2.0, 3.0])
    itk.imwrite(image, str(tmp_path / "a.nrrd"))
    scan = load_3d(tmp_path / "a.nrrd")
    assert scan[0].tolist() == values.transpose(2, 1, 0)[::-1, ::-1].tolist(), "stored LPS"
    assert scan.pixdim.tolist() == [1, 2, 3]
    itk.imwrite(itk.image_from_array(values[0]), str(tmp_path / "b.nrrd"))
    assert load(tmp_path / "b.nrrd").shape == (1, 2, 3)
    (tmp_path / "c.nrrd").write_bytes((tmp_path / "a.nrrd").read_bytes()[:-20])
    with pytest.raises(ScanError, match=r"c\.nrrd: it cannot be read"):
        load_3d(tmp_path / "c.nrrd")


# --------------------------------------------------------------------------------------------------------- bad files


def test_damaged_files_are_named_with_a_remedy(make, tmp_path):
    rng = np.random.default_rng(0)
    picture = make.png(tmp_path / "a.png", rng.integers(0, 255, (40, 40), dtype=np.uint8))
    photo = make.png(tmp_path / "a.jpg", rng.integers(0, 255, (40, 40), dtype=np.uint8))
    volume = make.nifti(tmp_path / "a.nii", rng.integers(0, 999, (9, 9, 9), dtype=np.int16))
    packed = make.nifti(tmp_path / "a.nii.gz", rng.integers(0, 999, (9, 9, 9), dtype=np.int16))
    for path in (picture, photo, volume, packed):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        dims = 3 if ".nii" in path.name else 2
        with pytest.raises(ScanError, match=rf"{path.name}: it cannot be read .*Copy the file again"):
            load(path, spatial_dims=dims)
        path.write_bytes(b"")
        with pytest.raises(ScanError, match=rf"{path.name}: the file is empty"):
            load(path, spatial_dims=dims)
        path.unlink()
        with pytest.raises(ScanError, match=rf"{path.name}: the file does not exist"):
            load(path, spatial_dims=dims)


@pytest.mark.parametrize(
    ("made", "named", "words"),
    [
        ("a.png", "b.nii.gz", "named as compressed NIfTI, but its content is PNG or JPEG. Rename it"),
        ("a.nii", "b.nii.gz", "named as compressed NIfTI, but its content is NIfTI"),
        ("a.nii.gz", "b.nii", "named as NIfTI, but its content is gzip"),
        ("a.nii", "b.png", "named as PNG or JPEG, but its content is NIfTI"),
        ("a.png", "b.dcm", "named as DICOM, but its content is PNG or JPEG"),
        ("a.png", "b.tif", r"not a format that is read\. Accepted are"),
    ],
)
def test_wrong_extensions(make, tmp_path, made, named, words):
    path = make.png(tmp_path / made) if made.endswith("png") else make.nifti(tmp_path / made)
    shutil.copy(path, tmp_path / named)
    with pytest.raises(ScanError, match=words):
        load(tmp_path / named, spatial_dims=3)


def test_text_in_disguise_and_png_named_jpg(make, tmp_path):
    for name in ("a.png", "a.nii", "a.nrrd", "a.dcm"):
        (tmp_path / name).write_text("this is no scan " * 50)
        with pytest.raises(ScanError, match=name):
            load(tmp_path / name)
    with gzip.open(tmp_path / "a.nii.gz", "wb") as stream:
        stream.write(b"this is no scan " * 50)
    with pytest.raises(ScanError, match=r"a\.nii\.gz: it cannot be read"):
        load_3d(tmp_path / "a.nii.gz")
    shutil.copy(make.png(tmp_path / "b.png"), tmp_path / "b.jpg")
    assert load(tmp_path / "b.jpg").shape == (1, 4, 3), "pictures are known by their content"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(make, tmp_path, value):
    values = np.ones((4, 4, 4), np.float32)
    values[1, 2, :2] = value
    with pytest.raises(ScanError, match=r"2 of 64 voxels are NaN or infinite\. Replace them .*--skip_bad true"):
        load_3d(make.nifti(tmp_path / "a.nii", values))


def test_values_beyond_single_precision_and_complex_ones(make, tmp_path):
    values = np.ones((4, 4, 4))
    values[0] = 1e300
    with pytest.raises(ScanError, match="16 of 64 voxels"):
        load_3d(make.nifti(tmp_path / "a.nii", values))
    with pytest.raises(ScanError, match="complex"):
        load_3d(make.nifti(tmp_path / "b.nii", np.ones((4, 4, 4), np.complex64)))


def test_no_voxels_and_no_affine(make, tmp_path):
    with pytest.raises(ScanError, match=r"a\.nii"):
        load_3d(make.nifti(tmp_path / "a.nii", np.ones((0, 4, 4), np.int16)))
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.int16), None)
    image.header.set_sform(np.diag([1, 0, 1, 1.0]), code=1)
    nib.save(image, tmp_path / "b.nii")
    with pytest.raises(ScanError, match="no usable affine"):
        load_3d(tmp_path / "b.nii")


def test_a_constant_image_is_worth_a_warning(make, tmp_path, messages):
    load(make.png(tmp_path / "a.png", np.full((4, 4), 7, np.uint8)))
    assert "a.png: constant image, every voxel is 7" in messages()


# -------------------------------------------------------------------------------------------------------- label maps


def test_label_maps_follow_their_image_and_keep_their_codes(make, tmp_path):
    affine = np.diag([-1, 1, 2, 1.0])
    codes = np.zeros((6, 5, 4), np.int16)
    codes[4:, :2, 1:] = 117
    item = {
        "image": str(make.nifti(tmp_path / "a.nii", codes * 2, affine)),
        "mask": str(make.nifti(tmp_path / "m.nii", codes.astype(np.float64), affine)),
    }
    result = LoadScand(spatial_dims=3, label_keys="mask")(item)
    assert result["mask"].dtype == torch.int32
    assert torch.equal(result["image"], result["mask"].float() * 2)
    resampled = LoadScand(spatial_dims=3, label_keys="mask", spacing=0.7)(item)
    assert resampled["image"].shape == resampled["mask"].shape
    assert resampled["mask"].unique().tolist() == [0, 117]


def test_label_maps_of_pictures_and_missing_ones(make, tmp_path):
    item = {"image": str(make.png(tmp_path / "a.png"))}
    with pytest.raises(KeyError):
        LoadScand(label_keys="mask")(item)
    assert set(LoadScand(label_keys="mask", allow_missing_keys=True)(item)) == {"image"}
    picture = Image.fromarray(np.eye(3, 4, dtype=np.uint8) * 2).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.putdata((np.eye(3, 4, dtype=int) * 2).ravel().tolist())
    picture.save(tmp_path / "m.png")
    mask = LoadScand(label_keys="mask")({**item, "mask": str(tmp_path / "m.png")})["mask"]
    assert mask[0].T.tolist() == (np.eye(3, 4) * 2).tolist(), "indices of the palette, not its colours"


@pytest.mark.parametrize(
    ("name", "values", "affine", "words"),
    [
        ("m.nii", np.ones((5, 4, 2)), None, r"size \(5, 4, 2\) is not the image's \(5, 4, 3\) .*a\.nii"),
        ("m.nii", np.full((5, 4, 3), 0.5), None, "no whole numbers"),
        ("m.nii", np.full((5, 4, 3), np.nan), None, "no whole numbers"),
        ("m.nii", np.ones((5, 4, 3)), np.diag([-1, 1, 1, 1.0]), "lies .* mm from its image"),
    ],
)
def test_label_maps_that_do_not_fit(make, tmp_path, name, values, affine, words):
    item = {"image": str(make.nifti(tmp_path / "a.nii")), "mask": str(make.nifti(tmp_path / name, values, affine))}
    with pytest.raises(ScanError, match=words) as caught:
        LoadScand(spatial_dims=3, label_keys="mask")(item)
    assert caught.value.path.endswith(name)


def test_label_maps_in_colour_or_jpeg(make, tmp_path):
    image = str(make.png(tmp_path / "a.png"))
    for name, values in (("m.png", np.zeros((3, 4, 3), np.uint8)), ("m.jpg", np.zeros((3, 4), np.uint8))):
        with pytest.raises(ScanError, match="Save label maps as one channel"):
            LoadScand(label_keys="mask")({"image": image, "mask": str(make.png(tmp_path / name, values))})


# -------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, received 1"),
        ({"channels": 2}, "channels must be 1 .* or 3 .*, received 2"),
        ({"spacing": [1, 1, 1]}, "one or 2 positive millimetres"),
        ({"spacing": 0}, "positive millimetres"),
        ({"frame": -1}, "frame counts from 0"),
    ],
)
def test_arguments_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        LoadScand(**options)


def test_errors_travel_between_processes():
    error = ScanError("a/b.nii", "it is empty", "Copy it again")
    again = pickle.loads(pickle.dumps(error))
    assert str(ScanError("a worker's message")) == "a worker's message", "how a DataLoader rebuilds it"
    assert (str(again), again.path, again.remedy) == (
        "a/b.nii: it is empty. Copy it again.",
        "a/b.nii",
        "Copy it again",
    )
