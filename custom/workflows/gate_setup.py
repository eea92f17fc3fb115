# SPDX-License-Identifier: Apache-2.0
"""What the gate asks, and of which scans, from the options of ``gate.yaml``."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from custom.gate import GateRules
from custom.localizers import Localizer
from custom.options import mapping
from custom.prompts.library import PromptLibrary
from custom.prompts.phrasings import Phrasing, phrasings
from custom.workflows.localizers import load_localizer
from datasets.datalist import load_datalist
from datasets.loading import LoadScand

Scan = Mapping[Hashable, Any]

SPARES = 4

# Generated scans, and the part of the body that they show, as the prompt library names it.
PHANTOMS: Mapping[int, Mapping[str, str]] = {
    2: {"phantom:brain_mri_2d": "brain", "phantom:chest_ct_2d": "chest", "phantom:chest_xray_2d": "chest"},
    3: {"phantom:brain_mri_3d": "brain", "phantom:chest_ct_3d": "chest"},
}


def phrases_of(prompts: Sequence[str], library: str | Path, per_kind: int, seed: int = 0) -> dict[str, list[Phrasing]]:
    """Return, for each prompt, other ways to ask for it and for something else.

    Args:
        prompts: the prompts.
        library: folder of the prompt library.
        per_kind: at most so many phrases of each kind.
        seed: of the draws.
    """
    known = PromptLibrary(library)
    return {
        prompt: [each for each in phrasings(prompt, known, per_kind, seed) if each.kind != "target"]
        for prompt in prompts
    }


def scan_loaders(
    items: Sequence[Mapping[Any, Any]],
    load: Callable[[Mapping[Hashable, Any]], Scan],
    count: int,
    seed: int = 0,
    spares: bool = False,
) -> list[Callable[[], Scan]]:
    """Return loaders of up to ``count`` items of a datalist, drawn without repetition.

    Scans of the test split are left for the test, unless there are no others.

    Args:
        items: the datalist's.
        load: reads one.
        count: how many are wanted.
        seed: of the draw.
        spares: add ``SPARES`` times as many, to take the place of scans that cannot be read.
    """
    count += SPARES * count if spares else 0
    items = [item for item in items if item.get("split") != "test"] or list(items)
    order = np.random.default_rng(seed).permutation(len(items))[:count]
    return [_loader(load, items[index]) for index in order]


def other_loaders(
    prompts: Sequence[str],
    library: str | Path,
    count: int,
    spatial_dims: int,
    dirs: Sequence[str] | str | None = None,
    channels: int = 1,
    seed: int = 0,
) -> list[Callable[[], Scan]]:
    """Return loaders of scans that do not show what the prompts name.

    Args:
        prompts: the prompts.
        library: folder of the prompt library, which knows the prompts' part of the body.
        count: scans of each set.
        spatial_dims: 2 or 3.
        dirs: sets of other body parts; None: the generated scans of parts that no prompt belongs to (of all parts, if
            the library cannot place the prompts).
        channels: of the scans.
        seed: of the draw.
    """
    if count < 1:
        return []
    if dirs is None:
        known = PromptLibrary(library)
        dirs = [name for name, part in PHANTOMS[spatial_dims].items() if _is_elsewhere(part, prompts, known)]
    load = LoadScand("image", spatial_dims, channels)
    loaders: list[Callable[[], Scan]] = []
    for folder in [dirs] if isinstance(dirs, str) else dirs:
        items = load_datalist(folder).items
        loaders += scan_loaders([{"image": each["image"]} for each in items], load, count, seed)
    return loaders


def other_localizers(
    configs: str | Path, names: str | Sequence[str], without: str, spatial_dims: int
) -> dict[str, Localizer]:
    """Return localizers to compare with, by name, leaving out the one that is looked at."""
    return {
        name: load_localizer(configs, name, spatial_dims=spatial_dims)
        for name in ([names] if isinstance(names, str) else names)
        if name != without
    }


def in_values(values: Sequence[int] | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return the rule that makes a boolean target of a mask: the given values; None: everything above 0."""
    if values is None:
        return lambda mask: mask > 0
    return lambda mask: np.isin(mask, values)


def gate_rules(changes: Mapping[str, Any] | str) -> GateRules:
    """Return the usual rules with changes; ValueError names those that there are."""
    known, given = [each.name for each in fields(GateRules)], mapping(changes, "rules")
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"The gate has no rule {unknown[0]!r}. Known: {', '.join(known)}.")
    values: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in given.items()}
    return GateRules(**values)


def _is_elsewhere(part: str, prompts: Sequence[str], library: PromptLibrary) -> bool:
    """Whether a part of the body is asked for other things than the prompts."""
    asked_for = set(library.prompts(part))
    return all(not asked_for.isdisjoint(library.elsewhere(prompt)) for prompt in prompts)


def _loader(load: Callable[[Mapping[Hashable, Any]], Scan], item: Mapping[Any, Any]) -> Callable[[], Scan]:
    return lambda: load(dict(item))
