# SPDX-License-Identifier: Apache-2.0
"""A network that was trained to find lesions on the user's own scans, and all that it takes to use it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from custom.finite import check_finite
from custom.localizers.operators.body import body_mask
from custom.localizers.operators.brain import brain
from custom.localizers.operators.grid import resized
from custom.localizers.operators.lungs import lung_mask
from custom.localizers.operators.scan import Scan, closed, smooth, unit
from custom.records import UntrustedNetworkError, recorded_arguments, recorded_network

_NETWORKS = "monai.networks.nets"
HOW_TO_MAKE = "Make both with bundle/configs/self_teach.yaml"


def to_grid(values: np.ndarray, image_size: Sequence[int]) -> np.ndarray:
    """Bring a scan to the network's grey levels and grid, in training and in use.

    Args:
        values: ``[*spatial]``.
        image_size: of the grid; each side is stretched or shrunk on its own.

    Returns:
        float32 ``[*image_size]``: the percentiles 0.5 and 99.5 at 0 and 1, cut there.
    """
    return resized(unit(values, 0.5, 99.5), tuple(image_size))


def search_area(values: np.ndarray, area: str, modality: str) -> np.ndarray:
    """Where lesions are put in training and sought in use.

    Args:
        values: on the network's grid, ``[*spatial]``.
        area: a name of ``AREAS``.
        modality: ``mri``, ``ct`` or ``xray``.

    Returns:
        Boolean ``[*spatial]``; everything if the area cannot be found in this scan.

    Raises:
        ValueError: if the name is unknown.
    """
    if area not in AREAS:
        raise ValueError(f"Unknown search area {area!r}; known: {', '.join(AREAS)}.")
    found = AREAS[area](Scan(values, modality, "left")) if np.ptp(values) > 0 else np.zeros(values.shape, dtype=bool)
    return found if found.mean() >= 0.02 else np.ones(values.shape, dtype=bool)


def _lungs(scan: Scan) -> np.ndarray:
    """Lungs with nodules at the chest wall, which the lungs' outline leaves out."""
    return closed(lung_mask(scan), 0.1 * scan.size)


AREAS: Mapping[str, Callable[[Scan], np.ndarray]] = MappingProxyType(
    {
        "brain": lambda scan: brain(scan) > 0.5,
        "lungs": _lungs,
        "body": body_mask,
        "anywhere": lambda scan: np.ones(scan.values.shape, dtype=bool),
    }
)


@dataclass(frozen=True)
class Finder:
    """A trained network with what it needs to be used.

    - ``network``: from ``[B, 1, *image_size]`` to logits ``[B, 1, *image_size]``.
    - ``flips``: axes along which the scan is mirrored as well, the outputs averaged.
    - ``blur``: sigma of the smoothing, as a share of the grid's longest side.
    - ``area``, ``modality``: see :func:`search_area`.
    - ``half``: the network's output that counts as probability 0.5, in (0, 1).
    """

    network: nn.Module
    spatial_dims: int
    image_size: tuple[int, ...]
    flips: tuple[int, ...]
    blur: float
    area: str
    modality: str
    half: float = 0.5

    def probability(self, values: np.ndarray) -> np.ndarray:
        """From grey values ``[*spatial]`` to probabilities ``[*image_size]`` in [0, 1], float32."""
        grid = to_grid(values, self.image_size)
        return self.on_grid(grid, search_area(grid, self.area, self.modality))

    def on_grid(self, grid: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Probabilities of a scan that is on the network's grid already, with its search area."""
        found = self._outputs(torch.from_numpy(grid)[None, None]).numpy()
        blurred = np.clip(smooth(found * inside, self.blur * max(self.image_size)), 0, 1)
        # The odds are shifted: 0 and 1 stay, and so does the order of voxels.
        certain, doubtful = blurred * (1 - self.half), (1 - blurred) * self.half
        probability: np.ndarray = certain / (certain + doubtful)
        return probability

    @torch.inference_mode()
    def _outputs(self, image: Tensor) -> Tensor:
        axes: list[list[int]] = [[], *([axis + 2] for axis in self.flips)]
        outputs = [torch.sigmoid(self.network(image.flip(flip))).flip(flip) for flip in axes]
        return torch.stack(outputs).mean(dim=0)[0, 0]


def load_finder(weights: str | Path) -> Finder:
    """Rebuild a trained network, once a file and content; ValueError if that cannot be done."""
    path = Path(weights)
    record_path = path.with_suffix(".json")
    missing = [str(each) for each in (path, record_path) if not each.is_file()]
    if missing:
        raise ValueError(f"{' and '.join(missing)}: no such file. {HOW_TO_MAKE}, or name another with `weights`.")
    stamp = tuple((each.stat().st_mtime_ns, each.stat().st_size) for each in (path, record_path))
    return _load(path.resolve(), stamp)


@lru_cache(maxsize=4)
def _load(path: Path, stamp: tuple[tuple[int, int], ...]) -> Finder:
    """Build the network of a file; ``stamp`` tells the cache when the files were replaced."""
    record_path = path.with_suffix(".json")
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        finder = make_finder(build_network(record["network"], path), record)
        found, expected = hashlib.sha256(path.read_bytes()).hexdigest(), record["sha256"]
        if found == expected:
            finder.network.load_state_dict(load_file(path))
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
        RuntimeError,
    ) as error:
        raise ValueError(f"{path}: cannot be read as a self-taught network ({error}). {HOW_TO_MAKE}.") from error
    if found != expected:
        raise ValueError(f"{path}: {record_path.name} belongs to other weights. {HOW_TO_MAKE}.")
    check_finite(path, finder.network.state_dict())
    finder.network.eval().requires_grad_(False)
    return finder


def make_finder(network: nn.Module, record: Mapping[str, Any]) -> Finder:
    """Put a network together with the facts of its record; KeyError or TypeError if one is missing or none."""
    return Finder(
        network=network,
        spatial_dims=int(record["spatial_dims"]),
        image_size=tuple(record["image_size"]),
        flips=tuple(record["flips"]),
        blur=float(record["blur"]),
        area=str(record["area"]),
        modality=str(record["modality"]),
        half=float(record["half"]),
    )


def build_network(spec: Mapping[str, Any], origin: str | Path = "network") -> nn.Module:
    """Build a network of ``monai.networks.nets`` from its ``class`` and arguments; ValueError if there is no such."""
    arguments = {name: value for name, value in spec.items() if name != "class"}
    try:
        kind = recorded_network(origin, f"{_NETWORKS}.{spec.get('class')}", [_NETWORKS])
    except UntrustedNetworkError as error:
        raise ValueError(f"{origin}: asks for the network {spec.get('class')!r}, which {_NETWORKS} has not.") from error
    return kind(**recorded_arguments(origin, kind, arguments))
