# SPDX-License-Identifier: Apache-2.0
"""What a record may hold, and what is refused: everything that would decide which code runs or which file is read."""

from __future__ import annotations

import json

import pytest
from monai.networks import nets
from torch import nn

from custom.records import (
    UntrustedNetworkError,
    check_plain,
    read_json,
    recorded_arguments,
    recorded_name,
    recorded_network,
    recorded_options,
)

NETS = ["monai.networks.nets", "tests.test_records.build"]


class Reading(nn.Module):
    """A network that reads weights unless it is told not to."""

    def __init__(
        self, width: int = 4, pretrained: bool = True, checkpoint: str | None = None, **further: object
    ) -> None:
        super().__init__()


def build(width: int = 4) -> nn.Module:
    return Reading(width, pretrained=False)


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "a", "me@host", "50%", "a $", [1, ["b"]], {"c": {"d": [None]}}])
def test_plain_values_pass(value):
    check_plain("r.json", value)


@pytest.mark.parametrize(
    "value",
    [
        "$1",
        "@id",
        "%file.yaml",
        "_target_",
        ["a", ["$1"]],
        {"a": {"b": "$1"}},
        {"$a": 1},
        {"a": {"_target_": "os.system"}},
        {"a": {"_mode_": "debug"}},
        {"_disabled_": True},
        {1: ("@id",)},
    ],
)
def test_expressions_are_refused_at_any_depth(value):
    with pytest.raises(ValueError, match=r"r\.json: .*is an expression"):
        check_plain("r.json", value)
    assert check_plain("r.json", {"fine": 1}) is None


def test_the_message_names_the_file_the_field_and_the_way_out():
    with pytest.raises(
        ValueError, match=r"r\.json: settings\.classes\.1: '\$mass' .* choose a name that does not begin"
    ):
        check_plain("r.json", {"classes": {"1": "$mass"}}, "settings")


def test_objects_are_no_plain_values():
    with pytest.raises(ValueError, match="no plain value"):
        check_plain("r.json", {"a": object()})


def test_a_record_is_read_whole_or_named(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"a": 1, "dataset": "@home/scans"}))
    assert read_json(path, "Again.", told_only=("dataset",)) == {"a": 1, "dataset": "@home/scans"}
    with pytest.raises(ValueError, match=r"r\.json: dataset"):
        read_json(path, "Again.")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'"text"', b"[" * 100_000, None])
def test_damaged_records_are_named(tmp_path, content):
    path = tmp_path / "r.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"r\.json: cannot be read as a record .*Again\."):
        read_json(path, "Again.")


def test_options_are_looked_at_after_parsing():
    assert recorded_options("r.json", "options", None) == {}
    assert recorded_options("r.json", "options", {"channels": 4}) == {"channels": 4}
    assert recorded_options("r.json", "options", "{channels: 4, deep: true}") == {"channels": 4, "deep": True}
    for text in ("{a: \"$__import__('os')\"}", "a: '@b'", "a: [{_target_: os.system}]", "{a: &x '%f', b: *x}"):
        with pytest.raises(ValueError, match=r"r\.json: .*is an expression"):
            recorded_options("r.json", "options", text)
    for other in ("$dict(a=1)", "[1]", 3, "{a: !!python/object/apply:os.system [id]}", "&a {b: *a}"):
        with pytest.raises(ValueError, match=r"r\.json: options must be a mapping of plain values"):
            recorded_options("r.json", "options", other)


def test_names_are_those_of_shipped_parts():
    assert recorded_name("r.json", "segmenter", "pyramid", ["pyramid"], "") == "pyramid"
    for name in ("/x/pyramid", "../pyramid", "pyramid.yaml", "./pyramid", "", None, ["pyramid"], {"pyramid": 1}):
        with pytest.raises(ValueError, match=r"r\.json asks for the segmenter .*\(pyramid\)\. Do this"):
            recorded_name("r.json", "segmenter", name, ["pyramid"], "Do this")


@pytest.mark.parametrize("name", ["monai.networks.nets.SegResNet", "monai.networks.nets.resnet18"])
def test_networks_of_a_trusted_package(name):
    assert recorded_network("r.json", name, NETS) is getattr(nets, name.rpartition(".")[2])


def test_a_function_that_is_trusted_by_its_own_name():
    assert recorded_network("r.json", "tests.test_records.build", NETS).__name__ == "build"


@pytest.mark.parametrize(
    "name",
    [
        "monai.networks.nets.resnet.torch.hub.load",  # a walk through what modules import
        "monai.networks.nets.resnet.torch",
        "monai.networks.nets.resnet",  # a module
        "monai.networks.nets.resnet.resnet18",
        "monai.networks.nets.annotations",
        "monai.networks.nets.__builtins__",
        "monai.networks.nets.BlockArgs",  # a class, but no network
        "monai.networks.nets.FLEXUNET_BACKBONE",
        "monai.networks.nets.SegResNet.forward",
        "monai.networks.nets.absent",
        "monai.networks.netsfoo.Net",
        "monai.networks.nets.",
        "monai.networks.nets",
        "tests.test_records.build.__globals__",
        "tests.test_records.Reading",
        "os.system",
        "",
        None,
        3,
        ["monai.networks.nets.SegResNet"],
    ],
)
def test_nothing_else_is_built(name):
    with pytest.raises(UntrustedNetworkError, match=r"r\.json asks to build .* outside"):
        recorded_network("r.json", name, NETS)


def test_what_a_package_imports_is_not_defined_there(monkeypatch):
    monkeypatch.setattr(nets, "Borrowed", nn.Linear, raising=False)
    with pytest.raises(UntrustedNetworkError):
        recorded_network("r.json", "monai.networks.nets.Borrowed", NETS)


def test_networks_do_not_read_weights_from_elsewhere(caplog):
    assert recorded_arguments("r.json", Reading, {"width": 2, "pretrained": False}) == {"width": 2, "pretrained": False}
    for given in ({}, {"pretrained": True}, {"pretrained": 1}, {"pretrained": [0]}):
        assert recorded_arguments("r.json", Reading, given)["pretrained"] is False
    assert "r.json: pretrained of Reading is switched off" in caplog.text
    assert recorded_arguments("r.json", Reading, {"more_pretrained": True})["more_pretrained"] is False
    for given in ({"pretrained": "/a/b.pt"}, {"pretrained": False, "checkpoint": "c.pt"}, {"weights": "DEFAULT"}):
        with pytest.raises(ValueError, match=r"r\.json: .* would read weights from elsewhere"):
            recorded_arguments("r.json", Reading, given)


def test_arguments_fit_and_are_plain():
    with pytest.raises(ValueError, match=r"r\.json: cannot be read as a record: build: .*'height'"):
        recorded_arguments("r.json", build, {"height": 2})
    with pytest.raises(ValueError, match=r"r\.json: arguments\.width: .*is an expression"):
        recorded_arguments("r.json", build, {"width": "$2"})


def test_every_reader_of_json_comes_through_here(repository):
    """A reader that forgets would be a new door. These read what lies beside no weights, or typed values only."""
    elsewhere = {
        "custom/records.py",
        "custom/gate/record.py",  # typed
        "custom/handlers/run_settings.py",  # what it wrote itself
        "custom/localizers/external/process.py",  # its own worker's answers
        "custom/localizers/external/serve.py",
        "custom/localizers/operators/finder.py",  # typed, its network through here
        "custom/localizers/pretrained.py",  # a tokenizer's vocabulary
        "custom/localizers/vision_language/open_clip_model.py",
        "custom/locks.py",
        "custom/regions/record.py",  # typed
        "custom/workflows/packing/localization.py",  # after the finder has read it
        "custom/workflows/packing/pack.py",  # metadata.json of the repository
        "custom/workflows/packing/segmentation.py",  # metrics.json, for figures
        "custom/workflows/self_teaching.py",  # after the finder has read it
        "custom/workflows/study/running.py",  # of the study's own runs
        "custom/workflows/study/study.py",
    }
    files = (repository / "custom").rglob("*.py")
    readers = {file.relative_to(repository).as_posix() for file in files if "json.load" in file.read_text()}
    assert readers <= elsewhere
