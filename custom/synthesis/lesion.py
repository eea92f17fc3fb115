# SPDX-License-Identifier: Apache-2.0
"""One synthetic lesion put into a scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from custom.synthesis.appearance import APPEARANCES, Place
from custom.synthesis.outline import draw_outline

KINDS: Mapping[str, float] = {
    "bright": 3.0,
    "rim": 2.0,
    "shifted": 1.5,
    "dark": 1.0,
    "patchy": 1.0,
    "foreign": 1.0,
    "poisson": 0.5,
    "blurred": 0.3,
    "deformed": 0.3,
}
SEAMED = ("bright", "rim", "patchy")


@dataclass(frozen=True)
class LesionStatistics:
    """What synthetic lesions are like. All ranges are least and largest.

    Args:
        size: share of the picture, in (0, 1), logarithmic.
        kinds: kind of appearance (of ``APPEARANCES``) -> how often, relative to the others.
        bright: grey level of bright parts, as a multiple of the reference level; dark: likewise.
        irregularity: largest amplitude of the outline's waves, in radii.
        edge: width of the blurred border in voxels, logarithmic.
        roughness: largest spread of the texture, as a multiple of the reference level.
        seam: how often a bright lesion is surrounded by a darker seam (oedema), in [0, 1].
        reference: the grey level that counts as 1: "area", the median of the scan's search area (an organ of even
            tissue); "scan", the brightest of the scan, 1 on the network's grid (lungs, whose median is air).

    Raises:
        ValueError: if a range is empty, a kind or reference unknown.
    """

    size: tuple[float, float] = (0.002, 0.08)
    kinds: Mapping[str, float] = field(default_factory=lambda: dict(KINDS))
    bright: tuple[float, float] = (1.15, 2.4)
    dark: tuple[float, float] = (0.3, 0.8)
    irregularity: float = 0.3
    edge: tuple[float, float] = (0.25, 2.0)
    roughness: float = 0.15
    seam: float = 0.4
    reference: str = "area"

    def __post_init__(self) -> None:
        for name in ("size", "bright", "dark", "edge"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is [least, largest] with 0 < least <= largest, received {[low, high]}.")
        if self.size[1] >= 1:
            raise ValueError(f"size is a share of the picture below 1, received {list(self.size)}.")
        if self.reference not in ("area", "scan"):
            raise ValueError(f"reference is area or scan, received {self.reference!r}.")
        unknown = sorted(set(self.kinds) - set(APPEARANCES))
        if unknown:
            raise ValueError(f"Unknown kind of lesion {unknown[0]!r}; known: {', '.join(APPEARANCES)}.")
        if min(self.kinds.values(), default=0) < 0 or sum(self.kinds.values()) <= 0:
            raise ValueError(f"kinds must hold weights, none negative, not all zero; received {dict(self.kinds)}.")


def add_lesion(
    random: np.random.RandomState, values: np.ndarray, area: np.ndarray, donor: np.ndarray, statistics: LesionStatistics
) -> tuple[np.ndarray, np.ndarray]:
    """Put one lesion into a scan.

    Args:
        random: source of all draws.
        values: grey values ``[*spatial]``, 0 = darkest.
        area: where lesions may lie, boolean ``[*spatial]``.
        donor: grey values of another scan, of the same shape.
        statistics: what lesions are like.

    Returns:
        New values, not below 0, and the boolean mask of the lesion; both unchanged and empty if there is no place.
    """
    outline = draw_outline(random, area, statistics.size, statistics.irregularity, statistics.edge)
    mask = np.zeros(values.shape, dtype=bool)
    if outline is None:
        return values, mask
    place = Place(
        values[outline.box],
        outline,
        float(np.median(values[area])) if statistics.reference == "area" else 1.0,
        statistics.bright,
        statistics.dark,
        statistics.roughness,
        donor,
    )
    kind = _draw_kind(random, statistics.kinds)
    changed = APPEARANCES[kind](place, random)
    if kind in SEAMED and random.uniform() < statistics.seam:
        changed = _with_seam(random, place, changed)
    result = values.copy()
    result[outline.box] = np.maximum(changed, 0)
    mask[outline.box] = outline.inside
    return result, mask


def _draw_kind(random: np.random.RandomState, kinds: Mapping[str, float]) -> str:
    weights = np.array(list(kinds.values()), dtype=float)
    return str(random.choice(list(kinds), p=weights / weights.sum()))


def _with_seam(random: np.random.RandomState, place: Place, values: np.ndarray) -> np.ndarray:
    """Darken a seam around the lesion, which is not part of its mask."""
    outer = place.outline.inner(-random.uniform(0.3, 1.0) * place.outline.radius)
    seam = outer * (1 - place.outline.soft)
    return values - seam * place.level * random.uniform(0.1, 0.4)
