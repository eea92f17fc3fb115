# SPDX-License-Identifier: Apache-2.0
"""One phantom scan of any kind, with its regions, class, box and prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from datasets.phantoms import brain_mri, chest_ct, chest_xray
from datasets.phantoms.fields import Array, point_spread
from datasets.phantoms.lesions import Lesion, Outline, draw_lesion, place_lesion

KINDS = MappingProxyType({"brain_mri": (2, 3), "chest_ct": (2, 3), "chest_xray": (2,)})
"""Kinds of phantoms and the dimensions each exists in."""

_BRAIN = {
    "circumscribed": Outline(),
    "infiltrative": Outline(spikes=6, sharpness=9.0, length=1.3),
    "ring": Outline(ring=True),
}
_CHEST = {
    "smooth": Outline(),
    "spiculated": Outline(spikes=8, sharpness=26.0, length=1.4),
    "cavitary": Outline(ring=True),
}
_BRAIN_REGIONS = {
    "head": (1, 2, 3, 4, 5, 6),
    "skull": (6,),
    "brain": (2, 3, 4, 5),
    "ventricles": (3,),
    "lesion": (4, 5),
    "lesion core": (5,),
}
_CHEST_REGIONS = {
    "body": tuple(range(1, 12)),
    "lungs": tuple(range(2, 10)),
    "right lung": (2, 4, 6, 8),
    "left lung": (3, 5, 7, 9),
    "vessels": (4, 5),
    "lesion": (6, 7, 8, 9),
    "lesion core": (8, 9),
    "bone": (10,),
    "mediastinum": (11,),
}


@dataclass(frozen=True)
class Kind:
    """What is fixed for a kind of phantom.

    Attributes:
        classes: class name to outline of its lesions.
        regions: region name to the codes of the label map that make it up.
        prompt: text that describes the lesion, the same for every class.
        radius: smallest and largest radius of a lesion in millimetres (of the disc or ball of equal size), by dims.
    """

    classes: dict[str, Outline]
    regions: dict[str, tuple[int, ...]]
    prompt: str
    radius: dict[int, tuple[float, float]]


SPECS = MappingProxyType(
    {
        "brain_mri": Kind(_BRAIN, _BRAIN_REGIONS, "brain tumor", {2: (15.0, 23.0), 3: (18.0, 25.0)}),
        "chest_ct": Kind(_CHEST, _CHEST_REGIONS, "lung nodule", {2: (17.0, 25.0), 3: (20.0, 28.0)}),
        "chest_xray": Kind(_CHEST, _CHEST_REGIONS, "lung nodule", {2: (17.0, 25.0)}),
    }
)


@dataclass(frozen=True)
class Phantom:
    """One scan.

    Attributes:
        image: `[*spatial]`; uint8 grey levels (2D MRI, X-ray) or int16 (CT in Hounsfield units, 3D MRI).
            2D arrays are `[x, y]`: x to the right of the picture, y down, the patient's right side at low x.
            3D arrays are RAS+.
        codes: uint8 `[*spatial]`, the innermost structure of every voxel; 0 is air.
        label: class name.
        prompt: text that describes the lesion.
        spacing: millimetres a voxel.
        kind: kind of phantom.
    """

    image: Array
    codes: Array
    label: str
    prompt: str
    spacing: tuple[float, ...]
    kind: str

    @cached_property
    def regions(self) -> dict[str, Array]:
        """Region name to bool mask `[*spatial]`."""
        return {name: np.isin(self.codes, codes) for name, codes in SPECS[self.kind].regions.items()}

    @cached_property
    def boxes(self) -> list[list[int]]:
        """Boxes of the lesions in voxels: first index an axis, then extent an axis (`[x, y, w, h]` in 2D)."""
        where = np.argwhere(self.regions["lesion"])
        low, high = where.min(0), where.max(0) + 1
        return [[int(v) for v in (*low, *(high - low))]]


def check_request(kind: str, spatial_dims: int) -> None:
    """Raise ValueError unless this kind exists in these dimensions."""
    if kind not in KINDS:
        raise ValueError(f"Unknown kind of phantom {kind!r}: choose one of {', '.join(KINDS)}.")
    if spatial_dims not in KINDS[kind]:
        allowed = " or ".join(f"{d}D" for d in KINDS[kind])
        raise ValueError(f"Phantom {kind} exists in {allowed}, not with spatial_dims={spatial_dims}.")


def full_size(kind: str, spatial_dims: int, size: int | Sequence[int] | None = None) -> tuple[int, ...]:
    """Voxels an axis; the default is 96 in 2D, 48 (head) or 64 (chest) in 3D.

    Raises:
        ValueError: wrong number of axes, or an axis shorter than 32 voxels, where anatomy is lost.
    """
    if size is None:
        size = 96 if spatial_dims == 2 else {"brain_mri": 48}.get(kind, 64)
    full = (size,) * spatial_dims if isinstance(size, int) else tuple(int(n) for n in size)
    if len(full) != spatial_dims or min(full) < 32:
        raise ValueError(f"Phantom size {size} does not fit: give one number or {spatial_dims}, each at least 32.")
    return full


@dataclass
class _Scene:
    """A patient on the final grid, blurred by the scanner, without lesion and noise.

    The lesion is laid in after the blur: blurred, its outline's length would show in the grey levels.
    `allowed` is where it may lie.
    """

    image: Array
    codes: Array
    points: list[Array]
    allowed: Array
    spacing: tuple[float, ...]


def _add_lesion(rng: np.random.Generator, scene: _Scene, outline: Outline, radii: tuple[float, float]) -> Lesion:
    dims = len(scene.spacing)
    radius = rng.uniform(*radii)
    volume = np.pi * radius**2 if dims == 2 else 4 / 3 * np.pi * radius**3
    # every class draws its random numbers from a child, so that patient and noise do not depend on the class
    shape_rng = rng.spawn(1)[0]
    center = place_lesion(rng, scene.allowed, scene.spacing, 0.8 * radius)
    middle = [float(p[center]) for p in scene.points]
    count = max(8, round(volume / float(np.prod(scene.spacing))))
    return draw_lesion(shape_rng, outline, scene.points, scene.allowed, middle, count)


def _axes(ticks: Sequence[Array]) -> list[Array]:
    return [np.ascontiguousarray(a) for a in np.meshgrid(*ticks, indexing="ij")]


def _squeeze(array: Array, dims: int) -> Array:
    return array[..., 0] if dims == 2 else array


def _brain(rng: np.random.Generator, dims: int, size: tuple[int, ...], outline: Outline) -> tuple[_Scene, Array]:
    grid = brain_mri.head_grid(dims, size, rng)
    canvas, contrast, cerebrum = brain_mri.paint_head(rng, grid)
    scene = _Scene(
        point_spread(_squeeze(canvas.image, dims), 0.55),
        _squeeze(canvas.codes, dims),
        _axes([grid.ticks(a) for a in range(dims)]),
        _squeeze(cerebrum, dims),
        grid.spacing[:dims],
    )
    lesion = _add_lesion(rng, scene, outline, SPECS["brain_mri"].radius[dims])
    dark, bright = contrast.lesion
    gain = rng.uniform(0.94, 1.06)
    scene.image[lesion.mask] = gain * (dark + (bright - dark) * lesion.level[lesion.mask])
    scene.codes[lesion.mask] = brain_mri.LESION
    scene.codes[lesion.core] = brain_mri.CORE
    signal = brain_mri.scan_head(rng, scene.image)
    if dims == 2:
        return scene, np.clip(signal * rng.uniform(225, 265), 0, 255).astype(np.uint8)
    return scene, np.clip(signal * rng.uniform(700, 1100), 0, 32000).astype(np.int16)


def _mark_nodule(scene: _Scene, lesion: Lesion) -> None:
    """Write the lesion's codes, which keep the side of the lung that they lie in."""
    left = np.isin(scene.codes, (chest_ct.LEFT_LUNG, chest_ct.LEFT_VESSELS))
    scene.codes[lesion.mask] = np.where(left, chest_ct.LEFT_NODULE, chest_ct.RIGHT_NODULE)[lesion.mask]
    scene.codes[lesion.core] = np.where(left, chest_ct.LEFT_CORE, chest_ct.RIGHT_CORE)[lesion.core]


def _one_lung(rng: np.random.Generator, codes: Array) -> Array:
    """One lung, drawn: a nodule does not reach across to the other one."""
    sides = [np.isin(codes, (lung, lung + 2)) for lung in (chest_ct.RIGHT_LUNG, chest_ct.LEFT_LUNG)]
    return sides[int(rng.uniform() < 0.5)]


def _chest(rng: np.random.Generator, dims: int, size: tuple[int, ...], outline: Outline) -> tuple[_Scene, Array]:
    grid = chest_ct.chest_grid(dims, size, rng)
    canvas = chest_ct.paint_chest(rng, grid)
    codes = _squeeze(canvas.codes, dims)
    points = _axes([grid.ticks(a) for a in range(dims)])
    blurred = point_spread(_squeeze(canvas.image, dims), 0.5)
    scene = _Scene(blurred, codes, points, _one_lung(rng, codes), grid.spacing[:dims])
    lesion = _add_lesion(rng, scene, outline, SPECS["chest_ct"].radius[dims])
    scene.image[lesion.mask] = (rng.uniform(-420, -340) + rng.uniform(390, 450) * lesion.level)[lesion.mask]
    _mark_nodule(scene, lesion)
    return scene, np.clip(np.rint(chest_ct.scan_chest(rng, scene.image)), -1024, 3071).astype(np.int16)


def _radiograph(rng: np.random.Generator, dims: int, size: tuple[int, ...], outline: Outline) -> tuple[_Scene, Array]:
    grid = chest_xray.xray_grid(size)
    attenuation, codes = chest_xray.project(chest_ct.paint_chest(rng, grid, table=False))
    points = _axes([grid.ticks(0), grid.ticks(2)])
    spacing = (grid.spacing[0], grid.spacing[2])
    scene = _Scene(point_spread(attenuation, 0.45), codes, points, _one_lung(rng, codes), spacing)
    lesion = _add_lesion(rng, scene, outline, SPECS["chest_xray"].radius[dims])
    # the lesion's level stands for its depth along the ray
    scene.image[lesion.mask] += chest_xray.WATER * rng.uniform(38, 50) * (0.25 + 0.75 * lesion.level[lesion.mask])
    _mark_nodule(scene, lesion)
    return scene, chest_xray.scan_xray(rng, scene.image).astype(np.uint8)


_MAKERS = MappingProxyType({"brain_mri": _brain, "chest_ct": _chest, "chest_xray": _radiograph})


def make_phantom(
    kind: str, spatial_dims: int, seed: int | Sequence[int], label: str, size: int | Sequence[int] | None = None
) -> Phantom:
    """Generate one scan; the same arguments give the same scan.

    Args:
        kind: one of `KINDS`.
        spatial_dims: 2 or 3, as `KINDS` allows.
        seed: seed of the patient, one number or several.
        label: class of the lesion, one of `SPECS[kind].classes`.
        size: voxels an axis, None for the default of `full_size`.

    Returns:
        The phantom.

    Raises:
        ValueError: unknown kind, dimensions, class or size.
    """
    check_request(kind, spatial_dims)
    spec = SPECS[kind]
    if label not in spec.classes:
        raise ValueError(f"Phantom {kind} has no class {label!r}: choose one of {', '.join(spec.classes)}.")
    rng = np.random.default_rng(seed)
    scene, image = _MAKERS[kind](rng, spatial_dims, full_size(kind, spatial_dims, size), spec.classes[label])
    codes = scene.codes
    if spatial_dims == 2:  # from RAS+ to the picture: the patient's right at low x, the front (or the head) on top
        image, codes = image[::-1, ::-1].copy(), codes[::-1, ::-1].copy()
    return Phantom(image, codes, label, spec.prompt, tuple(float(s) for s in scene.spacing), kind)
