# SPDX-License-Identifier: Apache-2.0
"""What must be true before a detector is trained, and what its parts must agree on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from custom.networks import Encoder
from custom.tasks.detection.objects import labelled_scans
from custom.tasks.detection.pyramid import FeaturePyramid
from custom.tasks.detection.training import KEY_SCORES
from custom.tasks.images import check_images
from custom.tasks.labelled import HOW_TO_SPLIT, SPLITS, warn_of_shared_groups

if TYPE_CHECKING:
    from datasets import Datalist

logger = logging.getLogger(__name__)


def pyramid_strides(detector: partial, encoder: Encoder) -> list[int]:
    """Strides of the pyramid that a detector will build on an encoder.

    Args:
        detector: the class with its options, as files of ``bundle/configs/detectors`` give it.
        encoder: the backbone.
    """
    options = {key: detector.keywords[key] for key in ("levels", "extra_level") if key in detector.keywords}
    return FeaturePyramid(encoder, out_channels=1, **options).strides


def build_detector(
    detector: partial,
    encoder: Encoder,
    classes: Sequence[str],
    anchors: Mapping[str, Any],
    patch_size: Sequence[int] | None = None,
) -> nn.Module:
    """Build a detector from the class with its options.

    Args:
        detector: see :func:`pyramid_strides`.
        encoder: the backbone.
        classes: names of the classes.
        anchors: of :func:`custom.tasks.detection.fit_anchors`.
        patch_size: larger scans are predicted in windows of this size; None: whole scans.

    Raises:
        ValueError: if the detector cannot predict in windows, or an option does not fit.
    """
    windows: dict[str, Any] = {}
    if patch_size is not None:
        if getattr(detector.func, "wants_masks", False):
            raise ValueError("--patch_size needs --detector retinanet: Mask R-CNN looks at whole pictures.")
        windows["window"] = list(patch_size)
    try:
        network: nn.Module = detector(encoder=encoder, num_classes=len(classes), anchors=anchors, **windows)
    except TypeError as error:
        raise ValueError(f"--detector_options do not fit {detector.func.__name__}: {error}") from error
    return network


def check_detection(
    datalist: Datalist,
    kind: str,
    classes: Sequence[str],
    spatial_dims: int,
    channels: int,
    image_size: Sequence[int],
    encoder: Mapping[str, Any],
    key_score: str = "ap50",
    model: str | Path | None = None,
    patch_size: Sequence[int] | None = None,
) -> None:
    """Refuse what cannot give a detector, or a measured one, and say what to do.

    Args:
        datalist: the data set.
        kind: how objects are told, see :func:`custom.tasks.detection.object_kind`.
        classes: names of the classes.
        spatial_dims: 2 or 3.
        channels: of the images.
        image_size: the network's input size, for whole scans.
        encoder: facts of the pretrained encoder, empty for training from scratch.
        key_score: figure by which the best epoch is chosen.
        model: a trained model: nothing is learnt, the data are not checked.
        patch_size: the same as ``image_size`` for patches; None: whole scans.

    Raises:
        ValueError: an empty split, no objects in train or val, an encoder for other images, or an unknown option.
    """
    check_images(spatial_dims, channels, image_size, encoder, patch_size)
    if key_score not in KEY_SCORES:
        raise ValueError(f"--key_score must be one of {', '.join(KEY_SCORES)}, received {key_score!r}.")
    if model:
        return
    for split in SPLITS:
        items = labelled_scans(datalist, split, kind)
        if kind == "boxes" and split != "test":
            _check_boxes(datalist, split, items, classes)
    warn_of_shared_groups(datalist)


def _check_boxes(datalist: Datalist, split: str, items: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    found = {name for item in items for name in item["box_labels"]}
    if not found:
        raise ValueError(f"{datalist.root}: no scan of the split {split!r} has a box. {HOW_TO_SPLIT}")
    missing = sorted(set(classes) - found)
    if missing:
        logger.warning("%s: the split %r has no box of %s.", datalist.root, split, missing)
