# SPDX-License-Identifier: Apache-2.0
"""What the study plans: its runs in order, and the arguments that each gives to the bundle's configs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from benchmarks.bundle import CONFIGS
from benchmarks.first_look import slug
from custom.components import load_component

SETTINGS = Path(__file__).with_name("study.yaml")
PRETRAINED_ON = ("train", "val")  # val: the reconstruction error of pretraining, no label
CODE = ("benchmarks", "bundle", "custom", "datasets")
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One evaluation of one arm: what a result file is about."""

    dataset: str
    seed: int
    arm: str
    evaluation: str

    @property
    def name(self) -> str:
        """Name of the result, fit for a file."""
        return f"{self.pretraining}-{slug(self.evaluation)}"

    @property
    def pretraining(self) -> str:
        """Name of the pretraining, which several evaluations share."""
        return f"{self.dataset}-seed_{self.seed}-{slug(self.arm)}"


def load_settings(path: str | Path = SETTINGS) -> dict[str, Any]:
    """Read a settings file."""
    return ConfigParser.load_config_file(str(path))


def planned(settings: Settings) -> list[Run]:
    """All runs of the study in their order: a set is done seed by seed, a seed arm by arm."""
    return [
        Run(dataset, seed, arm, evaluation)
        for dataset in settings["sets"]
        for seed in settings["seeds"]
        for arm in settings["arms"]
        for evaluation in settings["evaluations"]
    ]


def needs_region(settings: Settings, arm: str) -> bool:
    """Whether an arm reads region maps."""
    options = settings["arms"][arm]
    return options is not None and bool(load_component(CONFIGS / "masking", options["masking"]).needs_region)


def pretraining_options(settings: Settings, run: Run) -> dict[str, Any] | None:
    """Arguments of pretrain.yaml that make a run what it is; None: no pretraining."""
    arm, dataset = settings["arms"][run.arm], settings["sets"][run.dataset]
    if arm is None:
        return None
    prompt = dataset["prompt"] if needs_region(settings, run.arm) else None
    return {**settings["common"], **settings["pretrain"], **dataset.get("pretrain", {}), **arm, "prompt": prompt}


def evaluation_options(settings: Settings, run: Run) -> dict[str, Any]:
    """Arguments of classify.yaml that make a run what it is."""
    return {**settings["common"], **settings["evaluations"][run.evaluation]}


def code_files(folders: Sequence[str] = CODE) -> list[Path]:
    """The files of the repository that the study needs, below the present folder."""
    files = (path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path for path in files if "__pycache__" not in path.parts)


def code_digest() -> str:
    """Short hash of all code that makes the figures, so that a table can say whether it came from one."""
    state = hashlib.sha256()
    for path in code_files(("bundle/configs", "custom", "datasets")):
        state.update(path.as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()[:12]
