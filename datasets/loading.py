# SPDX-License-Identifier: Apache-2.0
"""From a path to a scan in memory: one orientation, one number of channels, or an error that names the file."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientation, Spacing

from datasets.errors import ScanError
from datasets.files import RawScan, read_file

logger = logging.getLogger(__name__)

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts colour to grey


class LoadScand(MapTransform):
    """Load scans as ``[channels, *spatial]`` float32 with affine; intensities are not rescaled (HU stays HU).

    - Volumes are turned to RAS+ (``orientation``) and, if asked, resampled. Pictures and single slices stay as they
      are: axis 0 points to the right of the picture, axis 1 down.
    - A last axis of length one is dropped. Series of volumes (4D, multi-frame) are refused unless ``frame`` picks one.
    - ``channels`` 1: colour becomes luminance; 3: grey is repeated.

    Args:
        keys: of the images; each entry is a path. ``series_uid`` beside it chooses a DICOM series of a folder.
        spatial_dims: 2 or 3.
        channels: 1 or 3.
        orientation: of volumes, three letters; None: as stored.
        spacing: voxel size in mm to resample volumes to; None: as stored.
        interpolation: of resampling.
        frame: which volume of a series of volumes.
        label_keys: of label maps: integer codes, nearest neighbour, same shape as the first image.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        ScanError: (when called) if a file cannot be read or does not have the asked-for form.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        spatial_dims: int = 2,
        channels: int = 1,
        orientation: str | None = "RAS",
        spacing: Sequence[float] | None = None,
        interpolation: str = "bilinear",
        frame: int | None = None,
        label_keys: KeysCollection = (),
        allow_missing_keys: bool = False,
    ) -> None:
        if spatial_dims not in (2, 3) or channels not in (1, 3):
            raise ValueError(f"spatial_dims is 2 or 3 and channels 1 or 3, got {spatial_dims} and {channels}.")
        super().__init__(keys, allow_missing_keys)
        self.label_keys = (label_keys,) if isinstance(label_keys, str) else tuple(label_keys)
        self.spatial_dims = spatial_dims
        self.channels = channels
        self.orientation = orientation if spatial_dims == 3 else None
        self.spacing = spacing if spatial_dims == 3 else None
        self.interpolation = interpolation
        self.frame = frame

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace paths by scans."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self._load(result[key], result.get("series_uid"), label=False)
        for key in self.label_keys:
            if key in result:
                result[key] = self._load(result[key], None, label=True)
                _require_same_shape(result[key], result[self.keys[0]])
        return result

    def _load(self, path: str | Path, series_uid: str | None, label: bool) -> MetaTensor:
        raw = read_file(path, series_uid)
        values = self._channels(self._frame(raw), raw, label)
        scan = MetaTensor(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)), affine=raw.affine)
        scan.meta["filename_or_obj"] = str(path)
        _check_values(scan, path)
        return self._regrid(scan, "nearest" if label else self.interpolation)

    def _frame(self, raw: RawScan) -> np.ndarray:
        """Return ``[*spatial, C]`` with as many spatial axes as asked for."""
        values, path = raw.values, raw.path
        if raw.frames > 1:
            if self.frame is None or not 0 <= self.frame < raw.frames:
                raise ScanError(path, f"a series of {raw.frames} volumes", f"Choose one: frame=0 to {raw.frames - 1}")
            values = values[..., self.frame, :]
        elif values.ndim == 5:
            values = values[..., 0, :]
        if values.ndim == 4 and self.spatial_dims == 2:
            if values.shape[2] > 1:
                raise ScanError(path, f"a volume of {values.shape[:3]} voxels, not a picture", "Use --spatial_dims 3")
            values = values[:, :, 0]
        if self.spatial_dims == 3 and (values.ndim == 3 or values.shape[2] == 1):
            raise ScanError(path, "a single slice, not a volume", "Use --spatial_dims 2")
        return values

    def _channels(self, values: np.ndarray, raw: RawScan, label: bool) -> np.ndarray:
        """Return ``[channels, *spatial]``."""
        found = values.shape[-1]
        first = np.moveaxis(values, -1, 0)
        if label or found == self.channels:
            return first[:1] if label else first
        if found == 1:
            return np.repeat(first, self.channels, axis=0)
        if found == 3:
            return np.tensordot(LUMINANCE, first, axes=1)[None]
        raise ScanError(raw.path, f"{found} channels", "Only grey (1) and colour (3) scans can be read")

    def _regrid(self, scan: MetaTensor, mode: str) -> MetaTensor:
        if self.orientation is not None:
            scan = Orientation(axcodes=self.orientation, labels=None)(scan)
        if self.spacing is not None:
            scan = Spacing(pixdim=self.spacing, mode=mode, padding_mode="border")(scan)
        scan.applied_operations = []  # the loaded scan is the reference of everything that follows
        return scan


def dimensions_of(item: Mapping[str, Any]) -> int:
    """Return 2 or 3: whether a datalist entry is a picture (or single slice) or a volume.

    Raises:
        ScanError: if it cannot be read.
    """
    values = read_file(item["image"], item.get("series_uid")).values
    return 3 if values.ndim >= 4 and values.shape[2] > 1 else 2


def _check_values(scan: MetaTensor, path: str | Path) -> None:
    if min(scan.shape) == 0:
        raise ScanError(path, f"no voxels, shape {tuple(scan.shape)}", "Remove the scan")
    if not torch.isfinite(scan).all():
        count = int((~torch.isfinite(scan)).sum())
        raise ScanError(path, f"{count} voxels are NaN or infinite", "Replace them, or remove the scan")
    if scan.min() == scan.max():
        logger.warning("%s: all voxels have the same value, %g.", path, float(scan.min()))


def _require_same_shape(label: MetaTensor, image: MetaTensor) -> None:
    if label.shape[1:] != image.shape[1:]:
        path, shapes = label.meta["filename_or_obj"], f"{tuple(label.shape[1:])} and {tuple(image.shape[1:])}"
        raise ScanError(path, f"label map and image differ in shape: {shapes}", "They must lie on one grid")
