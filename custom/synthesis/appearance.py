# SPDX-License-Identifier: Apache-2.0
"""What a synthetic lesion looks like: kinds of appearance, each a function of a box of the scan.

All take a :class:`Place` and return new values of the box; blending with the old ones by the outline's opacity is done
here, except where the appearance has its own way (Poisson blending, deformation). The kinds follow what entries to the
Medical Out-of-Distribution Analysis challenge (MOOD, Zimmerer et al., 2022) trained on: foreign patches (Foreign Patch
Interpolation, arXiv 2011.04197), Poisson blending (arXiv 2107.02622), changes of intensity and texture, deformation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from custom.synthesis.outline import Outline, blurred_step, smooth_noise

Appearance = Callable[["Place", np.random.RandomState], np.ndarray]


@dataclass(frozen=True)
class Place:
    """A box of a scan that a lesion is put into.

    - ``values``: of the box, ``[*box]``; ``outline``: of the lesion.
    - ``level``: grey value that counts as 1: the median of the scan's search area.
    - ``bright``, ``dark``: ranges of the lesion's grey level, in levels.
    - ``roughness``: largest spread of its texture, in levels.
    - ``donor``: values of another scan ``[*spatial]``, at least as large as the box.
    """

    values: np.ndarray
    outline: Outline
    level: float
    bright: tuple[float, float]
    dark: tuple[float, float]
    roughness: float
    donor: np.ndarray

    def blended(self, filling: np.ndarray) -> np.ndarray:
        """The box with the filling, by the outline's opacity."""
        return self.values + self.outline.soft * (filling - self.values)

    def texture(self, random: np.random.RandomState) -> np.ndarray:
        """Mixed coarse and fine noise ``[*box]``, in grey values."""
        coarse = smooth_noise(random, self.values.shape, random.uniform(3, 12))
        fine = random.normal(size=self.values.shape)
        return (self.level * random.uniform(0, self.roughness) * (0.7 * coarse + 0.3 * fine)).astype(np.float32)


def bright(place: Place, random: np.random.RandomState) -> np.ndarray:
    """Brighter tissue, with something of what was there."""
    return _even(place, random, place.bright)


def dark(place: Place, random: np.random.RandomState) -> np.ndarray:
    """Darker tissue, with something of what was there."""
    return _even(place, random, place.dark)


def rim(place: Place, random: np.random.RandomState) -> np.ndarray:
    """A bright rim, with gaps, around a core of another level: what takes up contrast agent around what is dead."""
    core = place.outline.inner(random.uniform(0.12, 0.45) * place.outline.radius)
    gaps = np.clip(0.5 + random.uniform(0, 1) * smooth_noise(random, core.shape, 4), 0, 1)
    light, core_level = random.uniform(*place.bright), random.uniform(place.dark[0], 1.0)
    filling = place.level * (light + (core_level - light) * core * gaps)
    return place.blended(filling + place.texture(random))


def patchy(place: Place, random: np.random.RandomState) -> np.ndarray:
    """Bright islands in dark tissue."""
    islands = blurred_step(smooth_noise(random, place.values.shape, random.uniform(3, 7)), 0.33)
    light, low = random.uniform(*place.bright), random.uniform(*place.dark)
    return place.blended(place.level * (low + (light - low) * islands) + place.texture(random))


def shifted(place: Place, random: np.random.RandomState) -> np.ndarray:
    """The same tissue, a little brighter or darker: infiltration, faint enhancement."""
    shift = random.uniform(0.12, 0.5) * (1 if random.uniform() < 0.6 else -1)
    return place.blended(place.values + shift * place.level + place.texture(random))


def foreign(place: Place, random: np.random.RandomState) -> np.ndarray:
    """A patch of another scan, its brightness changed, laid over with the outline's opacity."""
    patch = _patch(place, random) * random.uniform(0.7, 1.5) + random.uniform(-0.2, 0.2) * place.level
    return place.blended(patch)


def poisson(place: Place, random: np.random.RandomState) -> np.ndarray:
    """A patch of another scan: its gradients inside, the scan's values at its border (Pérez et al., 2003)."""
    inside = place.outline.soft > 0.05
    patch = _patch(place, random)
    return np.where(inside, patch + membrane(place.values - patch, inside), place.values)


def blurred(place: Place, random: np.random.RandomState) -> np.ndarray:
    """Structure lost: the same tissue, smoothed."""
    smoothed = ndimage.gaussian_filter(place.values, random.uniform(1.5, 4), mode="nearest")
    return place.blended(smoothed + 0.5 * place.texture(random))


def deformed(place: Place, random: np.random.RandomState) -> np.ndarray:
    """The tissue pushed from, or drawn to, the centre."""
    strength = random.uniform(0.3, 0.8) * random.choice([-1, 1])
    stretch = 1 - strength * np.clip(place.outline.depth / place.outline.radius, 0, 1)
    starts = [at - part.start for at, part in zip(place.outline.centre, place.outline.box, strict=True)]
    source = [offset * stretch + start for offset, start in zip(place.outline.offset, starts, strict=True)]
    return place.blended(ndimage.map_coordinates(place.values, source, order=1, mode="nearest"))


APPEARANCES: Mapping[str, Appearance] = MappingProxyType(
    {
        "bright": bright,
        "dark": dark,
        "rim": rim,
        "patchy": patchy,
        "shifted": shifted,
        "foreign": foreign,
        "poisson": poisson,
        "blurred": blurred,
        "deformed": deformed,
    }
)


def membrane(values: np.ndarray, inside: np.ndarray, steps: int = 80) -> np.ndarray:
    """Fill the inside smoothly from its border: Laplace's equation, approximately, by Jacobi's method.

    Args:
        values: ``[*box]``, kept outside.
        inside: boolean ``[*box]``; where it touches the box's border it meets the opposite side.
        steps: of the iteration; wide insides keep their border's mean in the middle.
    """
    border = ndimage.binary_dilation(inside) & ~inside
    if not inside.any() or not border.any():
        return values
    filled = np.where(inside, values[border].mean(), values)
    for _ in range(steps):
        neighbours = [np.roll(filled, shift, axis) for axis in range(values.ndim) for shift in (-1, 1)]
        filled = np.where(inside, sum(neighbours) / len(neighbours), values)
    return filled


def _even(place: Place, random: np.random.RandomState, levels: tuple[float, float]) -> np.ndarray:
    covered = place.outline.inside
    mean = float(place.values[covered].mean()) if covered.any() else place.level
    remains = random.uniform(0, 0.5) * (place.values - mean)
    return place.blended(place.level * random.uniform(*levels) + remains + place.texture(random))


def _patch(place: Place, random: np.random.RandomState) -> np.ndarray:
    """A box of the donor, anywhere, flipped at random."""
    flips = tuple(slice(None, None, int(random.choice([-1, 1]))) for _ in range(place.donor.ndim))
    starts = [
        random.randint(0, whole - part + 1) for whole, part in zip(place.donor.shape, place.values.shape, strict=True)
    ]
    part = tuple(slice(at, at + size) for at, size in zip(starts, place.values.shape, strict=True))
    return np.asarray(place.donor[flips][part])
