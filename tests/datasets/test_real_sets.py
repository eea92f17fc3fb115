# SPDX-License-Identifier: Apache-2.0
"""The real sets: their manifests, and one scan of each split."""

from __future__ import annotations

from collections import Counter

import pytest

from datasets import LoadScand, load_datalist

SETS = {  # dimensions, scans a split, classes, shape of the first training scan (None: varies), has masks, has boxes
    "brain_mri_cheng": (2, (1787, 604, 505), ["glioma", "meningioma", "pituitary"], (1, 256, 256), False, True),
    "ct_sarscov2": (2, (1545, 315, 485), ["covid", "non_covid"], (1, 224, 224), False, False),
    "cxr_kermany": (2, (3781, 695, 1049), ["bacterial_pneumonia", "normal", "viral_pneumonia"], (1, 224, 224), False,
                    False),
    "cxr_lungs": (2, (117, 24, 47), ["COVID-19", "COVID-19, ARDS"], None, True, False),
    "ct_lidc_nodules": (2, (1352, 248, 424), ["lung_nodule"], (1, 96, 96), True, True),
    "hippocampus3d": (3, (162, 36, 45), ["hippocampus"], None, True, False),
    "ct3d_lidc_nodules": (3, (103, 27, 44), ["lung_nodule"], None, True, False),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_reads(data_root, name):
    dims, counts, classes, shape, masks, boxes = SETS[name]
    datalist = load_datalist(data_root / name)
    assert (datalist.spatial_dims, datalist.classes) == (dims, classes)
    found = Counter(item["split"] for item in datalist.items)
    assert tuple(found[split] for split in ("train", "val", "test")) == counts
    assert all(("mask" in item, "boxes" in item) == (masks, boxes) for item in datalist.items)
    load = LoadScand(spatial_dims=dims, label_keys="mask", allow_missing_keys=True)
    for split in ("train", "val", "test"):
        result = load(datalist.require(split)[0])
        assert shape is None or tuple(result["image"].shape) == shape
        assert result["image"].ndim == dims + 1
        assert not masks or result["mask"].max() > 0
        for x, y, width, height in result.get("boxes", []):
            assert x + width <= result["image"].shape[1] + 1
            assert y + height <= result["image"].shape[2] + 1


def test_boxes_and_masks_meet(data_root):
    """Masks, boxes and images share their axes: x first."""
    datalist = load_datalist(data_root / "ct_lidc_nodules")
    for item in datalist.split("val")[:10]:
        consensus = LoadScand(label_keys="mask")(item)["mask"][0] >= 2
        (x, y, width, height), *_ = item["boxes"]
        xs, ys = consensus.nonzero(as_tuple=True)
        assert (int(xs.min()), int(ys.min())) == (x, y)
        assert (int(xs.max()) + 1 - x, int(ys.max()) + 1 - y) == (width, height)
