# SPDX-License-Identifier: Apache-2.0
"""`LoadScand`: from a path to a channel-first tensor in a known orientation, or an error that names the file."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientation, Spacing
from monai.utils import ensure_tuple

from datasets.claims import MAX_VOXELS, check_bound, running_out
from datasets.decoding import RawScan, read_scan
from datasets.errors import ScanError
from datasets.geometry import slice_axes
from datasets.readers.dicom import CONVERT, describing_tags

logger = logging.getLogger(__name__)

# A slice is turned as it is looked at: x towards the patient's left (or back), y towards the back (or feet). With the
# axis across the slice dropped, one code does this for axial, coronal and sagittal slices.
_SLICE_ORIENTATION = "LPI"
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow converts to grey
_TAGS = {"modality": "Modality", "body_part": "BodyPartExamined"}  # key of a scan's meta -> DICOM's name of the tag
_SKIP = "or leave the scan out (--skip_bad true)"
_TRAINED = "A trained model takes the kind of scans that it learnt from."


class LoadScand(MapTransform):
    """Read scans: path to ``MetaTensor[channels, *spatial]``, float32, with grey levels as stored.

    Volumes are turned to ``orientation``. Slices ``[X, Y]`` of a format that knows the patient (NIfTI, NRRD, DICOM)
    are turned as one looks at them: the patient's right, or front, at low x. Pictures (PNG, JPEG) are turned as their
    EXIF data says, x to the right and y down. ``meta["affine"]`` places the voxels (in-plane axes first for slices),
    ``meta["original_affine"]`` those of the file; `datasets.geometry.stored_to_memory` leads from these to the former.
    ``meta["modality"]`` and ``meta["body_part"]`` are the DICOM tags Modality and BodyPartExamined, or empty. Rules for
    the unusual:

    - 4D, vector and multi-frame files raise unless ``frame`` chooses one; axes of length 1 behind Z are dropped.
      Multi-frame DICOM is never a volume: ITK does not tell slices from times.
    - DICOM with inverted grey levels (MONOCHROME1) arrives turned over, bright for dense, as the rest.
    - Colour becomes luminance for one channel; grey is repeated for three; transparent parts become black.
    - A single slice is a 2D scan, never a volume; a volume is never a 2D scan.
    - NaN and infinite values raise; a constant image is logged as a warning.

    Args:
        keys: of the images, which hold paths. ``data["series_uid"]`` names the series where the path is a folder.
        spatial_dims: 2 or 3.
        channels: 1 or 3.
        orientation: axis codes of volumes; None leaves volumes and slices as they are stored.
        spacing: voxel size in millimetres, one number or one an axis; None keeps the scan's own.
        interpolation: of images when ``spacing`` asks for resampling: "bilinear" or "nearest".
        allow_missing_keys: whether data without some of the keys is passed on.
        label_keys: of label maps: int32, one channel, nearest neighbour, codes as stored. They are turned and resampled
            like the images, with whose shape and place theirs must agree.
        frame: which volume (or frame, component, counted from 0) of files that hold several.
        max_voxels: most voxels of a file, all its volumes included, and of a scan that ``spacing`` makes: headers of
            strangers may claim any size. The environment variable MWM_MAX_VOXELS sets the usual bound. A channel
            takes 4 bytes a voxel in the end, about twice that while it is read.

    Raises:
        ScanError: by the call, with the file, the problem and a remedy.
        ValueError: arguments out of range.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        spatial_dims: int = 2,
        channels: int = 1,
        orientation: str | None = "RAS",
        spacing: float | Sequence[float] | None = None,
        interpolation: str = "bilinear",
        allow_missing_keys: bool = False,
        label_keys: KeysCollection | None = None,
        frame: int | None = None,
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, received {spatial_dims!r}.")
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (colour), received {channels!r}.")
        if frame is not None and frame < 0:
            raise ValueError(f"frame counts from 0, received {frame!r}.")
        if not max_voxels > 0:
            raise ValueError(f"max_voxels must be positive, received {max_voxels!r}.")
        self.spatial_dims, self.channels, self.frame = spatial_dims, channels, frame
        self.max_voxels = int(max_voxels)
        self.spacing = _full_spacing(spacing, spatial_dims)
        self.interpolation = interpolation
        self.label_keys: tuple[Hashable, ...] = ensure_tuple(label_keys) if label_keys is not None else ()
        axes = orientation if spatial_dims == 3 else orientation and _SLICE_ORIENTATION
        self.turn = Orientation(axcodes=axes, labels=(("L", "R"), ("P", "A"), ("I", "S"))) if axes else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with its paths replaced by tensors."""
        result = dict(data)
        reference: MetaTensor | None = None
        for key in self.key_iterator(result):
            path, uid = result[key], result.get("series_uid")
            with running_out(path):
                stored = self._in_space(path, read_scan(path, uid, max_voxels=self.max_voxels), self._image_values)
                reference = stored if self.label_keys and reference is None else reference
                result[key] = self._finish(path, stored, self.interpolation).float()
            result[key].meta.update(_tags(path, uid))
        for key in self.label_keys:
            if key not in result and self.allow_missing_keys:
                continue
            path = result[key]
            with running_out(path):
                raw = read_scan(path, codes=True, max_voxels=self.max_voxels)
                stored = self._in_space(path, raw, _label_values)
                if reference is not None:
                    _check_agreement(path, stored, reference)
                result[key] = self._finish(path, stored, "nearest").round().to(torch.int32)
        return result

    def _in_space(self, path: str, raw: RawScan, convert: Any) -> MetaTensor:
        """Check the scan and return it as ``[C, X, Y, Z]``, oriented."""
        raw = self._one_frame(path, raw)
        self._check_dims(path, raw.values.shape)
        values = torch.from_numpy(convert(path, raw))
        affine = np.eye(4) if raw.affine is None else raw.affine
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ScanError(path, "its header gives no usable affine", f"Repair the header, {_SKIP}.")
        meta = {
            "filename_or_obj": str(path),
            "original_affine": torch.as_tensor(affine.copy()),
            "spatial_shape": np.asarray(values.shape[1:]),
            "placed": raw.affine is not None,
        }
        scan = MetaTensor(values, affine=torch.as_tensor(affine), meta=meta)
        return scan if raw.affine is None or self.turn is None else cast(MetaTensor, self.turn(scan))

    def _one_frame(self, path: str, raw: RawScan) -> RawScan:
        """Choose one of several volumes or frames."""
        if not raw.frames_in_z and (raw.colour or raw.values.ndim == 3):
            return raw
        count = raw.values.shape[2 if raw.frames_in_z else -1]
        if raw.frames_in_z and self.spatial_dims == 3:
            raise ScanError(path, f"multi-frame DICOM: its {count} frames may be slices, times or echoes", CONVERT)
        kind = f"multi-frame DICOM with {count} frames" if raw.frames_in_z else f"4D with {count} volumes"
        if self.frame is None or self.frame >= count:
            choice = "choose one with frame=0" if self.frame is None else f"there is no frame {self.frame}"
            raise ScanError(path, f"{kind}; {choice}", f"Set `frame` of LoadScand to 0..{count - 1}, or split the file")
        values = raw.values[:, :, [self.frame]] if raw.frames_in_z else raw.values[..., self.frame]
        return RawScan(values, raw.affine, raw.colour)

    def _check_dims(self, path: str, shape: tuple[int, ...]) -> None:
        sides = shape[:3]
        if min(sides) < 1:
            raise ScanError(path, f"it has no voxels: its size is {sides}", f"Export it again, {_SKIP}.")
        single = sum(side == 1 for side in sides)
        if self.spatial_dims == 3 and single:
            raise ScanError(
                path, f"a single slice of size {sides}, no volume", f"Set --spatial_dims 2 for slices. {_TRAINED}"
            )
        if self.spatial_dims == 2 and not single:
            raise ScanError(
                path, f"a volume of size {sides}, no slice", f"Set --spatial_dims 3 for volumes. {_TRAINED}"
            )
        if single > 1:
            raise ScanError(path, f"a line of voxels of size {sides}, no scan", "Leave it out (--skip_bad true).")

    def _image_values(self, path: str, raw: RawScan) -> np.ndarray:
        """Return ``[C, X, Y, Z]`` float32 with as many channels as asked for."""
        if np.iscomplexobj(raw.values):
            raise ScanError(path, "its values are complex numbers", "Save the magnitude as the image.")
        with np.errstate(over="ignore"):  # what overflows is infinite, and counted next
            values = raw.values if raw.colour else raw.values.astype(np.float32, copy=False)
        low, high = values.min(), values.max()
        if not (np.isfinite(low) and np.isfinite(high)):  # the least of numbers among which is NaN is NaN
            broken = int(values.size - np.isfinite(values).sum())
            problem = f"{broken} of {values.size} voxels are NaN or infinite"
            raise ScanError(path, problem, f"Replace them (numpy.nan_to_num), {_SKIP}.")
        if float(high) - float(low) > np.finfo(np.float32).max:
            problem = f"its range from {low:g} to {high:g} overflows single precision"
            raise ScanError(path, problem, f"Scale it, {_SKIP}.")
        if low == high:
            logger.warning("%s: constant image, every voxel is %g", path, values.flat[0])
        if raw.colour and self.channels == 1:
            return _luminance(values)[None]
        if raw.colour:
            return np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32)
        return values[None] if self.channels == 1 else np.repeat(values[None], self.channels, axis=0)

    def _finish(self, path: str, scan: MetaTensor, mode: str) -> MetaTensor:
        """Resample, drop the axis across a slice and leave a clean record."""
        if self.spacing is not None:
            scan = self._resample(path, scan, mode)
        affine = scan.affine
        meta = {key: scan.meta[key] for key in ("filename_or_obj", "original_affine", "spatial_shape")}
        if self.spatial_dims == 2:
            across = list(scan.shape[1:]).index(1)
            order = slice_axes(across)
            # MONAI's 2D transforms read the plane from the upper left corner: a slice's own axes come first there.
            scan, affine = cast(MetaTensor, scan.squeeze(across + 1)), affine[order][:, order]
            meta["across"] = across
        return MetaTensor(scan.as_tensor().contiguous(), affine=affine, meta={**meta, "space": "RAS"})

    def _resample(self, path: str, scan: MetaTensor, mode: str) -> MetaTensor:
        if not scan.meta["placed"]:
            raise ScanError(path, "a picture has no voxel size to resample from", "Leave `spacing` unset for pictures.")
        sizes = list(self.spacing or ())
        if self.spatial_dims == 2:
            across = list(scan.shape[1:]).index(1)
            sizes.insert(across, float(scan.pixdim[across]))
        check_bound(path, np.array(scan.shape[1:]) * scan.pixdim.numpy() / sizes, self.max_voxels)
        return cast(MetaTensor, Spacing(pixdim=sizes, mode=mode, padding_mode="border")(scan))


def _tags(path: str, series_uid: str | None) -> dict[str, str]:
    """What a DICOM scan says of itself; empty texts where it says nothing, and for other formats."""
    found = describing_tags(path, series_uid)
    return {key: found.get(name, "") for key, name in _TAGS.items()}


def _luminance(values: np.ndarray) -> np.ndarray:
    """Grey levels ``[X, Y, Z]``, float32, of colours ``[X, Y, Z, 3]``, by parts: in double precision, as a whole, they
    take ten times the memory of the result."""
    grey = np.empty(values.shape[:3], np.float32)
    for parts, result in zip(np.moveaxis(values, 1, 0), np.moveaxis(grey, 1, 0), strict=True):
        result[...] = parts.astype(np.float32, copy=False) @ _LUMINANCE
    return grey


def _full_spacing(spacing: float | Sequence[float] | None, spatial_dims: int) -> tuple[float, ...] | None:
    if spacing is None:
        return None
    sizes = ensure_tuple(spacing)
    sizes = sizes * spatial_dims if len(sizes) == 1 else sizes
    if len(sizes) != spatial_dims or not all(0 < float(size) < np.inf for size in sizes):
        raise ValueError(f"spacing must be one or {spatial_dims} positive millimetres, received {spacing!r}.")
    return tuple(float(size) for size in sizes)


def _label_values(path: str, raw: RawScan) -> np.ndarray:
    """Return ``[1, X, Y, Z]``, float32, whose values are whole numbers."""
    remedy = "Save label maps as one channel of whole numbers (PNG or NIfTI)."
    if raw.colour:
        raise ScanError(path, "a label map in colour", remedy)
    if str(path).lower().endswith((".jpg", ".jpeg")):
        raise ScanError(path, "a label map as JPEG, which changes the codes", remedy)
    values = raw.values.astype(np.float32, copy=False)
    if not np.isfinite(values).all() or np.abs(values - np.rint(values)).max() > 1e-3:
        raise ScanError(path, "the values of the label map are no whole numbers", remedy)
    return np.rint(values)[None]


def _check_agreement(path: str, label: MetaTensor, image: MetaTensor) -> None:
    """Raise unless a label map covers its image, voxel by voxel."""
    name = image.meta["filename_or_obj"]
    if label.shape[1:] != image.shape[1:]:
        sizes = f"{tuple(label.shape[1:])} is not the image's {tuple(image.shape[1:])}"
        raise ScanError(path, f"the label map's size {sizes} ({name})", "Resample it onto the image.")
    if not (label.meta["placed"] and image.meta["placed"]):
        return
    corners = np.stack([*np.indices((2, 2, 2)).reshape(3, -1) * (np.array(image.shape[1:])[:, None] - 1), np.ones(8)])
    shift = np.linalg.norm(((label.affine - image.affine).numpy() @ corners)[:3], axis=0).max()
    if shift > float(image.pixdim.min()):
        problem = f"the label map lies {shift:.1f} mm from its image ({name})"
        raise ScanError(path, problem, "Save it with the affine of the image.")
