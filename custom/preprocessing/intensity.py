# SPDX-License-Identifier: Apache-2.0
"""How grey levels are scaled: a few schemes of plain values, so that they can be recorded and followed later."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml
from monai.bundle import ConfigParser
from monai.transforms import (
    Compose,
    MapTransform,
    NormalizeIntensity,
    NormalizeIntensityd,
    ScaleIntensity,
    ScaleIntensityd,
    ScaleIntensityRange,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentiles,
    ScaleIntensityRangePercentilesd,
    Transform,
)
from torch import Tensor

CUSTOM = "custom"
Scaling = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Scheme:
    """A MONAI transform, its arguments with their defaults, and where its dictionary version keeps it."""

    transform: type[Transform]
    dictionary: type[MapTransform]
    attribute: str
    defaults: Mapping[str, Any]


_SCHEMES: Mapping[str, _Scheme] = MappingProxyType(
    {
        "percentile": _Scheme(
            ScaleIntensityRangePercentiles,
            ScaleIntensityRangePercentilesd,
            "scaler",
            {
                "lower": 0.5, "upper": 99.5, "b_min": 0.0, "b_max": 1.0, "clip": True, "relative": False,
                "channel_wise": False,
            },
        ),
        "window": _Scheme(
            ScaleIntensityRange,
            ScaleIntensityRanged,
            "scaler",
            {"window": None, "b_min": 0.0, "b_max": 1.0, "clip": True},
        ),
        "zscore": _Scheme(
            NormalizeIntensity,
            NormalizeIntensityd,
            "normalizer",
            {"subtrahend": None, "divisor": None, "nonzero": False, "channel_wise": False},
        ),
        "minmax": _Scheme(
            ScaleIntensity,
            ScaleIntensityd,
            "scaler",
            {"minv": 0.0, "maxv": 1.0, "factor": None, "channel_wise": False},
        ),
    }
)  # fmt: skip
NONE = "none"
_SWITCHES = ("clip", "relative", "nonzero", "channel_wise")
_LISTS = ("window", "subtrahend", "divisor")
_LARGEST = 16  # of arrays that are written down; others are recognized by their hash
_HOW = (
    'for example --intensity "{scheme: window, window: [-1000, 400]}"; schemes are '
    f"{', '.join(_SCHEMES)} and {NONE}, or give a transform of MONAI"
)


@dataclass(frozen=True)
class Intensity:
    """Scaling of grey levels.

    Attributes:
        record: ``scheme`` and all its parameters, plain values. A transform without a plain form has the scheme
            "custom", its name and its settings, by which it is recognized; nothing is built from them.
        transform: the transform of that scheme; None where it is only known from a record.
    """

    record: Mapping[str, Any]
    transform: Callable[..., Any] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, given: Any) -> Intensity:
        """Read what a user gives.

        Args:
            given: a mapping with ``scheme`` and some of its parameters, a scheme's name, or a transform, which works on
                a dictionary or on an image ``[C, *spatial]``. The transforms of the schemes are recorded as such.
                ``percentile``: ``lower``, ``upper`` of each scan to ``b_min``, ``b_max``, with ``clip``, ``relative``,
                ``channel_wise``. ``window``: ``window`` (two grey levels) to ``b_min``, ``b_max``, with ``clip``.
                ``zscore``: ``subtrahend``, ``divisor`` (None: mean and deviation of each scan), ``nonzero``,
                ``channel_wise``. ``minmax``: ``minv``, ``maxv``, ``factor``, ``channel_wise``. ``none``: as stored.

        Raises:
            ValueError: for an unknown scheme, unknown or missing parameters, or values of the wrong type.
        """
        if isinstance(given, cls):
            return given
        value = _read(given)
        if callable(value):
            return _of_transform(value)
        if not isinstance(value, Mapping):
            raise ValueError(f"--intensity must be a scheme with its parameters, got {given!r}; {_HOW}.")
        return cls.from_record(value)

    @classmethod
    def from_record(cls, record: Any) -> Intensity:
        """Read plain values, of a user or a record; nothing that they name is built.

        Raises:
            ValueError: as :meth:`of`.
        """
        if not isinstance(record, Mapping) or not isinstance(record.get("scheme"), str):
            raise ValueError(f"intensity: no scheme is named in {record!r}; {_HOW}.")
        scheme = record["scheme"].lower()
        given = {name: value for name, value in record.items() if name != "scheme"}
        if scheme == CUSTOM:
            return cls(_custom_record(given))
        if scheme == NONE and not given:
            return cls({"scheme": NONE})
        if scheme not in _SCHEMES:
            raise ValueError(f"intensity: there is no scheme {record['scheme']!r} with {given}; {_HOW}.")
        return cls({"scheme": scheme, **_parameters(scheme, given)})

    @property
    def is_custom(self) -> bool:
        """Whether it has no plain form."""
        return self.record["scheme"] == CUSTOM

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Least and largest value that comes out; None: there is no limit."""
        names = {"percentile": ("b_min", "b_max"), "window": ("b_min", "b_max"), "minmax": ("minv", "maxv")}
        pair = [self.record[name] for name in names.get(self.record["scheme"], ())]
        limited = len(pair) == 2 and None not in pair and self.record.get("clip", True)
        return (pair[0], pair[1]) if limited else None

    @property
    def is_unit(self) -> bool:
        """Whether air comes out near 0 and the brightest tissue near 1, as :func:`custom.regions.body_voxels` wants."""
        return self.value_range == (0, 1)

    def check_known(self) -> None:
        """Raise ValueError if only the name of a custom transform is known."""
        if self.is_custom and self.transform is None:
            name = self.record["transform"]
            raise ValueError(
                f"Grey levels were scaled by {name}, which has no plain form: a record names it, but never decides "
                f'which code is run. Give it again: --intensity "{{_target_: {name}, ...}}".'
            )

    def dictionary_transform(self, key: Hashable) -> Callable[[dict], dict]:
        """Return what scales ``data[key]``; ValueError as :meth:`check_known`."""
        self.check_known()
        scale = self.transform or self._built()
        return scale if isinstance(scale, MapTransform | Compose) else _on(key, scale)

    def words(self) -> str:
        """In words, for people."""
        defaults = _SCHEMES[self.record["scheme"]].defaults if self.record["scheme"] in _SCHEMES else {"settings": {}}
        told = [
            f"{name} {_short(value)}"
            for name, value in self.record.items()
            if name in ("lower", "upper") or (name != "scheme" and value != defaults.get(name))
        ]
        return f"{self.record['scheme']} ({', '.join(told)})" if told else str(self.record["scheme"])

    def _built(self) -> Scaling:
        arguments = {name: value for name, value in self.record.items() if name not in ("scheme", "window")}
        if self.record["scheme"] == NONE:
            return _unchanged
        if "window" in self.record:
            arguments["a_min"], arguments["a_max"] = self.record["window"]
        return _SCHEMES[self.record["scheme"]].transform(**arguments)


class _on:  # noqa: N801 - a function that data loaders' processes can be sent
    """A transform of images as one of dictionaries."""

    def __init__(self, key: Hashable, scale: Scaling) -> None:
        self.key, self.scale = key, scale

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, self.key: self.scale(data[self.key])}


def _unchanged(image: Tensor) -> Tensor:
    return image


def _read(given: Any) -> Any:
    """A user's value: a text is YAML, a bare word a scheme, and a transform may be written down."""
    try:
        value = yaml.safe_load(given) if isinstance(given, str) else given
    except yaml.YAMLError as error:
        raise ValueError(f"--intensity cannot be read: {given!r}; {_HOW}.") from error
    if isinstance(value, str):
        return {"scheme": value}
    if isinstance(value, Mapping) and "_target_" in value:
        return ConfigParser({"intensity": dict(value)}).get_parsed_content("intensity")
    return value


def _of_transform(transform: Callable[..., Any]) -> Intensity:
    for name, scheme in _SCHEMES.items():
        inner = getattr(transform, scheme.attribute) if type(transform) is scheme.dictionary else transform
        if type(inner) is not scheme.transform or inner.dtype is not np.float32:
            continue
        values: dict[str, Any] = {key: getattr(inner, key) for key in scheme.defaults if key != "window"}
        if name == "window":
            values["window"] = [inner.a_min, inner.a_max]
        try:
            return Intensity.from_record({"scheme": name, **{key: _plain(each) for key, each in values.items()}})
        except ValueError:  # what MONAI takes and a record does not hold: a whole image to subtract
            break
    return Intensity({"scheme": CUSTOM, **_described(transform)}, transform)


def _described(transform: Any) -> dict[str, Any]:
    """Name and settings of a transform, as far as they are plain; its parts likewise."""
    kind = transform if isinstance(transform, type) or hasattr(transform, "__qualname__") else type(transform)
    settings = {}
    for name, value in sorted(vars(transform).items() if kind is not transform else ()):
        found = _described(value) if isinstance(value, Transform) else _plain(value)
        if not name.startswith("_") and name not in ("keys", "allow_missing_keys") and _is_plain(found):
            settings[name] = found
    return {"transform": f"{kind.__module__}.{kind.__qualname__}", "settings": settings}


def _plain(value: Any) -> Any:
    if isinstance(value, type):
        return value.__name__
    if hasattr(value, "tolist"):
        array = np.asarray(value)
        return array.tolist() if array.size <= _LARGEST else hashlib.sha256(array.tobytes()).hexdigest()
    if isinstance(value, tuple | list):
        return [_described(each) if isinstance(each, Transform) else _plain(each) for each in value]
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    if isinstance(value, list):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)


def _custom_record(given: Mapping[str, Any]) -> dict[str, Any]:
    settings = given.get("settings", {})
    if set(given) - {"transform", "settings"} or not isinstance(given.get("transform"), str) or not _is_plain(settings):
        raise ValueError(f"intensity: no record of a transform: {dict(given)!r}.")
    return {"scheme": CUSTOM, "transform": given["transform"], "settings": settings}


def _parameters(scheme: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a scheme, with what is given in the place of defaults."""
    defaults = _SCHEMES[scheme].defaults
    if unknown := sorted(set(given) - set(defaults)):
        raise ValueError(f"intensity: {scheme} has no parameter {', '.join(unknown)}; it has {', '.join(defaults)}.")
    values = {name: _value(name, given.get(name, default)) for name, default in defaults.items()}
    window = values.get("window", [0, 1])
    if window is None or len(window) != 2 or window[0] >= window[1]:
        raise ValueError(f"intensity: window must be two grey levels, low and high, got {given.get('window')!r}.")
    if scheme == "percentile" and not 0 <= values["lower"] < values["upper"] <= 100:
        raise ValueError(f"intensity: percentiles lie in 0 to 100, lower below upper; got {dict(given)}.")
    return values


def _value(name: str, value: Any) -> Any:
    if name in _SWITCHES:
        return _switch(name, value)
    if value is None and name not in ("lower", "upper"):
        return None
    if name in _LISTS and isinstance(value, list | tuple) and value and all(map(_is_number, value)):
        return [float(each) for each in value]
    if name != "window" and _is_number(value):
        return float(value)
    raise ValueError(f"intensity: {name} takes {'two numbers' if name == 'window' else 'a number'}, got {value!r}.")


def _switch(name: str, value: Any) -> bool:
    words = {"true": True, "false": False}
    if not isinstance(value, bool) and str(value).lower() not in words:
        raise ValueError(f"intensity: {name} must be true or false, got {value!r}.")
    return words[str(value).lower()]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(float(value)))


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
