# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms that bring the masks of objects to where an image is, beside those of boxes.

Like boxes (:mod:`custom.tasks.detection.transforms`), masks are kept on the grid of the file, and drawn once on the
grid that a chain of transforms arrives at.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from custom.metrics.boxes import encode_masks
from custom.tasks.detection.geometry import clip_boxes, file_size
from custom.tasks.detection.objects import code_groups
from custom.tasks.detection.transforms import read_label_map
from custom.tasks.instances.masks import decode_masks, drawn, hulls, masks_in, rasterised, resampled
from datasets.errors import ScanError

_OUTLINES = "Complete its outlines, or use --detector retinanet"


class ScanMasksd(MapTransform):
    """Add the masks of a scan's objects on the grid of its file; to be used right before ``ScanObjectsd``.

    Adds ``scan_masks``, run-length encodings of :func:`custom.metrics.boxes.encode_masks`, one for each of the
    ``scan_boxes`` that ``ScanObjectsd`` adds. Data without objects pass unchanged, but for ``outlines``.

    Args:
        keys: of the image, one: a picture or slice.
        classes: names, for label maps.
        kind: "boxes" (masks from ``data["outlines"]``), or "codes" or "components" of the label map ``data["mask"]``.
        codes: for label maps: class -> codes, see :func:`custom.tasks.detection.objects.code_groups`.
        frame: of label maps that hold several pictures, see :class:`datasets.LoadScand`.
        allow_missing_keys: whether data without the image are passed on.

    Raises:
        ScanError: by the call, for an object without an outline, or an outline of another picture.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        classes: Sequence[str] = (),
        kind: str = "boxes",
        codes: Mapping[str, Any] | str | None = None,
        frame: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.kind, self.frame = kind, frame
        self.groups = None if kind == "boxes" else code_groups(classes, codes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with their masks."""
        result = dict(data)
        outlines = result.pop("outlines", None)
        for key in self.key_iterator(result):
            image = result[key]
            if self.groups is None and result.get("boxes") is not None:
                masks = _listed(result["boxes"], outlines, image)
            elif self.groups is not None and "mask" in result:
                masks = self._drawn(result["mask"], self.groups, image)
            else:
                continue
            result["scan_masks"] = encode_masks(masks)
        return result

    def _drawn(self, path: str, groups: Sequence[Sequence[int]], image: MetaTensor) -> NDArray[np.uint8]:
        codes, to_file = read_label_map(path, image, self.frame)
        masks = torch.from_numpy(masks_in(codes, groups, self.kind == "components"))
        return (resampled(masks, to_file, file_size(image)).numpy() >= 0.5).astype(np.uint8)


class GridMasksd(MapTransform):
    """Add the masks of a scan's objects on the image's present grid; to be used behind ``GridBoxesd``.

    Adds ``masks`` uint8 ``[N, X, Y]`` of all ``scan_masks``. Of the objects that ``GridBoxesd`` kept (``boxes``,
    ``labels``, ``box_index``) those with a voxel on the grid remain, and their boxes become the hulls of their masks.

    Args:
        keys: of the image, one.
        allow_missing_keys: whether data without the image are passed on.
    """

    def __init__(self, keys: KeysCollection = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with masks on the image's grid."""
        result = dict(data)
        for key in self.key_iterator(result):
            if "scan_masks" not in result:
                continue
            stored = torch.from_numpy(decode_masks(result["scan_masks"], result["scan_size"]))
            masks = drawn(stored, np.asarray(result["to_grid"]), result[key].shape[1:])
            index = result["box_index"]
            kept = (masks[index] > 0).flatten(1).any(dim=1)
            result["masks"] = masks
            result["box_index"] = index[kept]
            result["labels"] = result["labels"][kept]
            result["boxes"] = hulls(masks[index[kept]])
        return result


def _listed(boxes: Sequence[Sequence[float]], outlines: Sequence[Any] | None, image: MetaTensor) -> NDArray[np.uint8]:
    """Masks of the listed objects whose boxes reach into the scan, as ``ScanObjectsd`` keeps them."""
    size = file_size(image)
    values = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    _, kept = clip_boxes(np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], axis=1), size)
    found = outlines or [None] * len(boxes)
    try:
        return rasterised([found[index] for index in kept], size)
    except ValueError as error:
        raise ScanError(image.meta["filename_or_obj"], str(error), _OUTLINES) from error
