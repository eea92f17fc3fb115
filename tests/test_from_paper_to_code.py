# SPDX-License-Identifier: Apache-2.0
"""docs/from_paper_to_code.md says what is true; figures of guides are measured; configs call things alike."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import fire
import monai.bundle
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from PIL import Image

from custom.components import load_component
from custom.networks import encoder_record
from tests.docs.pages import blocks_of
from tests.localizers.tiny_models import tiny_sam
from tests.localizers.vision_language.tiny_open_clip import save_tiny_model

PAGE = "from_paper_to_code.md"
FIGURED = (PAGE, "which_localizer_which_ratio.md")
FILE = r"(?!output/)(?:[\w./-]+\.(?:yaml|py|md)|[\w-]+/[\w./-]+)"  # not what commands write
QUOTED = re.compile(rf"(?P<path>{FILE})(?::(?P<name>[\w.]+)|#(?P<key>[\w#]+) = (?P<value>.+))?")
FIGURE = re.compile(r"-?\d+(?:\.\d+)?(?:e-\d+)?(?: ± \d+(?:\.\d+)?)?")
LINK = re.compile(r"\[([^\]]*)\]\(\.\./(benchmarks/results/\w+\.md)\)")


@pytest.fixture(autouse=True)
def _in_the_root(repository, monkeypatch):
    monkeypatch.chdir(repository)
    yield
    set_determinism(None)


def page(repository: Path, name: str = PAGE) -> str:
    return (repository / "docs" / name).read_text(encoding="utf-8")


def prose(repository: Path, name: str = PAGE) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page(repository, name), flags=re.MULTILINE | re.DOTALL)


def quoted(repository: Path, name: str = PAGE) -> list[re.Match[str]]:
    """Files, names in them and keys of configs that the page quotes."""
    spans = re.findall(r"`([^`\n]+)`", prose(repository, name))
    return [found for span in dict.fromkeys(spans) if (found := QUOTED.fullmatch(span))]


def names_in(path: Path) -> set[str]:
    """Names of a Python file: classes, functions, constants, and methods as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
            names |= {f"{node.name}.{each.name}" for each in ast.iter_child_nodes(node) if hasattr(each, "name")}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def shipped(path: Path, key: str) -> Any:
    """The value of a key as it stands in a config; `#` leads into mappings and lists."""
    value: Any = ConfigParser.load_config_file(str(path))
    for part in key.split("#"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


@pytest.mark.parametrize("name", FIGURED)
def test_files_names_and_values_are_there(repository, configs, name):
    found = quoted(repository, name)
    wrong = []
    for each in found:
        path = next((root / each["path"] for root in (repository, configs) if (root / each["path"]).exists()), None)
        if path is None:
            wrong.append(f"{each[0]}: no such file")
        elif each["name"] and each["name"] not in names_in(path):
            wrong.append(f"{each[0]}: no such name")
        elif each["key"] and shipped(path, each["key"]) != yaml.safe_load(each["value"]):
            wrong.append(f"{each[0]}: {shipped(path, each['key'])!r}")
    assert not wrong
    if name == PAGE:
        assert sum(bool(each["key"]) for each in found) > 50
        assert sum(bool(each["name"]) for each in found) > 50


def test_what_does_not_exist_is_found(repository, configs):
    assert names_in(repository / "custom" / "masking" / "region.py") >= {"RegionMasking", "RegionMasking.sample"}
    assert shipped(configs / "pretrain.yaml", "train#random_transforms#0#prob") == 0.5
    assert QUOTED.fullmatch("pretrain.yaml#cell_size = 8")["value"] == "8"
    assert not QUOTED.fullmatch("--masking spark")


@pytest.mark.parametrize("name", FIGURED)
def test_figures_stand_in_the_results(repository, name):
    """What links to a table stands in one line of it."""
    links = [(" ".join(text.split()), file) for text, file in LINK.findall(prose(repository, name))]
    links = [link for link in links if FIGURE.search(link[0])]
    wrong = []
    for text, file in links:
        figures = FIGURE.findall(text)
        lines = (repository / file).read_text(encoding="utf-8").splitlines()
        if not any(set(figures) <= set(FIGURE.findall(line)) for line in lines):
            wrong.append(f"{text} in {file}")
    assert not wrong
    assert len(links) > 20


def commands(repository: Path) -> dict[str, list[str]]:
    """Words behind `python -m monai.bundle` of the page's commands, by config."""
    found: dict[str, list[str]] = {}
    for block in blocks_of(PAGE, page(repository)):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            found[Path(words[words.index("--config_file") + 1]).stem] = words[3:]
    return found


def execute(words: list[str], **changes: str) -> None:
    """Run a command of the page with other values, through the parser of the command line."""
    given = [word for name, value in changes.items() for word in (f"--{name}", value)]
    fire.Fire({"run": monai.bundle.run}, command=[*words, *given], name="monai.bundle")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for index in range(2):
        values = random.integers(20, 60, (96, 80), dtype=np.uint8)
        values[20:44, 30 + index : 60] += 150
        Image.fromarray(values).save(folder / f"scan_{index}.png")
    return folder


@pytest.fixture(scope="module")
def regions(tmp_path_factory, pictures, repository) -> Path:
    """Maps by the page's own command, of tiny models with random weights."""
    folder = tmp_path_factory.mktemp("paper")
    weights = {"biomedclip": save_tiny_model(folder / "biomedclip"), "sam": tiny_sam(folder / "sam")}
    words = commands(repository)["localize"]
    options = {name: yaml.safe_load(words[words.index(f"--{name}") + 1]) for name in
               ("localizer_options", "refiner_options")}  # fmt: skip
    # A bottleneck behind one of the six blocks that there are.
    options["localizer_options"] |= {"source": str(weights["biomedclip"]), "download": False, "layer": 3, "steps": 3}
    options["refiner_options"]["sam"] |= {"source": str(weights["sam"]), "download": False}
    changes = {name: str(value) for name, value in options.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        execute(words, dataset_dir=str(pictures), output_dir=str(folder / "maps"), gate_scans="0", **changes)
    return folder / "maps"


def test_the_papers_chain_runs(regions):
    files = [file for file in (regions / "maps").rglob("*.png") if file.is_file()]
    assert len(files) == 2
    assert all(np.asarray(Image.open(file)).any() for file in files)


def test_the_papers_boxes_are_around_masks_of_sam(repository, configs):
    """Which are above 0 everywhere: the box of all that would be the whole picture."""
    words = commands(repository)["localize"]
    options = yaml.safe_load(words[words.index("--refiner_options") + 1])
    boxes = load_component(configs / "refiners", "boxes", options.get("boxes"))
    logits = torch.full((1, 20, 30), -20.0)
    logits[:, 4:9, 10:12], logits[:, 8, 10:16] = 20, 20
    expected = torch.zeros(1, 20, 30)
    expected[:, 4:9, 10:16] = 1
    assert torch.equal(boxes.refine(torch.zeros(1, 20, 30), logits.sigmoid()).round(), expected)


def test_the_papers_pretraining_runs(regions, pictures, repository, tmp_path):
    """All of its options, on small pictures, with a small network of the same form."""
    execute(
        commands(repository)["pretrain"],
        dataset_dir=str(pictures),
        region_dir=str(regions),
        output_dir=str(tmp_path),
        backbone="imagenet_resnet18",
        decoder_options="{width: 32}",
        image_size="[64, 64]",
        batch_size="2",
        warmup_epochs="1",
        max_epochs="1",
        device="cpu",
    )
    record = encoder_record(tmp_path / "encoder.safetensors")
    assert record["encoder"]["in_channels"] == 3
    assert record["cell_size"] == 32
    assert not record["gate"]["masked_at_random_instead"]


def test_downstream_options_are_known(repository, configs):
    words = commands(repository)
    for task in ("classify", "detect"):
        given = {word[2:] for word in words[task] if word.startswith("--")} - {"config_file"}
        assert given <= set(ConfigParser.load_config_file(str(configs / f"{task}.yaml")))
    changes = yaml.safe_load(words["detect"][words["detect"].index("--detector_options") + 1])
    assert set(changes) <= set(ConfigParser.load_config_file(str(configs / "detectors" / "mask_rcnn.yaml")))


# ---------------------------------------------------------------------------------------- the words of the configs
COMPARED = ("pretrain", "localize", "self_teach", "classify")
# Files have data, and outputs, of their own; an option may do more in one workflow than in another.
OWN_WORDS = {
    "dataset_dir", "output_dir", "seed", "resume", "backbone", "channels", "spacing", "crop_to_body", "image_size",
    "amp", "encoder", "val_interval", "mask_values", "skip_bad", "split",
}  # fmt: skip


def settings(path: Path) -> dict[str, str]:
    """Comments of the settings at the top of a config; a comment may go on in the next line."""
    text = path.read_text(encoding="utf-8")
    found: dict[str, str] = {}
    name = ""
    for line in text[: text.index("derived from the above")].splitlines():
        if start := re.match(r"(\w+):(.*)$", line):
            name, rest = start[1], start[2]
            found[name] = rest.rpartition("# ")[2].strip() if "# " in rest else ""
        elif name and (more := re.match(r"\s+# (.*)$", line)):
            found[name] += f" {more[1]}"
        else:
            name = ""
    return found


def test_the_same_option_has_the_same_words(configs):
    comments = {name: settings(configs / f"{name}.yaml") for name in COMPARED}
    names = {name for each in comments.values() for name in each} - OWN_WORDS
    differing = {
        name: words
        for name in names
        if len(set((words := {file: each[name] for file, each in comments.items() if name in each}).values())) > 1
    }
    assert not differing
    assert len(set(comments["pretrain"]) & set(comments["localize"]) - OWN_WORDS) > 8


def test_every_config_fits_on_a_screen(configs):
    files = {file.relative_to(configs).as_posix(): file for file in configs.rglob("*.yaml")}
    long = {name for name, file in files.items() for line in file.read_text().splitlines() if len(line) > 120}
    assert not long
