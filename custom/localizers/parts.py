# SPDX-License-Identifier: Apache-2.0
"""The models within a localizer or refiner that is made of others."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from custom.localizers.windows import OWN, PictureWindow

Part = TypeVar("Part")

_HELD = ("localizer", "localizers", "refiner", "refiners")


def holders(part: Any, name: str) -> Iterator[Any]:
    """The models within, or the one itself, that have an attribute."""
    if hasattr(part, name):
        yield part
    for inner in _inner(part):
        yield from holders(inner, name)


def altered(part: Part, name: str, value: Any) -> Part:
    """Return a localizer or refiner whose models have another value of an attribute, where they have it.

    The one that is given stays as it is, and shares loaded weights with the one that is returned; it is returned itself
    if no model within it has the attribute.
    """
    if next(holders(part, name), None) is None:
        return part
    changed = copy.copy(part)
    for key in _HELD:
        held = vars(part).get(key)
        if held is not None:
            new = (
                [altered(each, name, value) for each in held] if isinstance(held, list) else altered(held, name, value)
            )
            setattr(changed, key, new)
    if hasattr(part, name):
        setattr(changed, name, value)
    return changed


def when_empty(part: Any) -> tuple[str, Any] | None:
    """Return the option of a model within, and its value, that is worth a try where nothing is found; None: no such."""
    return next((each.when_empty for each in holders(part, "when_empty") if each.when_empty), None)


def shown_in(part: Part, window: Any) -> Part:
    """Return a localizer or refiner whose models of pictures see another window; ``own``: that which they have."""
    return part if window == OWN else altered(part, "window", PictureWindow(window))


def _inner(part: Any) -> Iterator[Any]:
    for key in _HELD:
        held = getattr(part, "__dict__", {}).get(key)
        if held is not None:
            yield from held if isinstance(held, list) else [held]
