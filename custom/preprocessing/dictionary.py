# SPDX-License-Identifier: Apache-2.0
"""The contract as MONAI's dictionary transforms: how a scan is read, and how it gets to a network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from monai.config import KeysCollection
from monai.transforms import CropForegroundd, MapTransform, SpatialPadd

from custom.preprocessing.contract import Preprocessing
from custom.preprocessing.fit import FitIntoBoxd
from custom.preprocessing.intensity import Intensity
from custom.regions import body_voxels
from datasets import LoadScand

MARGIN = 4  # voxels of the scan that stay around the body
_BODY = "_body"


def load_scand(contract: Preprocessing, keys: KeysCollection, spatial_dims: int, **options: Any) -> LoadScand:
    """Return what reads scans as a contract says: orientation, voxel size, channels, frame.

    Args:
        contract: what is done to scans.
        keys: of the images.
        spatial_dims: 2 or 3.
        options: others of :class:`datasets.LoadScand`, such as ``label_keys``.
    """
    return LoadScand(
        keys,
        spatial_dims,
        contract.channels,
        orientation=contract.orientation,
        spacing=contract.spacing,
        frame=contract.frame,
        **options,
    )


class PrepareScand(MapTransform):
    """From a scan as it was read to a network's input: grey levels, the air around the body, the box or the patch.

    Grey levels are scaled in the first key alone, the image ``[C, *spatial]``; the others are moved with it. Whatever
    moves voxels says so in the affine, by which predictions find back.

    Args:
        keys: the image, then maps of the same scan.
        contract: what is done to scans.
        mode: interpolation of the keys where scans are scaled into a box, see :class:`FitIntoBoxd`.
        allow_missing_keys: whether data without some of the keys is passed on.

    Raises:
        ValueError: if the contract has a custom transform of intensities that nobody gave.
    """

    def __init__(
        self,
        keys: KeysCollection,
        contract: Preprocessing,
        mode: str | Sequence[str] = "area",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.contract = contract
        self.scale = contract.intensity.dictionary_transform(self.keys[0])
        self.of_body = Intensity.of("percentile").dictionary_transform(_BODY)
        self.crop = CropForegroundd(
            self.keys,
            source_key=_BODY,
            select_fn=partial(body_voxels, threshold=contract.air_threshold),
            margin=MARGIN,
            allow_smaller=True,  # the margin ends where the scan does
            start_coord_key=None,
            end_coord_key=None,
            allow_missing_keys=True,
        )
        self.fit = _fits(self.keys, contract, mode)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with its image and maps replaced."""
        result = self.cropped(data)
        for transform in self.fit:
            result = transform(result)
        return result

    def cropped(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with grey levels scaled and the air cut away, before the box or the patch."""
        result = dict(data)
        list(self.key_iterator(result))  # raises for keys that are missing and must not be
        if not self.contract.crop_to_body:
            return self.scale(result)
        result = self.crop(self._with_body(result))
        del result[_BODY]
        return result

    def _with_body(self, data: dict[Hashable, Any]) -> dict[Hashable, Any]:
        """The data, scaled, and the image at grey levels that ``air_threshold`` is meant for."""
        image = self.keys[0]
        if self.contract.intensity.is_unit:
            scaled = self.scale(data)
            return {**scaled, _BODY: scaled[image]}
        return self.scale({**data, **self.of_body({_BODY: data[image].clone()})})


def _fits(keys: tuple[Hashable, ...], contract: Preprocessing, mode: str | Sequence[str]) -> list[Callable]:
    """What brings scans to the box or, where they are smaller, to the patch."""
    if contract.patch_size:
        return [SpatialPadd(keys, contract.patch_size, allow_missing_keys=True)]
    if not contract.image_size:
        return []
    return [FitIntoBoxd(keys, contract.image_size, mode, allow_missing_keys=True)]
