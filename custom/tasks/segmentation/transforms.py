# SPDX-License-Identifier: Apache-2.0
"""Predictions as MONAI's transforms hand them on: on the voxels of the scan's file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from custom.tasks.segmentation.geometry import resampled
from datasets.geometry import stored_to_memory


class ToFileGridd(MapTransform):
    """Bring a network's maps to the voxels of the scan's file, linearly; zero where the network saw nothing.

    What was done to the scan (turned upright, resampled, cropped, scaled, padded) is in its affine, which leads back in
    one step. The result has the file's affine and name: MONAI's ``SaveImaged`` writes it voxel by voxel onto the scan.

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
