# SPDX-License-Identifier: Apache-2.0
"""A localizer followed by refiners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from custom.localizers.base import Localizer, PromptedRefiner, Refiner


class RefinedLocalizer:
    """Hands the maps of a localizer through refiners, in order.

    Args:
        localizer: makes the coarse maps.
        refiners: each takes the maps of the one before.
    """

    def __init__(self, localizer: Localizer, refiners: Sequence[Refiner]) -> None:
        self.localizer, self.refiners = localizer, list(refiners)
        common = set(localizer.native_dims).intersection(*(refiner.native_dims for refiner in self.refiners))
        self.native_dims = tuple(sorted(common))

    def describe(self) -> dict[str, Any]:
        """Return the descriptions of the parts."""
        return {
            "name": "refined",
            "localizer": self.localizer.describe(),
            "refiners": [refiner.describe() for refiner in self.refiners],
        }

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Localize, then refine; see :class:`custom.localizers.base.Localizer`."""
        maps = self.localizer.localize(image, prompts)
        for refiner in self.refiners:
            asked = (prompts,) if isinstance(refiner, PromptedRefiner) else ()
            maps = refiner.refine(image, maps, *asked)
        return maps
