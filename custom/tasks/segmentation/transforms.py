# SPDX-License-Identifier: Apache-2.0
"""Predictions as MONAI's transforms hand them on: on the voxels of the scan's file."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SaveImaged

from custom.tasks.segmentation.geometry import ScanGrid, resampled
from custom.tasks.segmentation.saving import write_label_map
from datasets.formats import format_by_name
from datasets.geometry import stored_to_memory


class ToFileGridd(MapTransform):
    """Bring a network's maps to the voxels of the scan's file, linearly; zero where the network saw nothing.

    What was done to the scan (turned upright, resampled, cropped, scaled, padded) is in its affine, which leads back in
    one step. The result has the file's affine and name.

    Args:
        keys: of the maps ``[K, *spatial]``, on the grid of the image.
        image_key: of what the network was shown, ``[C, *spatial]``, read by :class:`datasets.LoadScand`.
        allow_missing_keys: whether data without some of the keys is passed on.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with its maps as ``[K, X, Y, Z]`` of the file, float32; one axis of slices is 1."""
        result = dict(data)
        image = cast(MetaTensor, result[self.image_key])
        shape = [int(side) for side in image.meta["spatial_shape"]]
        plane = [side for side in shape if side > 1] if image.ndim == 3 else shape
        affine = torch.as_tensor(image.meta["original_affine"])
        meta = {key: image.meta[key] for key in ("filename_or_obj", "original_affine", "spatial_shape")}
        for key in self.key_iterator(result):
            moved = resampled(result[key], stored_to_memory(image), plane, "bilinear")
            result[key] = MetaTensor(moved.reshape(len(moved), *shape), affine=affine, meta={**meta, "space": "RAS"})
        return result


class SaveLabelMapd(SaveImaged):
    """Write label maps on the voxels of the scans' files: PNG for pictures, NIfTI for everything else.

    Takes the place of MONAI's transform, which refuses or flattens single slices (1.6.1) and needs one format for all
    scans. It is one of its kind, so that a server that sends label maps instead of keeping them leaves it out as well.

    Args:
        keys: of the label maps ``[1, X, Y, Z]`` of :class:`ToFileGridd`.
        output_dir: where the files go: the scan's path below the data set's folder, with the postfix.
        output_postfix: of the names.
        image_key: of what the network was shown.
        allow_missing_keys: whether data without some of the keys is passed on.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "seg",
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys, print_log=False)
        self.output_dir, self.postfix, self.image_key = Path(output_dir), output_postfix, image_key
        self._taken: dict[str, str] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write, and return the data as it is."""
        image = cast(MetaTensor, data[self.image_key])
        name = str(data.get("scan_id") or Path(image.meta["filename_or_obj"]).name)
        for key in self.key_iterator(dict(data)):
            labels = np.asarray(data[key].cpu())[0].astype(np.uint8)
            stem = self.output_dir / f"{self._base(name)}_{self.postfix}"
            write_label_map(stem, labels, ScanGrid.of(image))
        return dict(data)

    def _base(self, name: str) -> str:
        """The name without its ending, unless another scan has that already."""
        base = re.sub(r"\.nii\.gz$|\.[^./]+$", "", name, flags=re.IGNORECASE) if format_by_name(name) else name
        return base if self._taken.setdefault(base, name) == name else name
