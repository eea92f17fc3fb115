# SPDX-License-Identifier: Apache-2.0
"""The preprocessing contract: all that changes voxels between a file and a network, as one record of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import yaml

from custom.options import flag
from custom.preprocessing.intensity import Intensity

BLOCK = "preprocessing"  # its name in encoder.json and model.json
ORIENTATION = "RAS"
PADDED, CUT = "pad", "cut"
_OF_OLD = ("channels", "frame", "spacing", "crop_to_body", "air_threshold", "image_size", "patch_size")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a scan before a network sees it.

    Attributes:
        channels: 1: grey; 3: colour.
        frame: which volume of files that hold several, counted from 0.
        orientation: axis codes that volumes are turned to; RAS, always.
        spacing: voxel size in millimetres that volumes are resampled to, one an axis; None: as in the file.
        intensity: how grey levels are scaled.
        crop_to_body: whether the air around the body is cut away.
        air_threshold: intensity, 0 to 1, up to which a voxel may be air.
        image_size: the box that whole scans are scaled into, voxels an axis; None: patches.
        patch_size: of the patches that are cut from scans as they are after resampling; None: whole scans.
        fit: how a whole scan gets into its box: "pad" (the smallest ratio over the axes, then padding). "cut" is said
            of what was made before this was recorded: the longest side was fitted, what stood out of the box was lost.
    """

    channels: int = 1
    frame: int | None = None
    orientation: str = ORIENTATION
    spacing: tuple[float, ...] | None = None
    intensity: Intensity = field(default_factory=lambda: Intensity.of("percentile"))
    crop_to_body: bool = True
    air_threshold: float = 0.05
    image_size: tuple[int, ...] | None = None
    patch_size: tuple[int, ...] | None = None
    fit: str = PADDED

    @classmethod
    def of(cls, **given: Any) -> Preprocessing:
        """Make it of values as they are given to a config: texts, lists, a single number of millimetres.

        With ``patch_size`` there is no ``image_size``.

        Raises:
            ValueError: if a value is of the wrong kind.
        """
        values: dict[str, Any] = {name: _meant(value) for name, value in given.items()}
        sizes = {name: _sizes(name, values.get(name)) for name in ("image_size", "patch_size")}
        if sizes["patch_size"]:
            sizes["image_size"] = None
        axes = len(sizes["patch_size"] or sizes["image_size"] or ())
        return cls(
            channels=_whole("channels", values.get("channels", 1)),
            frame=None if values.get("frame") is None else _whole("frame", values["frame"]),
            spacing=_spacing(values.get("spacing"), axes),
            intensity=Intensity.of(given.get("intensity", "percentile")),
            crop_to_body=flag(values.get("crop_to_body", True), "crop_to_body"),
            air_threshold=_number("air_threshold", values.get("air_threshold", 0.05)),
            fit=_one_of("fit", values.get("fit", PADDED), (PADDED, CUT)),
            orientation=_one_of("orientation", values.get("orientation", ORIENTATION), (ORIENTATION,)),
            **sizes,
        )

    @classmethod
    def from_record(cls, block: Any) -> Preprocessing:
        """Read the block of a record, which comes from anywhere.

        Raises:
            ValueError: if it is none, or holds what this version does not know and so cannot follow.
        """
        known = {each.name for each in fields(cls)} | {"voxel_size"}
        if not isinstance(block, Mapping) or set(block) - known:
            unknown = f"unknown: {', '.join(sorted(set(block) - known))}" if isinstance(block, Mapping) else repr(block)
            raise ValueError(f"the block {BLOCK!r} cannot be followed ({unknown}). Was it made by a later version?")
        values = {name: value for name, value in block.items() if name not in ("voxel_size", "intensity")}
        return cls.of(**values, intensity=Intensity.from_record(block.get("intensity")))

    @classmethod
    def of_old_record(cls, facts: Mapping[str, Any]) -> Preprocessing:
        """Return what a record meant that is older than the block: its scattered values, and the defaults of then."""
        given = {name: facts[name] for name in _OF_OLD if facts.get(name) is not None}
        return replace(cls.of(**given), fit=CUT)

    @property
    def is_old(self) -> bool:
        """Whether the intensities were not recorded and are those of the defaults of then."""
        return self.fit == CUT

    @property
    def was_cut(self) -> bool:
        """Whether scans may have lost what stood out of a box of unequal sides."""
        return self.fit == CUT and len(set(self.image_size or ())) > 1

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Millimetres of the voxels that the network sees; None: they differ from scan to scan.

        Scaling whole scans into a box undoes the size, though not the proportions, that resampling gave to voxels.
        """
        return self.spacing if self.patch_size else None

    def record(self) -> dict[str, Any]:
        """Return the block of plain values; :meth:`from_record` reads it."""
        values = {each.name: getattr(self, each.name) for each in fields(self)} | {"voxel_size": self.voxel_size}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {**plain, "intensity": dict(self.intensity.record)}

    def settings(self) -> dict[str, Any]:
        """Return the settings of a config that read scans in this way."""
        block = self.record()
        left_out = {"orientation", "fit", "voxel_size"} | ({"image_size"} if self.image_size is None else set())
        return {name: value for name, value in block.items() if name not in left_out}

    def differences(self, given: Preprocessing) -> dict[str, str]:
        """Compare with what is asked for.

        Args:
            given: what a run would do; this is what was recorded.

        Returns:
            Field -> "recorded X, given Y", of the fields that differ. What an old record does not know never differs.
        """
        unknown = {"fit", *(("intensity",) if self.is_old else ())}
        unknown |= {"image_size", "patch_size"} if not (self.image_size or self.patch_size) else set()
        return {
            each.name: f"{each.name}: recorded {_told(self, each.name)}, given {_told(given, each.name)}"
            for each in fields(self)
            if each.name not in unknown and getattr(self, each.name) != getattr(given, each.name)
        }

    def words(self) -> str:
        """In one line, for people."""
        box = f"patches of {_cross(self.patch_size)}" if self.patch_size else f"scaled into {_cross(self.image_size)}"
        size = f"resampled to {_cross(self.spacing)} mm" if self.spacing else ""
        crop = "air around the body cut away" if self.crop_to_body else ""
        colour = f"{self.channels} channels" if self.channels > 1 else ""
        frame = f"frame {self.frame}" if self.frame is not None else ""
        return ", ".join(filter(None, [frame, colour, size, f"intensity {self.intensity.words()}", crop, box]))


def _told(contract: Preprocessing, name: str) -> str:
    value = getattr(contract, name)
    if isinstance(value, Intensity):
        return value.words()
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _cross(sizes: Sequence[float] | None) -> str:
    return " x ".join(f"{size:g}" for size in sizes or ()) or "the network's size"


def _meant(value: Any) -> Any:
    """A text of the command line as what it means: ``--spacing null``, ``--image_size "[96, 96]"``."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _one_of(name: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{name}: {value!r} is not among {', '.join(known)}.")
    return str(value)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a whole number, got {value!r}.")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number, not negative, got {value!r}.")
    return value


def _sizes(name: str, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(_whole(name, side) for side in value):
        raise ValueError(f'{name} must be voxels along each axis, for example --{name} "[64, 64, 64]"; got {value!r}.')
    return tuple(value)


def _spacing(value: Any, axes: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    sizes = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * max(axes, 1)
    if not sizes or not all(_number("spacing", size) for size in sizes):
        raise ValueError(f"spacing must be positive millimetres, one or one an axis, got {value!r}.")
    return tuple(float(size) for size in sizes)
