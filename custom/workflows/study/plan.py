# SPDX-License-Identifier: Apache-2.0
"""What a study compares: arms at budgets, seeds in pairs, and the runs that this takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple_rep

from custom.components import component_file, load_component
from custom.masking import MaskStrategy, RegionMatchedRandom

SCRATCH = "from scratch"
LOCALIZATION, PRETRAINING, FINE_TUNING, PROBE = "localization", "pretraining", "fine-tuning", "linear probe"


@dataclass(frozen=True)
class Condition:
    """What the compared networks differ in.

    - ``arm``: the mask strategy's file name, or :data:`SCRATCH`.
    - ``ratio``: share of the cells that is hidden; None: as the strategy's file says.
    """

    arm: str
    ratio: float | None = None

    @property
    def name(self) -> str:
        """For tables: "region 0.7"."""
        return self.arm if self.ratio is None else f"{self.arm} {self.ratio:g}"

    @property
    def folder(self) -> str:
        """For files."""
        return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in self.name)


@dataclass(frozen=True)
class Arm:
    """A mask strategy of the study.

    - ``name``, ``masking``: of its file, and what ``--masking`` takes.
    - ``content``: of the file.
    - ``strategy``: built from it.
    """

    name: str
    masking: str
    content: Mapping[str, Any]
    strategy: MaskStrategy

    @property
    def guided(self) -> bool:
        """Whether the prompt decides where is hidden."""
        return self.strategy.needs_region and not isinstance(self.strategy, RegionMatchedRandom)

    def options(self, visible_cells: int | None) -> dict[str, Any]:
        """Return what ``mask_options`` must be to show exactly so many cells; None: as the file says.

        Raises:
            ValueError: if the strategy knows no such budget.
        """
        if visible_cells is None:
            return {}
        options: dict[str, Any] = {"visible_cells": visible_cells}
        if "ratio" in self.content:
            options["ratio"] = None
        try:
            load_component(Path(self.masking).parent, self.masking, options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{self.masking}: this strategy cannot show a fixed number of cells ({error}), so it cannot be "
                "compared at equal budgets. Leave it out of --arms, or compare as the files say with --ratios null."
            ) from error
        return options


def load_arms(folder: Path, names: Sequence[str]) -> list[Arm]:
    """Return the strategies of files in a folder; ValueError if there is no such file, or a name comes twice."""
    arms = []
    for name in names:
        file = component_file(folder, name)
        content = ConfigParser.load_config_file(str(file))
        arms.append(Arm(file.stem, str(file), content, load_component(folder, str(file))))
    twice = {arm.name for arm in arms if [each.name for each in arms].count(arm.name) > 1}
    if twice:
        raise ValueError(f"--arms: {', '.join(sorted(twice))} is named twice.")
    return arms


def visible_cells(ratio: float, image_size: Sequence[int], cell_size: int | Sequence[int]) -> int:
    """Return how many cells an arm shows at a ratio: ``round((1 - ratio) * cells)``, halves upwards.

    Args:
        ratio: share of the cells to hide, in (0, 1).
        image_size: voxels an axis.
        cell_size: edge of a cell in voxels, one number or one an axis.

    Raises:
        ValueError: if that hides or shows nothing.
    """
    cells = math.prod(
        size // cell for size, cell in zip(image_size, ensure_tuple_rep(cell_size, len(image_size)), strict=True)
    )
    count = math.floor((1 - ratio) * cells + 0.5 + 1e-9)
    if not 0 < count < cells:
        raise ValueError(
            f"--ratios: hiding {ratio:g} of {cells} cells leaves {count} visible; at least one must be hidden and one "
            "visible. Choose ratios between 0 and 1, or smaller cells."
        )
    return count


@dataclass(frozen=True)
class Pair:
    """One repetition of the whole comparison.

    - ``index``: its number; ``seed``, ``pretrain_seed``: of learning the task and of pretraining.
    - ``unit``: what it shares encoders with: fine-tunings from one encoder tell nothing of the luck of pretraining.
    """

    index: int
    seed: int
    pretrain_seed: int
    unit: int


def make_pairs(seeds: Sequence[int], pretrain_seeds: Sequence[int]) -> list[Pair]:
    """Pair the seeds: the pretraining's take turns where there are fewer of them.

    With one pretraining seed every run is a unit of its own, and the spread is that of fine-tuning alone; with several,
    the runs from one seed of pretraining are a unit.

    Raises:
        ValueError: if there are none, a seed comes twice, or the turns do not come out even.
    """
    for name, each in (("seeds", seeds), ("pretrain_seeds", pretrain_seeds)):
        if not each or len(set(each)) < len(each):
            raise ValueError(f"--{name} must be one or more different numbers, received {list(each)}.")
    if len(seeds) % len(pretrain_seeds):
        raise ValueError(
            f"--seeds must be as many as --pretrain_seeds, or twice, three times, ... as many; received {len(seeds)} "
            f"and {len(pretrain_seeds)}."
        )
    shared = len(pretrain_seeds) == 1
    return [
        Pair(index, seed, pretrain_seeds[turn := index % len(pretrain_seeds)], index if shared else turn)
        for index, seed in enumerate(seeds)
    ]


@dataclass(frozen=True, eq=False)
class Step:
    """A run of a config, in a folder of its own.

    - ``kind``: :data:`LOCALIZATION`, ...; ``config``: name of the config file.
    - ``folder``: where it writes; ``settings``: what the config is given, ``output_dir`` and ``resume`` aside.
    - ``after``: the step whose result it needs.
    - ``condition``, ``pair``: what it belongs to, None for the localization.
    - ``guided``: whether it masks as the prompt says.
    - ``noted``: what else decides its result, for the record.
    """

    kind: str
    config: str
    folder: Path
    settings: Mapping[str, Any]
    after: Step | None = None
    condition: Condition | None = None
    pair: Pair | None = None
    guided: bool = False
    noted: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For the log."""
        if self.condition is None or self.pair is None:
            return self.kind
        seed = self.pair.pretrain_seed if self.kind == PRETRAINING else self.pair.seed
        return f"{self.kind}, {self.condition.name}, seed {seed}"


def listed(value: Any, name: str) -> list[Any]:
    """Read a list as it may arrive from the command line; one value is a list of one, null an empty one.

    Raises:
        ValueError: if it is no list of names or numbers.
    """
    read = yaml.safe_load(value) if isinstance(value, str) else value
    values = [] if read is None else list(read) if isinstance(read, list | tuple) else [read]
    if any(isinstance(each, Mapping | list | tuple) or each is None for each in values):
        raise ValueError(f'--{name} must be a list such as "[a, b]", received {value!r}.')
    return values
