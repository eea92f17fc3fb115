# SPDX-License-Identifier: Apache-2.0
"""Files from strangers at every door: none of them decides which code runs or which file is read.

Each crafted file would leave a mark if it had its way.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from custom.components import load_component
from custom.gate import GateRecord
from custom.handlers import ResumeTraining
from custom.localizers.operators.finder import load_finder
from custom.localizers.vocabulary import Vocabulary
from custom.networks import encoder_record, load_encoder, save_encoder
from custom.prompts import PromptLibrary
from custom.regions import RegionStore
from custom.tasks import encoder_facts, encoder_spec
from custom.tasks.record import write_record
from custom.tasks.results import BestModel
from custom.workflows.packing.checks import check_contents
from custom.workflows.packing.trained import segmentation_record, train_defaults
from custom.workflows.publishing import HubFolder
from tests.bundle_runs import run_config

HUB = "monai.networks.nets.resnet.torch.hub.load"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def code(mark: Path) -> str:
    """An expression that leaves the mark."""
    return f"$__import__('pathlib').Path({str(mark)!r}).touch()"


@pytest.fixture
def hub(tmp_path: Path, mark: Path) -> dict[str, Any]:
    """A recorded network that reaches `torch.hub.load` through what a module of MONAI imports."""
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "hubconf.py").write_text(f"open({str(mark)!r}, 'w')\ndef m(**_): ...\n")
    return {"network": HUB, "arguments": {"repo_or_dir": str(folder), "source": "local", "model": "m"}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, configs: Path) -> Path:
    spec = load_component(configs / "encoders", "resnet18_narrow", spatial_dims=2, in_channels=1)
    torch.manual_seed(0)
    facts = {"masking": "region", "image_size": [32, 32], "epochs": 1}
    return save_encoder(tmp_path_factory.mktemp("saved") / "encoder.safetensors", spec.build(), spec, facts)


@pytest.fixture
def encoder(saved: Path, tmp_path: Path) -> Callable[..., Path]:
    """An encoder whose record's network is changed."""

    def make(**changes: Any) -> Path:
        path = tmp_path / "encoder.safetensors"
        path.write_bytes(saved.read_bytes())
        record = json.loads(saved.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps({**record, "encoder": {**record["encoder"], **changes}}))
        return path

    return make


def parsed(configs: Path, config: str, wanted: str, **settings: Any) -> Any:
    """One part of a config, as running it would build it."""
    parser = ConfigParser(ConfigParser.load_config_file(str(configs / f"{config}.yaml")))
    parser.update({"bundle_root": str(configs.parent), "spatial_dims": 2, "channels": 1, **settings})
    return parser.get_parsed_content(wanted)


ENCODER_DOORS = {
    "load_encoder": lambda path, configs: load_encoder(path),
    "facts": lambda path, configs: encoder_facts(path),
    "spec": lambda path, configs: encoder_spec(None, path, configs / "encoders", "resnet18", 2, 1),
    "publish": lambda path, configs: HubFolder(path, path.parent / "out", "title", configs / "masking").run(),
    "publish.yaml": lambda path, configs: run_config(
        configs, "publish", encoder=str(path), output_dir=str(path.parent / "out")
    ),
    **{
        f"{config}.yaml": lambda path, configs, config=config: parsed(
            configs, config, "encoder_network", encoder=str(path), frozen_stages=0
        )
        for config in ("pretrain", "classify", "detect", "train")
    },
}


@pytest.mark.parametrize("door", ENCODER_DOORS)
def test_a_recorded_network_is_one_name_behind_its_package(door, encoder, hub, mark, configs, raises_cause):
    with raises_cause(rf"encoder\.json asks to build '{HUB}', which is outside"):
        ENCODER_DOORS[door](encoder(**hub), configs)
    assert not mark.exists()


@pytest.mark.parametrize("door", ENCODER_DOORS)
def test_arguments_of_a_recorded_network_are_values(door, encoder, code, mark, configs, raises_cause):
    with raises_cause(r"encoder\.json: encoder\.arguments.*\$__import__.* is an expression"):
        ENCODER_DOORS[door](encoder(arguments={"norm": ["batch", {"eps": code}]}), configs)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": {"norm": {"_target_": "pathlib.Path.touch", "self": "mark"}}}, "is an expression"),
        ({"arguments": {"_mode_": "debug"}}, "is an expression"),
        ({"arguments": {"norm": "@encoder"}}, "is an expression"),
        ({"arguments": {"norm": "%mark.yaml"}}, "is an expression"),
        ({"arguments": {"x=print('run'), y": 1}}, "not what a specification holds"),
        ({"arguments": "{}"}, "not what a specification holds"),
        ({"channel_argument": "_target_"}, "is an expression"),
        ({"channel_argument": "x=print('run'), y"}, "not what a specification holds"),
        ({"in_channels": "os.system"}, "not what a specification holds"),
        ({"spatial_dims": True}, "not what a specification holds"),
        ({"spatial_dims": [2]}, "not what a specification holds"),
        ({"features": "layer1"}, "not what a specification holds"),
        ({"features": [{"a": 1}]}, "not what a specification holds"),
        ({"more": 1}, "unexpected keyword"),
        ({"arguments": {"pretrained": "mark.pt"}}, "would read weights from elsewhere"),
    ],
)
def test_a_specification_is_of_the_types_that_were_written(changes, message, encoder):
    with pytest.raises(ValueError, match=rf"encoder\.json: .*{message}"):
        load_encoder(encoder(**changes))


def test_a_recorded_network_fetches_nothing(encoder, monkeypatch, caplog):
    monkeypatch.setattr("monai.networks.nets.resnet.hf_hub_download", lambda **_: pytest.fail("a download"))
    path = encoder()
    arguments = encoder_record(path)["encoder"]["arguments"]
    load_encoder(encoder(arguments={**arguments, "pretrained": True}))
    assert "pretrained of resnet18 is switched off" in caplog.text
    load_encoder(encoder(channel_argument="n_input_channels", arguments={**arguments, "pretrained": 1}))


def test_what_is_only_told_may_begin_with_any_sign(encoder):
    path = encoder()
    record = json.loads(path.with_suffix(".json").read_text())
    told = {"dataset": "@home/scans", "prompts": ["$ sign"], "settings_history": [{"settings": {"_target_": "a.B"}}]}
    path.with_suffix(".json").write_text(json.dumps({**record, **told}))
    load_encoder(path)


def test_a_published_card_tells_settings_of_shipped_strategies_only(encoder, tmp_path, configs):
    path = encoder()
    (tmp_path / "private.yaml").write_text("password: 12345\n")
    record = json.loads(path.with_suffix(".json").read_text())
    (tmp_path / "hub").mkdir()
    up = "../" * len(configs.parts)
    for masking in (f"{up}{tmp_path.relative_to('/')}/private", "../masking/region"):
        path.with_suffix(".json").write_text(json.dumps({**record, "masking": masking}))
        HubFolder(path, tmp_path / "hub", "title", configs / "masking").run()
        card = (tmp_path / "hub" / "README.md").read_text()
        assert "12345" not in card
        assert "its settings" not in card


@pytest.fixture
def model(tmp_path: Path, saved: Path) -> Callable[..., Path]:
    """A segmentation model whose record is changed."""
    settings = {
        "spatial_dims": 2,
        "channels": 1,
        "image_size": [32, 32],
        "patch_size": None,
        "classes": {"4": "lesion"},
        "dataset_dir": str(tmp_path / "scans"),
        "segmenter": "flexible_unet",
        "segmenter_options": {"channels": 4},
        "recorded_encoder": json.loads(saved.with_suffix(".json").read_text())["encoder"],
    }

    def make(record: dict[str, Any] | None = None, **changes: Any) -> Path:
        path = tmp_path / "model.pt"
        torch.save({}, path)
        content = {"task": "segmentation", "config": "train", "settings": {**settings, **changes}, "decisions": {}}
        write_record(path, {**content, **(record or {})})
        return path

    return make


def through(config: str) -> Callable[[Path, Path], None]:
    def run(path: Path, configs: Path) -> None:
        output = {} if config == "export" else {"output_dir": str(path.parent / "out")}
        run_config(configs, config, model=str(path), **output)

    return run


MODEL_DOORS = {config: through(config) for config in ("evaluate", "inference", "export", "pack")}


@pytest.fixture(params=MODEL_DOORS)
def door(request: pytest.FixtureRequest) -> Callable[[Path, Path], None]:
    return MODEL_DOORS[request.param]


def test_a_model_names_no_config_of_its_own(door, model, tmp_path, code, mark, configs, raises_cause):
    lines = [f"{name}: [{code!r}]\n" for name in ("initialize", "evaluate", "predict", "network_def")]
    (tmp_path / "evil.yaml").write_text("".join(lines))
    for name in (str(tmp_path / "evil"), str(tmp_path / "evil.yaml"), "../configs/train"):
        with raises_cause(r"model\.json asks for the config|was trained by"):
            door(model({"config": name}), configs)
    assert not mark.exists()


def test_a_model_names_no_parts_of_its_own(door, model, tmp_path, mark, configs, raises_cause):
    (tmp_path / "evil.yaml").write_text(f"_target_: builtins.open\nfile: {mark}\nmode: w\n")
    for name in (str(tmp_path / "evil"), "../segmenters/pyramid"):
        with raises_cause(r"model\.json asks for the segmenter .*\(flexible_unet, pyramid\)"):
            door(model(segmenter=name), configs)
    with raises_cause(r"model\.json asks for the detector|was trained by detect"):
        door(model({"config": "detect"}, detector=str(tmp_path / "evil"), segmenter="pyramid"), configs)
    assert not mark.exists()


def test_options_are_looked_at_as_they_will_be_parsed(door, model, code, mark, configs, raises_cause):
    nested = {"channels": {"_target_": "builtins.open", "file": str(mark), "mode": "w"}}
    for options in (f'{{channels: "{code}"}}', {"channels": [code]}, str(nested)):
        with raises_cause(r"model\.json: .*segmenter_options.* is an expression"):
            door(model(segmenter_options=options), configs)
    with raises_cause(r"model\.json: segmenter_options must be a mapping of plain values"):
        door(model(segmenter_options="channels"), configs)
    assert not mark.exists()


def test_options_that_were_recorded_as_text_still_load(model, configs):
    trained = parsed(configs, "export", "trained", model=str(model(segmenter_options="{channels: 4}")))
    assert trained.settings["segmenter_options"] == {"channels": 4}


def test_a_model_records_no_other_network(door, model, hub, code, mark, configs, raises_cause):
    recorded = {"features": ["layer1"], "spatial_dims": 2}
    with raises_cause(r"model\.json asks to build 'monai\.networks\.nets\.resnet\.torch\.hub\.load'"):
        door(model(recorded_encoder={**recorded, **hub}), configs)
    arguments = {"network": "monai.networks.nets.resnet18", "arguments": {"pretrained": str(mark)}}
    with raises_cause(r"model\.json: .*would read weights from elsewhere"):
        door(model(recorded_encoder={**recorded, **arguments}), configs)
    assert not mark.exists()


def test_names_of_classes_are_no_expressions(door, model, code, mark, configs, raises_cause):
    for name in (code, "@device"):
        with raises_cause(r"model\.json: settings\.classes\.4: .* choose a name that does not begin with"):
            door(model(classes={"4": name}), configs)
    with raises_cause(r"model\.json: decisions.* is an expression"):
        door(model({"decisions": {"threshold": code}}), configs)
    assert not mark.exists()


def test_a_model_decides_neither_where_is_written_nor_which_weights_are_read(model, tmp_path, caplog, configs):
    own = {name: str(tmp_path / name) for name in ("bundle_root", "configs", "encoder", "output_dir", "publish_to")}
    path = model(**own, **{"loss#_target_": "os.system"}, intensity="none")
    run_config(configs, "export", model=str(path), run=[], trained_only="$@trained.settings")
    settings = parsed(configs, "export", "trained", model=str(path)).settings
    assert not set(own) - {"bundle_root"} & set(settings)
    assert settings["bundle_root"] == str(configs.parent)
    assert "model.json: left out, since no record decides on it: bundle_root, configs" in caplog.text


def test_boxes_outside_of_the_set_are_read_only_if_the_user_names_them(model, configs, tmp_path, raises_cause):
    changes = {"config": "detect", "task": "detection"}
    for coco in (str(tmp_path / "c_{split}.json"), "../c.json"):
        path = model(changes, coco=coco, detector="retinanet", segmenter="pyramid")
        with raises_cause(r"model\.json asks for coco .*--options"):
            through("evaluate")(path, configs)


def test_names_with_signs_inside_stay_names_in_a_packed_config(model, configs):
    path = model(classes={"4": "T1@device", ">=5": "it's 50%"}, dataset_dir="phantom:brain_mri_2d")
    settings = segmentation_record(path, configs)["settings"]
    settings |= {"num_workers": 0, "skip_bad": False, "other_codes": "error"}
    parser = ConfigParser({"dataset_dir": "phantom:x", "device": 1, "classes": _train_classes(settings)})
    assert parser.get_parsed_content("classes") == {4: "T1@device", ">=5": "it's 50%"}


def test_what_is_packed_are_settings_of_the_config_and_names_in_one_line(model, configs, caplog):
    settings = segmentation_record(model(run="other", learning_rate=1, bundle_root="x"), configs)["settings"]
    assert not {"run", "learning_rate", "bundle_root"} & set(settings)
    assert "left out, since no record decides on it: bundle_root, learning_rate, run" in caplog.text
    for classes in ({"4": "lesion\ndevice: x"}, {"4": ["a"]}, ["lesion"]):
        with pytest.raises(ValueError, match=r"model\.pt: classes must be codes and their names"):
            segmentation_record(model(classes=classes), configs)


def _train_classes(settings: dict[str, Any]) -> Any:
    try:
        return train_defaults(settings)["classes"]
    except TypeError:  # with what is known of preprocessing
        from custom.preprocessing import Preprocessing

        return train_defaults(settings, Preprocessing())["classes"]


class Sneaky:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return open, (str(self.mark), "w")


def test_weights_are_no_code(model, mark, tmp_path, configs, raises_cause):
    path = model()
    torch.save({"weight": Sneaky(mark)}, path)
    record = json.loads(path.with_suffix(".json").read_text())
    write_record(path, record)
    with pytest.raises(ValueError, match=r"model\.pt: these weights cannot be loaded"):
        BestModel(path, torch.nn.Linear(1, 1)).restore()
    with raises_cause(r"model\.pt: these weights cannot be loaded"):
        through("export")(path, configs)
    (tmp_path / "packed" / "models").mkdir(parents=True)
    path.rename(tmp_path / "packed" / "models" / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: damaged, or more than tensors"):
        check_contents(tmp_path / "packed")
    assert not mark.exists()


def test_checkpoints_are_no_code(mark, tmp_path, caplog):
    torch.save({"network": Sneaky(mark)}, tmp_path / "checkpoint_epoch=1.pt")
    ResumeTraining(tmp_path, {})(Engine(lambda *_: None))
    assert "checkpoint_epoch=1.pt cannot be read" in caplog.text
    assert not mark.exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            {"class": "resnet.torch.hub.load", "repo_or_dir": ".", "source": "local", "model": "m"},
            "asks for the network",
        ),
        ({"class": "BlockArgs"}, "asks for the network"),
        ({"class": "SegResNet.forward"}, "asks for the network"),
        ({"class": None}, "asks for the network"),
        ({"class": "SegResNet", "norm": {"_target_": "os.system"}}, "is an expression"),
        ({"class": "SegResNet", "norm": "$print()"}, "is an expression"),
        ({"class": "Transchex"}, "would read weights from elsewhere|cannot be read"),
        ({"class": "HoVerNet", "pretrained_url": "https://example.org/x"}, "would read weights from elsewhere"),
    ],
)
def test_self_taught_networks_are_networks_of_monai(tmp_path, network, message):
    path = tmp_path / "self_taught.safetensors"
    path.write_bytes(b"")
    path.with_suffix(".json").write_text(json.dumps({"network": network, "sha256": ""}))
    with pytest.raises(ValueError, match=rf"self_taught\.(safetensors|json): .*({message})"):
        load_finder(path)


def test_self_taught_weights_are_looked_at_before_they_are_packed(tmp_path, code, mark, configs, raises_cause):
    path = tmp_path / "self_taught.safetensors"
    path.write_bytes(b"")
    path.with_suffix(".json").write_text(json.dumps({"network": {"class": "UNet", "norm": code}, "sha256": ""}))
    settings = {"localizer": "self_taught", "localizer_options": {"weights": str(path)}, "prompt": "body"}
    with raises_cause(r"self_taught\.safetensors: .*is an expression"):
        run_config(configs, "pack_localizer", output_dir=str(tmp_path / "out"), **settings)
    with raises_cause(r"self_taught\.safetensors: .*is an expression"):
        parsed(configs, "self_teach", "earlier_network", earlier=str(path))
    assert not mark.exists()


def test_the_gate_and_records_of_maps_are_told_not_run(tmp_path, code, mark):
    (tmp_path / "gate.json").write_text(json.dumps({"version": 1, "prompts": {code: {"verdict": code}}}))
    with pytest.raises(ValueError, match=r"gate\.json is not a gate"):
        GateRecord.load(tmp_path)
    maps = tmp_path / "maps" / "scan"
    maps.mkdir(parents=True)
    record = {"localizer": {"_target_": "os.system"}, "prompt": code, "shape": code, "image_digest": code}
    for content in (json.dumps(record), pickle.dumps(Sneaky(mark)).decode("latin1"), "[" * 100_000):
        (maps / "lung.json").write_text(content)
        assert RegionStore(tmp_path).load("scan", "lung") is None
    with pytest.raises(ValueError, match="relative path"):
        RegionStore(tmp_path).load("../../etc", "lung")
    assert not mark.exists()


@pytest.mark.parametrize("reader", [Vocabulary, lambda path: PromptLibrary(path.parent)])
def test_vocabularies_and_prompts_are_words(reader, tmp_path, code, mark):
    path = tmp_path / "words.yaml"
    path.write_text(f"concepts: !!python/object/apply:builtins.open [{str(mark)!r}, w]\n")
    with pytest.raises(ValueError, match=r"words\.yaml: not YAML"):
        reader(path)
    path.write_text(json.dumps({"concepts": {code: {"steps": [code]}}, "body_parts": code}))
    with pytest.raises(ValueError, match=r"words\.yaml"):
        reader(path)
    assert not mark.exists()
