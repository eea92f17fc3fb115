# SPDX-License-Identifier: Apache-2.0
"""The glue of the pretraining workflow."""

from __future__ import annotations

import sys

import pytest
import torch
from monai.data import MetaTensor

from custom.masking import RandomMasking, RegionMasking
from custom.networks import parameter_groups
from custom.workflows import MIMPrepareBatch, choose_prompts, prepare_output_dir, show_root_causes


def test_a_batch_becomes_image_target_and_mask():
    image, visible = MetaTensor(torch.rand(2, 1, 8, 8)), torch.rand(2, 1, 2, 2) > 0.5
    network_input, target, arguments, keywords = MIMPrepareBatch()({"image": image, "visible": visible}, "cpu")
    assert type(network_input) is torch.Tensor
    assert arguments == ()
    assert torch.equal(keywords["visible"], visible)
    assert torch.equal(target.image, image.as_tensor())
    assert target.visible is keywords["visible"]
    assert torch.equal(keywords["wanted"], ~visible)
    assert target.wanted is keywords["wanted"]


@pytest.mark.parametrize("grid", [(4, 4), (2, 3, 2)])
def test_wanted_is_what_is_hidden_and_has_content(grid):
    visible, content = torch.rand(2, 1, *grid) > 0.7, torch.rand(2, 1, *grid) > 0.3
    batch = {"image": torch.rand(2, 1, *(4 * side for side in grid)), "visible": visible, "content": content}
    _, target, _, keywords = MIMPrepareBatch()(batch, "cpu", non_blocking=True)
    assert torch.equal(keywords["wanted"], ~visible & content)
    assert torch.equal(target.wanted, keywords["wanted"])
    assert keywords["wanted"].dtype == torch.bool


def test_masks_stay_on_the_host_and_the_target_goes_to_the_device():
    batch = {"image": torch.rand(1, 1, 8, 8), "visible": torch.ones(1, 1, 2, 2, dtype=torch.bool)}
    image, target, _, keywords = MIMPrepareBatch()(batch, "meta")
    assert {image.device.type, *(part.device.type for part in target)} == {"meta"}
    assert {mask.device.type for mask in keywords.values()} == {"cpu"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("brain tumor", ["brain tumor"]),
        ("left lung, lower lobe", ["left lung, lower lobe"]),
        (("left lung", "lower lobe"), ["left lung, lower lobe"]),  # what the command line makes of the line above
        (["left lung", "right lung"], ["left lung", "right lung"]),
        (None, ["nodule"]),
    ],
)
def test_prompts_are_the_users_or_the_scans(given, expected):
    assert choose_prompts(given, [{"prompt": "nodule"}, {"prompt": "nodule"}], RegionMasking()) == expected


def test_a_region_needs_a_name_and_random_masks_do_not():
    assert choose_prompts(None, [{}], RandomMasking(0.7)) == []
    with pytest.raises(ValueError, match=r"--prompt .*--masking random"):
        choose_prompts(None, [{}], RegionMasking())


def test_biases_and_normalisation_do_not_decay():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
    network[2].weight.requires_grad_(False)
    decayed, free = parameter_groups(network, 0.1)
    assert [tuple(value.shape) for value in decayed["params"]] == [(2, 1, 3, 3)]
    assert len(free["params"]) == 4
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_a_head_of_one_channel_decays_as_in_spark():
    head, token = torch.nn.Conv2d(24, 1, 1), torch.nn.Parameter(torch.zeros(1, 24, 1, 1))
    head.register_parameter("token", token)
    decayed, free = parameter_groups(head, 0.1)
    assert decayed["params"][0] is head.weight
    assert {id(each) for each in free["params"]} == {id(token), id(head.bias)}


def test_output_folder_is_made_or_refused(tmp_path):
    assert prepare_output_dir(tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file/out: cannot write there .*--output_dir"):
        prepare_output_dir(tmp_path / "file" / "out")


def test_a_traceback_ends_with_its_cause(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    show_root_causes()
    try:
        try:
            raise ValueError("scan_3.png: an empty file")
        except ValueError as error:
            raise RuntimeError("Failed to instantiate component") from error
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert capsys.readouterr().err.rstrip().endswith("What went wrong: scan_3.png: an empty file")


def test_an_error_that_says_what_to_do_stands_before_what_led_to_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    show_root_causes()
    try:
        try:
            try:
                raise FileNotFoundError("no snapshot")
            except FileNotFoundError as error:
                raise ValueError("The weights are not here: download them.") from error
        except ValueError as error:
            raise RuntimeError("Failed to instantiate component") from error
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert capsys.readouterr().err.rstrip().endswith("What went wrong: The weights are not here: download them.")
