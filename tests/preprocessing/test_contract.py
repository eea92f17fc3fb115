# SPDX-License-Identifier: Apache-2.0
"""The contract is one record of plain values, read with suspicion, and differences have names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from custom.preprocessing import Intensity, Preprocessing

CT = {"scheme": "window", "window": [-1000, 400]}
FULL = {
    "channels": 3, "frame": 1, "spacing": [1, 1, 2.5], "intensity": CT, "crop_to_body": False, "air_threshold": 0.1,
    "image_size": [32, 40, 16],
}  # fmt: skip


@pytest.mark.parametrize("given", [FULL, {"image_size": [96, 96]}, {"patch_size": [64, 64], "spacing": 2}])
def test_a_record_is_plain_and_means_the_same(given: dict) -> None:
    made = Preprocessing.of(**given)
    block = json.loads(json.dumps(made.record()))
    assert Preprocessing.from_record(block) == made
    assert Preprocessing.of(**made.settings()) == made
    assert block["orientation"] == "RAS"
    assert block["fit"] == "pad"


def test_values_of_a_command_line_mean_what_they_say() -> None:
    given = {"spacing": "[1, 1, 2.5]", "crop_to_body": "false", "image_size": "[32, 40, 16]", "frame": "1"}
    assert Preprocessing.of(**{**FULL, **given}) == Preprocessing.of(**FULL)
    assert Preprocessing.of(spacing="null", patch_size=None) == Preprocessing()
    assert Preprocessing.of(spacing=1.5, image_size=[8, 8, 8]).spacing == (1.5, 1.5, 1.5)


def test_the_voxel_size_is_known_where_no_box_undoes_it() -> None:
    box, patch = (Preprocessing.of(spacing=1.5, **{name: [8, 8, 8]}) for name in ("image_size", "patch_size"))
    assert box.record()["voxel_size"] is None
    assert box.record()["spacing"] == [1.5, 1.5, 1.5]  # gave the voxels their proportions
    assert patch.record()["voxel_size"] == [1.5, 1.5, 1.5]
    assert Preprocessing.of(patch_size=[8, 8], image_size=[9, 9]).image_size is None


def test_each_field_that_differs_is_named_with_both_values() -> None:
    recorded = Preprocessing.of(**FULL)
    for name, value, said in (
        ("channels", 1, "channels: recorded 3, given 1"),
        ("frame", None, "frame: recorded 1, given null"),
        ("spacing", [1, 1, 1], "spacing: recorded [1.0, 1.0, 2.5], given [1.0, 1.0, 1.0]"),
        ("intensity", "percentile",
         "intensity: recorded window (window [-1000, 400]), given percentile (lower 0.5, upper 99.5)"),
        ("crop_to_body", True, "crop_to_body: recorded False, given True"),
        ("air_threshold", 0.05, "air_threshold: recorded 0.1, given 0.05"),
        ("image_size", [32, 32, 32], "image_size: recorded [32, 40, 16], given [32, 32, 32]"),
    ):  # fmt: skip
        assert recorded.differences(Preprocessing.of(**{**FULL, name: value})) == {name: said}
    assert set(recorded.differences(Preprocessing.of(**FULL, patch_size=[8, 8, 8]))) == {"image_size", "patch_size"}
    assert recorded.differences(Preprocessing.of(**FULL)) == {}


def test_old_records_mean_the_defaults_of_their_time() -> None:
    old = Preprocessing.of_old_record(
        {"spacing": [2, 2, 2], "image_size": [16, 16, 8], "crop_to_body": False, "seed": 1}
    )
    assert old.spacing == (2, 2, 2)
    assert old.intensity == Intensity.of({"scheme": "percentile", "lower": 0.5, "upper": 99.5})
    assert (old.crop_to_body, old.is_old, old.was_cut) == (False, True, True)
    assert not Preprocessing.of_old_record({"image_size": [16, 16]}).was_cut
    assert Preprocessing.from_record(old.record()).is_old
    # Neither the intensity nor, where it says none, the size is known: they cannot differ.
    assert old.differences(Preprocessing.of(**{**old.settings(), "intensity": CT})) == {}
    assert Preprocessing.of_old_record({}).differences(Preprocessing.of(image_size=[8, 8])) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias_field": "n4"}, "unknown: bias_field.*later version"),
        ({"orientation": "LPS"}, "'LPS' is not among RAS"),
        ({"fit": "stretch"}, "'stretch' is not among"),
        ({"intensity": {"_target_": "os.system"}}, "no scheme is named"),
        ({"spacing": [0, 1, 1]}, "positive millimetres"),
        ({"spacing": "$__import__('os')"}, "must be a number"),
        ({"image_size": [16, "$1", 16]}, "whole number"),
        ({"channels": {"_target_": "os.system"}}, "whole number"),
        ({"air_threshold": -1}, "not negative"),
        ({"crop_to_body": "perhaps"}, "true or false"),
    ],
)
def test_records_that_cannot_be_followed_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_record({**Preprocessing.of(**FULL).record(), **change})


@pytest.mark.parametrize("block", [None, [], "pad"])
def test_what_is_no_block_is_refused(block: Any) -> None:
    with pytest.raises(ValueError, match="cannot be followed"):
        Preprocessing.from_record(block)


def test_in_words() -> None:
    said = Preprocessing.of(**FULL).words()
    assert said == (
        "frame 1, 3 channels, resampled to 1 x 1 x 2.5 mm, intensity window (window [-1000, 400]), "
        "scaled into 32 x 40 x 16"
    )
    assert "air around the body cut away, patches of 8 x 8" in Preprocessing.of(patch_size=[8, 8]).words()
