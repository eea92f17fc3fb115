# SPDX-License-Identifier: Apache-2.0
"""In which window models of pictures are shown a scan: given, looked up, or by percentiles; and that it is recorded."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from monai.data import MetaTensor

from custom.components import component_names, load_component
from custom.localizers.ensembles import LocalizerEnsemble, PromptEnsemble
from custom.localizers.pictures import PictureLocalizer, PictureRefiner, scaled
from custom.localizers.refined import RefinedLocalizer
from custom.localizers.refiners.sam import SamRefiner
from custom.localizers.vision_language.clipseg import ClipSegLocalizer
from custom.localizers.volumes import Propagation, Slicewise, SlicewiseRefiner
from custom.localizers.windows import PictureWindow, _say, asked_for
from custom.regions import LocalizeRegiond, RegionStore
from tests.localizers.tiny_models import tiny_clipseg, tiny_sam

SOFT, LUNG = (-160.0, 240.0), (-1350.0, 150.0)
MUSCLE, LIVER = (2, 2), (6, 6)


class Seen(PictureLocalizer):
    """The picture itself."""

    def __init__(self, window=None):
        self.window = PictureWindow(window)

    def describe(self):
        return {"name": "seen", **self.window.describe()}

    def localize_pictures(self, pictures, prompts):
        return pictures[:, :1].repeat(1, len(prompts), 1, 1)


class SeenRefiner(PictureRefiner):
    """The picture within the map."""

    def __init__(self, window=None):
        self.window = PictureWindow(window)

    def describe(self):
        return {"name": "seen_refiner", **self.window.describe()}

    def refine_pictures(self, pictures, probabilities):
        return pictures[:, :1] * (probabilities > 0)


@pytest.fixture
def ct():
    """Air, a body, muscle and liver 20 HU apart, bone: `[1, X, Y]` in Hounsfield units."""
    values = torch.full((1, 40, 40), -1000.0)
    values[:, :20] = 0
    values[0, MUSCLE[0], MUSCLE[1]], values[0, LIVER[0], LIVER[1]] = 50, 70
    values[0, 18:20] = 1200
    return values


@pytest.fixture(autouse=True)
def say_again():
    _say.cache_clear()


def difference(maps):
    """Grey levels, of 255, by which liver is brighter than muscle."""
    return float(255 * (maps[0][LIVER] - maps[0][MUSCLE]))


def shown(image, limits):
    return ((image[0] - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)


def tagged(image, modality, body_part=""):
    return MetaTensor(image, meta={"modality": modality, "body_part": body_part})


def as_volume(image):
    return image[..., None].repeat(1, 1, 1, 3)


def test_soft_tissue_has_contrast_in_a_window(ct):
    assert difference(Seen().localize(ct, ["liver"])) < 3
    assert difference(Seen([-160, 240]).localize(ct, ["liver"])) == pytest.approx(12.75, abs=0.01)
    assert difference(Seen("auto").localize(ct, ["liver"])) == pytest.approx(12.75, abs=0.01)


@pytest.mark.parametrize(
    ("prompt", "limits"),
    [
        ("liver tumor", SOFT),
        ("an image of a liver tumor", SOFT),
        ("Lungs", LUNG),
        ("pulmonary nodule", LUNG),
        ("heart", SOFT),
        ("brain bleed", (0, 80)),
        ("vertebra", (-500, 1300)),
        ("bone lesion", (-500, 1300)),
        ("something in the pelvis", SOFT),
        ("bicycle", None),
    ],
)
def test_auto_is_looked_up_in_the_prompt_library(ct, prompt, limits):
    assert PictureWindow("auto").choose(ct, [prompt]) == [limits]


def test_each_prompt_is_shown_in_its_own_window(ct):
    prompts = ["liver tumor", "lung nodule", "bicycle", "spleen"]
    expected = [shown(ct, SOFT), shown(ct, LUNG), scaled(ct, (2,))[0], shown(ct, SOFT)]
    torch.testing.assert_close(Seen("auto").localize(ct, prompts), torch.stack(expected))
    volume = as_volume(ct)
    found = Slicewise(Seen("auto"), axes=(1, 2)).localize(volume, prompts)
    assert difference(found[3:, ..., 1]) == difference(found[:1, ..., 1]) > 12
    assert difference(found[2:, ..., 1]) < 3


@pytest.mark.parametrize(
    ("modality", "shift", "limits"),
    [
        ("CT", 0, SOFT),
        ("CT", 995, SOFT),  # a crop without air
        ("MR", 0, None),
        ("PT", 0, None),
        ("CT", 1024, None),  # unsigned, as exported without its offset
        ("", 1024, None),
        ("", 995, None),
    ],
)
def test_the_tag_and_the_values_say_whether_a_scan_is_in_hounsfield_units(ct, modality, shift, limits):
    assert PictureWindow("auto").choose(tagged(ct + shift, modality), ["liver"]) == [limits]


def test_a_picture_of_a_ct_is_shown_by_percentiles_and_that_is_said(ct, caplog):
    picture = ((ct + 1000) / 2200 * 255).round()
    maps = Seen("auto").localize(tagged(picture, "CT"), ["liver"])
    assert torch.equal(maps, Seen().localize(picture, ["liver"]))
    assert "no Hounsfield units" in caplog.text


def test_the_body_part_of_the_tags_helps_where_the_prompt_does_not(ct):
    window = PictureWindow("auto")
    assert window.choose(tagged(ct, "CT", "ABDOMEN"), ["mass"]) == [SOFT]
    assert window.choose(tagged(ct, "CT", "ABDOMEN"), ["lung nodule"]) == [LUNG]
    assert window.choose(tagged(ct, "CT"), ["mass"]) == [None]


def test_phrases_can_be_compared_in_one_window(ct):
    scan = asked_for(ct, "liver tumor")
    assert PictureWindow("auto").choose(scan, ["bicycle", "lung nodule"]) == [SOFT, SOFT]
    assert torch.equal(scan.as_tensor(), ct)


def test_refiners_are_told_what_was_asked_for(ct):
    prompts, coarse = ["liver tumor", "lung nodule"], torch.ones(2, 40, 40)
    expected = torch.stack([shown(ct, SOFT), shown(ct, LUNG)])
    torch.testing.assert_close(SeenRefiner("auto").refine(ct, coarse, prompts), expected)
    torch.testing.assert_close(SeenRefiner("auto").refine(ct, coarse), scaled(ct, (2,))[:2])
    chain = RefinedLocalizer(Seen([-3000, 3000]), [SeenRefiner("auto")])
    torch.testing.assert_close(chain.localize(ct, prompts), expected)
    volume, maps = as_volume(ct), torch.ones(2, 40, 40, 3)
    found = SlicewiseRefiner(SeenRefiner("auto")).refine(volume, maps, prompts)
    torch.testing.assert_close(found, as_volume(expected))


def test_a_propagated_region_is_seen_in_its_window(ct):
    coarse = torch.zeros(2, 40, 40, 3)
    coarse[:, 4:9, 4:9] = 1
    for refiner in (Propagation(SeenRefiner("auto")), Propagation(SeenRefiner(), window="auto")):
        found = refiner.refine(as_volume(ct + 60), coarse, ["liver tumor", "brain"])
        assert found[0, 5, 5, 1] == pytest.approx(220 / 400, abs=1e-4)
        assert found[1, 5, 5, 1] == pytest.approx(60 / 80, abs=1e-4)


@pytest.mark.parametrize("window", [None, [-160, 240], "auto"])
def test_what_holds_models_of_pictures_passes_a_window_on(window):
    model, refiner = Seen([0, 1]), SeenRefiner([0, 1])
    held = [
        Slicewise(model, window=window).localizer,
        SlicewiseRefiner(refiner, window=window).refiner,
        Propagation(refiner, window=window).refiner,
        PromptEnsemble(Slicewise(model), window=window).localizer.localizer,
        LocalizerEnsemble([Slicewise(model)], window=window).localizers[0].localizer,
    ]
    assert all(each.window.describe() == PictureWindow(window).describe() for each in held)
    assert model.window.value == refiner.window.value == (0, 1)
    for whole in (Slicewise(model, window=window), Propagation(refiner, window=window)):
        assert whole.describe()["window"] == window
    assert Slicewise(model).localizer is model


def test_records_tell_windows_apart(tmp_path):
    clipseg, sam = tiny_clipseg(tmp_path / "clipseg"), tiny_sam(tmp_path / "sam")
    for kind, folder in ((ClipSegLocalizer, clipseg), (SamRefiner, sam)):
        described = [kind(folder, window=window).describe() for window in (None, [-160, 240], "auto")]
        assert [each["window"] for each in described] == [None, [-160, 240], "auto"]
        assert json.loads(json.dumps(described)) == described


def test_a_library_with_other_windows_is_another_description(configs, tmp_path):
    text = (configs / "prompts" / "ct.yaml").read_text()
    for name, words in (("same", text), ("other", text.replace("[-160, 240]", "[-150, 250]"))):
        (tmp_path / name).mkdir()
        # other files of the library know the neighbours that this one names
        for file in ("mri", "xray"):
            (tmp_path / name / f"{file}.yaml").write_text((configs / "prompts" / f"{file}.yaml").read_text())
        (tmp_path / name / "ct.yaml").write_text(words)
    shipped, same, other = (PictureWindow("auto", each) for each in (None, tmp_path / "same", tmp_path / "other"))
    assert shipped.describe() == same.describe() != other.describe()
    assert other.choose(torch.full((1, 4, 4), -900.0), ["liver"]) == [(-150, 250)]
    nothing = PictureWindow("auto", tmp_path / "nowhere")
    assert nothing.choose(torch.full((1, 4, 4), -900.0), ["liver"]) == [None]


def test_what_was_shown_is_in_the_record_of_each_map(ct, tmp_path):
    store = RegionStore(tmp_path)
    prompts = ["liver tumor", "bicycle"]
    localize = LocalizeRegiond(localizer=Seen("auto"), prompts=prompts, store=store)
    localize({"image": MetaTensor(ct), "scan_id": "ct"})
    localize({"image": MetaTensor(ct + 1024), "scan_id": "unsigned"})
    assert store.record("ct", "liver tumor").shown == "[-160, 240]: liver tumor, abdomen"
    assert "percentiles" in store.record("ct", "bicycle").shown
    assert "no Hounsfield units" in store.record("unsigned", "liver tumor").shown


def test_maps_made_in_another_window_are_made_again_and_old_records_are_read(ct, tmp_path):
    store, data = RegionStore(tmp_path), {"image": MetaTensor(ct), "scan_id": "a"}

    def region(window):
        return LocalizeRegiond(localizer=Seen(window), prompts="liver", store=store)(data)["region"].as_tensor()

    by_percentiles = region(None)
    file = next(tmp_path.rglob("*.json"))
    record = json.loads(file.read_text())
    del record["shown"], record["localizer"]["window"]  # as records were before there were windows
    file.write_text(json.dumps(record))
    read = LocalizeRegiond(prompts="liver", store=RegionStore(tmp_path, read_only=True))(data)["region"]
    assert torch.equal(read.as_tensor(), by_percentiles)
    assert difference(region([-160, 240])) > 10
    assert torch.equal(region(None), by_percentiles)


@pytest.mark.parametrize("window", ["wide", [1, 0], [1, 2, 3], 7, [float("nan"), 1], ["a", "b"], True])
def test_what_is_no_window_is_refused(window):
    with pytest.raises(ValueError, match=r"\[low, high\]"):
        PictureWindow(window)


@pytest.mark.parametrize("room", ["localizers", "refiners"])
def test_every_shipped_model_of_pictures_has_the_option(configs, room):
    from monai.bundle import ConfigParser
    from monai.utils import optional_import

    for name in component_names(configs / room):
        config = ConfigParser.load_config_file(str(configs / room / f"{name}.yaml"))
        module, _, attribute = config["_target_"].rpartition(".")
        target, _ = optional_import(module, name=attribute)
        takes = "window" in inspect.signature(target).parameters
        assert takes == ("window" in config), name
        assert takes or not issubclass(target, PictureLocalizer | PictureRefiner), name


def test_the_command_line_s_way_into_an_ensemble(configs):
    ensemble = load_component(configs / "localizers", "ensemble", "{window: [-160, 240]}")
    clipseg = ensemble.localizers[1].localizer.localizer
    assert clipseg.window.value == SOFT
    propagate = load_component(configs / "refiners", "propagate", "{window: null}")
    assert propagate.refiner.window.value is None
