# SPDX-License-Identifier: Apache-2.0
"""What is compared: ``cases.yaml``, read and unfolded into single measurements.

Needs no torch: the process that starts all others stays small, since Linux counts a parent's memory in a child's peak.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

CASES = Path(__file__).with_name("cases.yaml")
CPU_FIGURES = ("cpu_s", "wall_s", "peak_mb")


@dataclass(frozen=True)
class Setting:
    """One size of a comparison.

    Args:
        image_size: sides in voxels.
        batch: images in a batch.
        masked: share of the cells that is hidden.
        threads: threads of each process.
    """

    image_size: tuple[int, ...]
    batch: int
    masked: float
    threads: int


@dataclass(frozen=True)
class Case:
    """One measurement in one process: a contender, and what it has to do.

    Args:
        contender: its name in the tables.
        module: its file in ``benchmarks/speed/contenders``.
        options: arguments of its ``build``.
        work: ``encoder`` (forward and backward of the sum over the maps) or ``step`` (a whole training step).
        image_size: sides in voxels.
        batch: images in a batch.
        channels: channels of an image.
        masked: share of the cells that is hidden.
        cell_size: side of a cell in voxels.
        threads: of torch.
        device: ``cpu`` or ``cuda``.
        warmup: steps before the timed ones.
        steps: timed steps.
        seed: of images and masks.
        counted: whether multiply-adds are counted after the timed steps, in one more step.
    """

    contender: str
    module: str
    options: Mapping[str, Any]
    work: str
    image_size: Sequence[int]
    batch: int
    channels: int
    masked: float
    cell_size: int
    threads: int = 2
    device: str = "cpu"
    warmup: int = 1
    steps: int = 1
    seed: int = 0
    counted: bool = False

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Read what :meth:`as_json` wrote."""
        return cls(**json.loads(text))

    def as_json(self) -> str:
        """Write the case for the command line of a worker."""
        return json.dumps(asdict(self))

    @property
    def grid(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(side // self.cell_size for side in self.image_size)


@dataclass(frozen=True)
class Bar:
    """What a ratio should reach.

    Args:
        ours: contender above the line.
        against: contender below it.
        figure: ``cpu_s``, ``wall_s`` or ``peak_mb``.
        at_most: largest ratio that meets the bar; one number, or one for each masked share that has a bar.
        below: likewise, but the ratio must be smaller.
    """

    ours: str
    against: str
    figure: str
    at_most: float | Mapping[float, float] | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        if self.figure not in CPU_FIGURES or (self.at_most is None) == (self.below is None):
            raise ValueError(f"A bar has a figure of {CPU_FIGURES} and either at_most or below, got {self}.")

    def limit(self, masked: float) -> float | None:
        """The number to reach at a masked share; None where there is no bar."""
        if self.below is not None:
            return self.below
        return self.at_most.get(masked) if isinstance(self.at_most, Mapping) else self.at_most

    def is_met(self, ratio: float, masked: float) -> bool:
        """Whether a ratio reaches the bar."""
        limit = self.limit(masked)
        return limit is not None and (ratio < limit if self.below is not None else ratio <= limit)


@dataclass(frozen=True)
class Comparison:
    """Contenders that do the same work at some sizes; the arguments are explained in ``cases.yaml``."""

    name: str
    work: str
    channels: int
    cell_size: int
    image_sizes: Sequence[Sequence[int]]
    batches: Sequence[int]
    masked: Sequence[float]
    ours: Sequence[str]
    against: Sequence[str]
    bars: Sequence[Bar] = ()
    also_threads: Sequence[int] = ()
    on_cuda: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Comparison:
        """Read an entry of the YAML file."""
        return cls(**{**values, "bars": tuple(Bar(**bar) for bar in values.get("bars", ()))})

    @property
    def contenders(self) -> tuple[str, ...]:
        """Who takes part, in the order in which they take turns."""
        return (*self.ours, *self.against)

    def settings(self, threads: int) -> Iterator[Setting]:
        """All sizes, with the usual number of threads first."""
        counts = dict.fromkeys((threads, *self.also_threads))
        for each, size, batch, masked in product(counts, self.image_sizes, self.batches, self.masked):
            yield Setting(tuple(size), batch, masked, each)

    def on(self, device: str) -> Comparison:
        """The comparison as it is made on a device."""
        return replace(self, **{**self.on_cuda, "also_threads": ()}) if device == "cuda" else self

    def quick(self, batch: int) -> Comparison:
        """One small setting of it."""
        middle = self.masked[len(self.masked) // 2]
        batches = [min(batch, *self.batches)]
        return replace(self, image_sizes=self.image_sizes[:1], batches=batches, masked=[middle], also_threads=())


@dataclass(frozen=True)
class Plan:
    """All comparisons, and how they are measured.

    Args:
        contenders: name -> module and its options.
        comparisons: what is compared.
        rounds: how often the contenders take turns.
        warmup: steps before the timed ones.
        steps: timed steps of a process.
        seed: of images and masks.
    """

    contenders: Mapping[str, Mapping[str, Any]]
    comparisons: Sequence[Comparison]
    rounds: int
    warmup: int
    steps: int
    seed: int

    @classmethod
    def read(cls, file: Path = CASES, quick: bool = False, device: str = "cpu") -> Plan:
        """Read a YAML file like ``cases.yaml``."""
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        short = values.pop("quick")
        comparisons = [Comparison.of(entry).on(device) for entry in values.pop("comparisons")]
        if quick:
            batch = short.pop("batch")
            comparisons = [comparison.quick(batch) for comparison in comparisons]
            values.update(short)
        return cls(comparisons=comparisons, **values)

    def case(self, comparison: Comparison, setting: Setting, name: str, device: str, counted: bool) -> Case:
        """One measurement of a contender."""
        options = dict(self.contenders[name])
        module = options.pop("module")
        shared = {"work": comparison.work, "channels": comparison.channels, "cell_size": comparison.cell_size}
        pace = {"warmup": self.warmup, "steps": self.steps, "seed": self.seed}
        return Case(name, module, options, **shared, **asdict(setting), **pace, device=device, counted=counted)
