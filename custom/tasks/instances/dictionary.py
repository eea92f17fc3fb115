# SPDX-License-Identifier: Apache-2.0
"""The dictionary transform that gives Mask R-CNN its targets."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import NDArray

from custom.tasks.instances.outlines import drawn, hulls, rasterised
from datasets.errors import ScanError
from datasets.geometry import stored_to_memory


class OutlinesToMasksd(Transform):
    """Draw the outlines of a scan on its present grid, and box what was drawn.

    Stands behind the spatial transforms, random ones included: where the voxels of the file are now is known from the
    image's affine, so that outlines are drawn once, from the file's own grid. Objects outside of the image are dropped;
    boxes are the hulls of the masks.

    Adds ``masks`` uint8 ``[N, X, Y]``, ``boxes`` float32 ``[N, 4]`` (voxel edges) and ``labels`` int64 ``[N]``, and
    takes ``outlines`` and ``box_labels`` away. Scans without ``outlines`` (nobody looked) pass unchanged.

    Args:
        classes: category names; a label is the place of a name in it.
        image_key: the image, a MetaTensor with the affines of `datasets.LoadScand`.

    Raises:
        ScanError: by the call, for a category that is not among the classes, an object without an outline, or an
            outline of another picture.
    """

    def __init__(self, classes: Sequence[str], image_key: str = "image") -> None:
        self.classes = list(classes)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the targets."""
        result = dict(data)
        if "outlines" not in result:
            return result
        image = result[self.image_key]
        outlines, names = result.pop("outlines"), result.pop("box_labels")
        masks = torch.from_numpy(stored_masks(outlines, image))
        masks = drawn(masks, stored_to_memory(image), image.shape[1:])
        inside = masks.flatten(1).any(dim=1)
        labels = torch.tensor([self._label(name, image) for name in names], dtype=torch.int64)
        result.update(masks=masks[inside], boxes=hulls(masks[inside]), labels=labels[inside])
        return result

    def _label(self, name: str, image: MetaTensor) -> int:
        if name not in self.classes:
            problem = f"an object of the category {name!r}; the model knows {', '.join(self.classes)}"
            raise ScanError(image.meta["filename_or_obj"], problem, "Leave its annotations out, or train on them")
        return self.classes.index(name)


def stored_size(image: MetaTensor) -> tuple[int, int]:
    """Sides of a picture or slice in its file, without the one across a slice."""
    sides = [int(side) for side in image.meta["spatial_shape"]]
    sides.pop(sides.index(1))
    return sides[0], sides[1]


def stored_masks(outlines: Sequence[Any], image: MetaTensor) -> NDArray[np.uint8]:
    """Return the masks ``[N, X, Y]`` of outlines on the grid of an image's file.

    Raises:
        ScanError: what is wrong with an outline, with the name of the image's file.
    """
    try:
        return rasterised(outlines, stored_size(image))
    except ValueError as error:
        raise ScanError(
            image.meta["filename_or_obj"], str(error), "Repair its COCO file, or use --detector retinanet"
        ) from error
