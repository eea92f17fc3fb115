# SPDX-License-Identifier: Apache-2.0
"""A localizer from the options of the configs: a model, refiners, slices of volumes, several phrasings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom.components import load_component
from custom.localizers import Localizer
from custom.localizers.base import Refiner
from custom.localizers.ensembles import PromptEnsemble
from custom.localizers.pictures import PictureLocalizer, PictureRefiner
from custom.localizers.refined import RefinedLocalizer
from custom.localizers.volumes import Slicewise, SlicewiseRefiner
from custom.options import mapping


def load_localizer(
    configs: str | Path,
    name: str,
    options: Mapping[str, Any] | str | None = None,
    refiners: str | Sequence[str] = (),
    refiner_options: Mapping[str, Any] | str | None = None,
    spatial_dims: int = 2,
    slices: Mapping[str, Any] | str | None = None,
    templates: str | Sequence[str] = (),
) -> Localizer:
    """Build a localizer.

    Args:
        configs: folder that holds ``localizers/`` and ``refiners/``.
        name: file of ``localizers/``, or a path.
        options: changes to that file.
        refiners: files of ``refiners/``, applied in order.
        refiner_options: name of a refiner -> changes to its file.
        spatial_dims: of the scans; models of pictures look at volumes slice by slice.
        slices: how they do, see :class:`custom.localizers.volumes.Slicewise`.
        templates: phrases with ``{}`` that each prompt is put into; their maps are combined into one.

    Raises:
        ValueError: if a file is missing, an option is for a refiner that is not used, or a part cannot take scans of
            these dimensions.
    """
    chain = [refiners] if isinstance(refiners, str) else list(refiners)
    changes, ways = mapping(refiner_options, "refiner_options"), mapping(slices, "slices")
    unused = sorted(set(changes) - set(chain))
    if unused:
        raise ValueError(f"refiner_options names {unused[0]!r}, which is not among the refiners {chain}.")
    localizer: Localizer = load_component(Path(configs) / "localizers", name, options)
    if spatial_dims == 3 and isinstance(localizer, PictureLocalizer):
        localizer = Slicewise(localizer, **ways)
    elif ways and not isinstance(localizer, Slicewise):
        raise ValueError(f"slices is for models of pictures on volumes; {name!r} takes scans as they are.")
    if templates:
        localizer = PromptEnsemble(localizer, [templates] if isinstance(templates, str) else list(templates))
    if chain:
        localizer = RefinedLocalizer(
            localizer, [_refiner(configs, each, changes.get(each), spatial_dims) for each in chain]
        )
    if spatial_dims not in localizer.native_dims:
        raise ValueError(f"{name!r} takes {localizer.native_dims}-dimensional scans, these have {spatial_dims}.")
    return localizer


def _refiner(configs: str | Path, name: str, options: Mapping[str, Any] | None, spatial_dims: int) -> Refiner:
    refiner: Refiner = load_component(Path(configs) / "refiners", name, options)
    if spatial_dims == 3 and isinstance(refiner, PictureRefiner):
        return SlicewiseRefiner(refiner)
    return refiner
