# SPDX-License-Identifier: Apache-2.0
"""The concept localizer on phantoms and on a handful of real scans (benchmarks/localization.py measures it in full)."""

from __future__ import annotations

import numpy as np
import pytest

from custom.localizers import ConceptLocalizer
from datasets.datalist import load_datalist
from datasets.loading import LoadScand
from datasets.phantoms import ensure_phantoms


@pytest.fixture(scope="module")
def localizer(configs):
    return ConceptLocalizer(configs / "localizers" / "vocabulary.yaml")


def scans(folder, split, count):
    datalist = load_datalist(folder)
    load = LoadScand("image", datalist.spatial_dims, label_keys="mask")
    for item in datalist.split(split)[:count]:
        data = load(item)
        yield data["image"], data["mask"][0].numpy()


def dice(found, truth):
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize(
    ("kind", "prompt", "codes", "least"),
    [("brain_mri", "brain tumor", (4, 5), 0.5), ("chest_ct", "lung nodule", (6, 7, 8, 9), 0.3)],
)
def test_phantom_lesions(localizer, tmp_path, kind, prompt, codes, least):
    folder = ensure_phantoms(kind, 2, tmp_path, counts={"train": 10, "val": 2, "test": 2})
    recalls = [
        (localizer.localize(image, [prompt])[0].numpy() >= 0.5)[np.isin(mask, codes)].mean()
        for image, mask in scans(folder, "train", 10)
    ]
    assert np.mean(recalls) > least


@pytest.mark.parametrize(("kind", "prompt"), [("chest_ct", "left lung"), ("chest_xray", "left lung")])
def test_phantom_left_lung(localizer, tmp_path, kind, prompt):
    folder = ensure_phantoms(kind, 2, tmp_path, counts={"train": 6, "val": 2, "test": 2})
    values = [
        dice(localizer.localize(image, [prompt])[0].numpy() >= 0.5, np.isin(mask, (3, 5, 7, 9)))
        for image, mask in scans(folder, "train", 6)
    ]
    assert np.mean(values) > 0.7


def test_real_lungs(localizer, data_root):
    values = []
    for image, mask in scans(data_root / "cxr_lungs", "val", 8):
        right, left = localizer.localize(image, ["right lung on x-ray", "left lung on x-ray"]).numpy() >= 0.5
        values += [dice(right, mask == 1), dice(left, mask == 2)]
    assert np.mean(values) > 0.75


def test_real_hippocampus(localizer, data_root):
    values = [
        dice(localizer.localize(image, ["hippocampus"])[0].numpy() >= 0.5, mask > 0)
        for image, mask in scans(data_root / "hippocampus3d", "val", 6)
    ]
    assert np.mean(values) > 0.6
