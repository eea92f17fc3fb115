# SPDX-License-Identifier: Apache-2.0
"""Localizers from the options of the configs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from custom.components import component_names
from custom.localizers import CentredDisc
from custom.localizers.ensembles import PromptEnsemble
from custom.localizers.pictures import PictureLocalizer, PictureRefiner
from custom.localizers.refined import RefinedLocalizer
from custom.localizers.volumes import Slicewise, SlicewiseRefiner
from custom.workflows import load_localizer


class Dark(PictureLocalizer):
    """Stand-in for a model of pictures."""

    def describe(self):
        return {"name": "dark"}

    def localize_pictures(self, pictures, prompts):
        return (1 - pictures.mean(1, keepdim=True)).repeat(1, len(prompts), 1, 1)


class Same(PictureRefiner):
    def describe(self):
        return {"name": "same"}

    def refine_pictures(self, pictures, probabilities):
        return probabilities


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Configs of the stand-ins."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for room, name in (("localizers", "Dark"), ("refiners", "Same")):
        (tmp_path / room).mkdir()
        (tmp_path / room / f"{name.lower()}.yaml").write_text(f"_target_: test_localizers.{name}\n")
    return tmp_path


def test_a_name_and_its_options(configs):
    localizer = load_localizer(configs, "disc", {"area": 0.3})
    assert isinstance(localizer, CentredDisc)
    assert localizer.area == 0.3


def test_volumes_are_looked_at_slice_by_slice(folder):
    flat, volume = (
        load_localizer(folder, "dark"),
        load_localizer(folder, "dark", spatial_dims=3, slices={"axes": [0, 2]}),
    )
    assert not isinstance(flat, Slicewise)
    assert isinstance(volume, Slicewise)
    assert tuple(volume.axes) == (0, 2)
    image = torch.rand(1, 6, 7, 8)
    assert volume.localize(image, ["a", "b"]).shape == (2, 6, 7, 8)


def test_refiners_in_order(folder):
    flat = load_localizer(folder, "dark", refiners=["same", "same"])
    assert isinstance(flat, RefinedLocalizer)
    assert len(flat.refiners) == 2
    volume = load_localizer(folder, "dark", refiners="same", spatial_dims=3)
    assert isinstance(volume.refiners[0], SlicewiseRefiner)
    assert volume.localize(torch.rand(1, 6, 7, 8), ["a"]).shape == (1, 6, 7, 8)


def test_templates(configs):
    localizer = load_localizer(configs, "disc", templates=["{}", "an MRI of a {}"])
    assert isinstance(localizer, PromptEnsemble)


def test_what_cannot_be_is_said(configs, folder):
    with pytest.raises(ValueError, match=r"Known: .*\bbody, "):
        load_localizer(configs, "nobody")
    with pytest.raises(ValueError, match="'sam', which is not among the refiners"):
        load_localizer(configs, "disc", refiner_options={"sam": {}})
    with pytest.raises(ValueError, match="slices is for models of pictures"):
        load_localizer(configs, "disc", spatial_dims=3, slices={"axes": [0]})
    (folder / "localizers" / "flat.yaml").write_text("_target_: test_localizers.Flat\n")
    with pytest.raises(ValueError, match="'flat' takes"):
        load_localizer(folder, "flat", spatial_dims=3)


class Flat(CentredDisc):
    native_dims = (2,)


@pytest.mark.parametrize("room", ["localizers", "refiners"])
def test_every_shipped_file_names_a_class_and_parameters_that_exist(configs, room):
    """Models are not loaded: their weights are not here."""
    import inspect

    from monai.utils import optional_import

    for name in component_names(configs / room):
        config = ConfigParser.load_config_file(str(configs / room / f"{name}.yaml"))
        module, _, attribute = config["_target_"].rpartition(".")
        target, found = optional_import(module, name=attribute)
        assert found, f"{name}: {config['_target_']}"
        given = {key for key in config if not key.startswith("_")}
        parameters = inspect.signature(target).parameters
        takes_more = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
        assert takes_more or given <= set(parameters), name
