# SPDX-License-Identifier: Apache-2.0
"""Whole scans in a box of fixed size: scaled until they fit, then padded; nothing is cut."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Resize, SpatialPad
from monai.utils import ensure_tuple_rep

from custom.keys import MIMKeys

logger = logging.getLogger(__name__)


class FitIntoBoxd(MapTransform):
    """Scales scans by one factor for all axes, the largest at which they fit into a box, and pads the rest with zeros.

    Unlike ``Resized(size_mode="longest")`` followed by ``ResizeWithPadOrCropd``, it keeps every voxel in the box when
    the sides of the box differ. The affine follows, so that predictions find back to the scan.

    Scans that leave more than half of the box empty are counted in ``padded``; the first, the tenth, the hundredth, ...
    is logged as a warning.

    Args:
        keys: of images, maps and labels, ``[C, *spatial]``, all of one spatial shape.
        spatial_size: the box, in voxels.
        mode: interpolation, one for all keys or one a key; "area" for images and maps, "nearest-exact" for labels.
        allow_missing_keys: whether data without some of the keys is passed on.

    Raises:
        ValueError: by the call, if a scan has not as many axes as the box.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        mode: str | Sequence[str] = "area",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_size = tuple(spatial_size)
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        self.seen = self.padded = 0
        self._pad = SpatialPad(self.spatial_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the scans in the box, ``[C, *spatial_size]``."""
        result = dict(data)
        size: tuple[int, ...] | None = None
        for key, mode in self.key_iterator(result, self.mode):
            if size is None:
                size = fitted_size(result[key].shape[1:], self.spatial_size)
                self._count(scan_name(result, key), size)
            result[key] = self._pad(Resize(size, mode=mode)(result[key]))
        return result

    def _count(self, scan: str, size: tuple[int, ...]) -> None:
        self.seen += 1
        share = math.prod(size) / math.prod(self.spatial_size)
        if share >= 0.5:
            return
        self.padded += 1
        if math.log10(self.padded).is_integer():
            logger.warning(
                "%s fills %.0f %% of image_size %s, the rest is padding (so far %d of %d scans leave more than half of "
                "it empty). Sides in the proportions of your scans, here about %s, spend the voxels on the scan.",
                scan,
                100 * share,
                list(self.spatial_size),
                self.padded,
                self.seen,
                list(size),
            )


def scan_name(data: Mapping[Hashable, Any], key: Hashable) -> str:
    """What a message calls a scan: its id or, failing that, its file."""
    meta = getattr(data[key], "meta", {})
    return str(data.get(MIMKeys.SCAN_ID) or meta.get("filename_or_obj") or "A scan")


def fitted_size(shape: Sequence[int], box: Sequence[int]) -> tuple[int, ...]:
    """Size of a scan scaled by one factor so that it fits into a box and touches it along one axis at least.

    Args:
        shape: of the scan, in voxels.
        box: in voxels.

    Raises:
        ValueError: if they have not the same number of axes.
    """
    if len(shape) != len(box):
        raise ValueError(f"A scan with {len(shape)} axes does not go into a box of {len(box)}, {list(box)}.")
    factor = min(most / side for side, most in zip(shape, box, strict=True))
    return tuple(min(most, max(1, round(side * factor))) for side, most in zip(shape, box, strict=True))
