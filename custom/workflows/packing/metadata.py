# SPDX-License-Identifier: Apache-2.0
"""`metadata.json` of packed bundles: the repository's, with what is true of their networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from custom.preprocessing import Preprocessing


def segmentation_metadata(
    base: Mapping[str, Any],
    spatial_dims: int,
    contract: Preprocessing,
    names: Sequence[str],
    modality: str,
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the metadata of a segmentation bundle.

    Args:
        base: ``bundle/configs/metadata.json``: versions, authors, references.
        spatial_dims: of the scans, 2 or 3.
        contract: what is done to the scans of the trained model.
        names: of the classes, without the background.
        modality: of the scans, as the zoo writes it: CT, MR, X-ray.
        changes: keys that replace those made here.
    """
    size = list(contract.patch_size or contract.image_size or ())
    dims = int(spatial_dims)
    labels = ["background", *names]
    shared = {
        "spatial_shape": size,
        "dtype": "float32",
        "is_patch_data": contract.patch_size is not None,
    }
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": modality,
        "num_channels": contract.channels,
        **shared,
        "value_range": list(contract.intensity.value_range or ()),
        "channel_def": {"0": "image"} if contract.channels == 1 else {"0": "red", "1": "green", "2": "blue"},
    }
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(labels),
        **shared,
        "value_range": [],
        "channel_def": {str(index): name for index, name in enumerate(labels)},
    }
    return {
        **base,
        "task": f"{dims}D segmentation of {', '.join(names)}",
        "description": f"Segmentation of {', '.join(names)} on {dims}D scans, by a network whose encoder can be "
        "pretrained by text-guided masked image modelling with the same bundle.",
        "data_type": f"{dims}D scans: NIfTI, NRRD, DICOM" + (", PNG, JPEG" if dims == 2 else ""),
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        **changes,
    }


def localization_metadata(
    base: Mapping[str, Any], spatial_dims: int, modality: str, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metadata of a bundle whose network is a text-prompted localizer.

    Args:
        base: ``bundle/configs/metadata.json``: versions, authors, references.
        spatial_dims: of the scans, 2 or 3.
        modality: of the scans, as the zoo writes it.
        changes: keys that replace those made here.
    """
    shared = {"spatial_shape": ["*"] * spatial_dims, "dtype": "float32", "is_patch_data": False}
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": modality,
        "num_channels": 1,
        **shared,
        "value_range": [],
        "channel_def": {"0": "image"},
    }
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": 2,
        **shared,
        "value_range": [0, 1],
        "channel_def": {"0": "background", "1": "region"},
    }
    inputs = {"image": image, "text_prompt": "a phrase in English that names what to find"}
    return {
        **base,
        "task": f"Text-prompted localization in {spatial_dims}D scans",
        "description": f"A text prompt names what to find in a {spatial_dims}D scan, the answer is its region. The "
        "prompt is the parameter text_prompt.",
        "data_type": f"{spatial_dims}D scans: NIfTI, NRRD, DICOM" + (", PNG, JPEG" if spatial_dims == 2 else ""),
        "network_data_format": {"inputs": inputs, "outputs": {"pred": pred}},
        **changes,
    }
