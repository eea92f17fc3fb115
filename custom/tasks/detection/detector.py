# SPDX-License-Identifier: Apache-2.0
"""What all detectors are: a feature pyramid on an encoder, with anchors of fitted shapes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from custom.networks import Encoder
from custom.tasks.detection.pyramid import FeaturePyramid


class Detector(nn.Module):
    """A network that finds objects, in torchvision's convention.

    In training mode ``forward(images, targets)`` returns a dictionary of losses, otherwise ``forward(images)`` a
    dictionary of ``boxes``, ``labels`` and ``scores`` (and ``masks``) for each image.

    Attributes:
        wants_masks: whether it learns from ``masks`` beside boxes.
    """

    wants_masks = False

    @property
    @abstractmethod
    def body(self) -> FeaturePyramid:
        """The feature pyramid."""

    @property
    def encoder(self) -> Encoder:
        """The backbone."""
        return self.body.encoder

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.encoder.spatial_dims

    @property
    def strides(self) -> list[int]:
        """Down-sampling factor of each level of the pyramid."""
        return self.body.strides


def check_anchors(anchors: Mapping[str, Sequence[Any]], body: FeaturePyramid) -> None:
    """Raise ValueError unless anchors fit a pyramid.

    Args:
        anchors: ``base_shapes`` and ``scales``, see :func:`custom.tasks.detection.fit_anchors`.
        body: the pyramid.
    """
    scales, shapes = anchors["scales"], anchors["base_shapes"]
    dims = body.encoder.spatial_dims
    if len(scales) != len(body.strides) or not shapes or len(shapes[0]) != dims:
        raise ValueError(
            f"anchors need one scale for each of the {len(body.strides)} levels and shapes of {dims} numbers, "
            f"got scales {list(scales)} and shapes {list(shapes)}."
        )
