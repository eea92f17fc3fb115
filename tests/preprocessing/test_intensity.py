# SPDX-License-Identifier: Apache-2.0
"""Grey levels are scaled as MONAI does it, and what was done is plain values that can be followed later."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from monai import transforms
from monai.data import MetaTensor

from custom.preprocessing import Intensity

KNOWN = [
    (
        transforms.ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True),
        {"scheme": "percentile"},
    ),
    (
        transforms.ScaleIntensityRangePercentilesd("image", 5, 90, -1, 1, relative=True, channel_wise=True),
        {"scheme": "percentile", "lower": 5, "upper": 90, "b_min": -1, "clip": False, "relative": True,
         "channel_wise": True},
    ),
    (
        transforms.ScaleIntensityRanged("image", -1000, 400, 0, 1, clip=True),
        {"scheme": "window", "window": [-1000, 400]},
    ),
    (
        transforms.ScaleIntensityRange(-100, 300),
        {"scheme": "window", "window": [-100, 300], "b_min": None, "b_max": None, "clip": False},
    ),
    (transforms.NormalizeIntensityd("image"), {"scheme": "zscore"}),
    (
        transforms.NormalizeIntensityd("image", np.array([3.0, 4.0]), [1, 2], nonzero=True, channel_wise=True),
        {"scheme": "zscore", "subtrahend": [3, 4], "divisor": [1, 2], "nonzero": True, "channel_wise": True},
    ),
    (transforms.ScaleIntensityd("image"), {"scheme": "minmax"}),
    (
        transforms.ScaleIntensity(None, None, factor=0.5),
        {"scheme": "minmax", "minv": None, "maxv": None, "factor": 0.5},
    ),
]  # fmt: skip


@pytest.fixture
def image(generator: torch.Generator) -> MetaTensor:
    return MetaTensor(torch.rand(2, 12, 10, generator=generator) * 900 - 300)


def scaled(intensity: Intensity, image: torch.Tensor) -> torch.Tensor:
    return intensity.dictionary_transform("image")({"image": image.clone(), "label": 3})["image"]


@pytest.mark.parametrize(("transform", "plain"), KNOWN)
def test_known_transforms_have_a_plain_form_that_does_the_same(transform: Any, plain: dict, image: MetaTensor) -> None:
    given, written = Intensity.of(transform), Intensity.of(plain)
    assert given == written
    again = Intensity.from_record(json.loads(json.dumps(given.record)))
    assert again == given
    is_dictionary = isinstance(transform, transforms.MapTransform)
    expected = transform({"image": image.clone()})["image"] if is_dictionary else transform(image.clone())
    for each in (given, written, again):
        assert torch.equal(scaled(each, image), expected)


def test_none_leaves_grey_levels_as_they_are(image: MetaTensor) -> None:
    assert torch.equal(scaled(Intensity.of({"scheme": "none"}), image), image)


@pytest.mark.parametrize(
    "given",
    [
        "zscore",
        "{scheme: zscore}",
        {"scheme": "ZScore", "nonzero": "false"},
        "{_target_: monai.transforms.NormalizeIntensityd, keys: image}",  # a dotted name reaches a config as a text
        {"_target_": "NormalizeIntensityd", "keys": "image"},
    ],
)
def test_as_the_command_line_gives_it(given: Any) -> None:
    assert Intensity.of(given) == Intensity.of(transforms.NormalizeIntensityd("image"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scheme": "ct"}, "no scheme 'ct'.*percentile, window, zscore, minmax and none"),
        ({"window": [0, 1]}, "no scheme is named"),
        ({"scheme": "window"}, "two grey levels"),
        ({"scheme": "window", "window": [400, -1000]}, "low and high"),
        ({"scheme": "window", "window": 400}, "two numbers"),
        ({"scheme": "window", "window": [0, 1], "upper": 2}, "window has no parameter upper; it has window"),
        ({"scheme": "percentile", "lower": 99, "upper": 1}, "lower below upper"),
        ({"scheme": "percentile", "lower": "$__import__('os')"}, "takes a number"),
        ({"scheme": "percentile", "clip": 3}, "true or false"),
        ({"scheme": "zscore", "divisor": float("nan")}, "takes a number"),
        (None, "--intensity must be a scheme"),
        (3, "--intensity must be a scheme"),
        ("{scheme: [", "cannot be read"),
    ],
)
def test_what_is_no_scheme_is_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Intensity.of(given)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.AdjustContrastd("image", gamma=0.5),
        transforms.Compose([transforms.ScaleIntensityd("image"), transforms.AdjustContrastd("image", gamma=0.5)]),
        transforms.ScaleIntensityd("image", dtype=np.float16),
        transforms.NormalizeIntensityd("image", subtrahend=torch.ones(2, 12, 10)),
        lambda image: image / 7,
    ],
)
def test_other_transforms_work_and_are_recorded_by_name(transform: Any, image: MetaTensor) -> None:
    intensity = Intensity.of(transform)
    assert intensity.is_custom
    is_image = not isinstance(transform, transforms.MapTransform | transforms.Compose)
    expected = transform(image.clone()) if is_image else transform({"image": image.clone()})["image"]
    assert torch.equal(scaled(intensity, image), expected)
    recorded = Intensity.from_record(json.loads(json.dumps(intensity.record)))
    assert recorded == intensity
    name = intensity.record["transform"]
    with pytest.raises(ValueError, match="Give it again: --intensity") as caught:
        recorded.dictionary_transform("image")
    assert name in str(caught.value)


def test_custom_transforms_with_other_settings_differ() -> None:
    one, same, other = (Intensity.of(transforms.AdjustContrastd("image", gamma=gamma)) for gamma in (0.5, 0.5, 0.6))
    assert one == same
    assert one != other
    assert "gamma" in one.words()


@pytest.mark.parametrize(
    "record",
    [
        {"_target_": "os.system", "command": "id"},
        {"scheme": "custom", "transform": {"_target_": "os.system"}},
        {"scheme": "custom", "transform": "os.system", "command": "id"},
        "{_target_: os.system}",
        ["percentile"],
        None,
    ],
)
def test_a_record_builds_nothing(record: Any) -> None:
    with pytest.raises(ValueError, match="intensity"):
        Intensity.from_record(record)
    named = Intensity.from_record({"scheme": "custom", "transform": "os.system", "settings": {"command": "id"}})
    with pytest.raises(ValueError, match="never decides which code is run"):
        named.dictionary_transform("image")


def test_the_range_of_what_comes_out() -> None:
    assert Intensity.of("percentile").value_range == (0, 1)
    assert Intensity.of({"scheme": "window", "window": [0, 9], "b_min": -1}).value_range == (-1, 1)
    assert Intensity.of({"scheme": "percentile", "clip": False}).value_range is None
    assert Intensity.of("zscore").value_range is None
    assert [Intensity.of(scheme).is_unit for scheme in ("percentile", "minmax", "zscore")] == [True, True, False]
