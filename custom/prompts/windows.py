# SPDX-License-Identifier: Apache-2.0
"""Which grey values show what a prompt names: the windows of the prompt library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from custom.prompts.library import BodyPart, Modality, PromptLibrary, Window
from custom.prompts.tags import TEXTS, named_parts
from custom.prompts.words import content_keys


def windowed_modalities(code: str, library: PromptLibrary) -> list[Modality]:
    """Return what the library knows of a modality whose grey values have a unit, that is, of windows.

    Args:
        code: value of the DICOM tag Modality; empty: not known, all of them are returned.
        library: see :class:`custom.prompts.PromptLibrary`.
    """
    known = [modality for modality in library.modalities.values() if modality.windows]
    return [modality for modality in known if not code or code.upper() in modality.codes]


def window_for(prompt: str, modality: Modality, tags: Mapping[str, str] | None = None) -> tuple[Window, str] | None:
    """Return the window in which to show what a prompt names, and why; None if the library cannot tell.

    The target decides of which the prompt holds all words, and most; else a window that it names ("bone"); else a body
    part that it names; else the body part of the tags.

    Args:
        prompt: a phrase; may be empty.
        modality: of the scan.
        tags: DICOM tags, where known: BodyPartExamined, StudyDescription, SeriesDescription, ProtocolName.
    """
    tagged = [part for name in TEXTS for part in named_parts((tags or {}).get(name, ""), modality)]
    listed = sorted(_listed(prompt, modality), key=lambda found: (-found[0], found[1] not in tagged))
    if listed:
        _, part, target = listed[0]
        return (part.windows[target], f"{target}, {part.name}") if target in part.windows else None
    wanted = content_keys(prompt)
    for name, window in modality.windows.items():
        if content_keys(name) <= wanted:
            return window, name
    named = next((part for part in (*named_parts(prompt, modality), *tagged) if part.window), None)
    return (named.window, named.name) if named is not None and named.window is not None else None


def _listed(prompt: str, modality: Modality) -> Iterator[tuple[int, BodyPart, str]]:
    """Targets of which a prompt holds all words, with the number of these."""
    wanted = content_keys(prompt)
    for part in modality.body_parts.values():
        for target, synonyms in part.targets.items():
            held = [len(keys) for keys in map(content_keys, (target, *synonyms)) if keys and keys <= wanted]
            if held:
                yield max(held), part, target
