# SPDX-License-Identifier: Apache-2.0
"""Prompts from what a scan's DICOM tags say of modality and body part."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from custom.prompts.library import BodyPart, Modality, NoPromptError, PromptLibrary
from custom.prompts.words import tokens

# The first one that names a body part decides: the tag made for it, then the request, then the protocol.
TEXTS = ("BodyPartExamined", "StudyDescription", "SeriesDescription", "ProtocolName")
HOW = 'Give --prompt "brain tumor" (a phrase, or a list of phrases), or --prompt library:<modality>/<body part>'
_MODALITY_PREFIX = re.compile(r"^(ct|cta|mr|mrt|mra|mri|irm|rx|xr|cr|dx)(?=[a-z]{4})")  # "CTThorax"


def prompts_from_tags(tags: Mapping[str, str], library: PromptLibrary) -> list[str]:
    """Return the library's prompts for the modality and the body parts that DICOM tags name.

    Words of the tags choose an entry of the library and are never prompts themselves: a description such as "glioma,
    follow-up" would tell the diagnosis.

    Args:
        tags: values of Modality, BodyPartExamined, StudyDescription, SeriesDescription and ProtocolName, where known.
        library: see :class:`custom.prompts.PromptLibrary`.

    Returns:
        Phrases, without repetition.

    Raises:
        NoPromptError: if the tags say nothing that the library knows; the message tells what to give.
    """
    given = {name: str(tags.get(name, "")).strip() for name in ("Modality", *TEXTS)}
    if not any(given.values()):
        raise NoPromptError("no DICOM tag says what the scan shows", HOW)
    modalities = _modalities(given["Modality"], library)
    for name in TEXTS:
        parts = [part for modality in modalities for part in named_parts(given[name], modality)]
        choices = {prompt: None for part in parts for prompt in part.prompts}
        if parts and given["Modality"] == "" and len({part.prompts for part in parts}) > 1:
            raise NoPromptError(
                f"{name} is {given[name]!r}, but the tag Modality is missing, and prompts differ by modality: "
                f"{', '.join(choices)}",
                HOW,
            )
        if parts:
            return list(choices)
    said = ", ".join(f"{name} {value!r}" for name, value in given.items() if value)
    known = sorted({part for modality in modalities for part in modality.body_parts})
    raise NoPromptError(
        f"its DICOM tags name no body part of the prompt library ({said}; known: {', '.join(known)})",
        f"{HOW}, or add the word to a file of {library.folder}",
    )


def named_parts(text: str, modality: Modality) -> list[BodyPart]:
    """Body parts that a text names, longer phrases first ("head and neck" is not "head")."""
    words: list[str] = [_MODALITY_PREFIX.sub("", word) for word in tokens(text)]
    phrases = [(phrase, part) for part in modality.body_parts.values() for phrase in part.words]
    found: dict[str, BodyPart] = {}
    for length in sorted({len(phrase) for phrase, _ in phrases}, reverse=True):
        used: set[int] = set()
        for phrase, part in phrases:
            if len(phrase) == length:
                places = _places(words, phrase)
                found |= {part.name: part} if places else {}
                used |= {place + offset for place in places for offset in range(length)}
        # A word that a longer phrase took is not looked at again; several parts may share a phrase.
        words = ["" if place in used else word for place, word in enumerate(words)]
    return [part for name, part in modality.body_parts.items() if name in found]


def _places(words: Sequence[str], phrase: Sequence[str]) -> list[int]:
    length = len(phrase)
    return [at for at in range(len(words) - length + 1) if tuple(words[at : at + length]) == tuple(phrase)]


def _modalities(code: str, library: PromptLibrary) -> list[Modality]:
    everything = list(library.modalities.values())
    found = [modality for modality in everything if not code or code.upper() in modality.codes]
    if not found:
        known = ", ".join(f"{each.name} ({', '.join(each.codes)})" for each in everything)
        raise NoPromptError(
            f"the prompt library {library.folder} has nothing for the modality {code!r}; it has {known}",
            f"{HOW}, or add a file for it",
        )
    return found
