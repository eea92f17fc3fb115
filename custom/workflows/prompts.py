# SPDX-License-Identifier: Apache-2.0
"""What a run is to localize: from the command line, from the scans themselves, or from the prompt library."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from custom.keys import MIMKeys
from custom.prompts import NoPromptError, PromptLibrary, prompts_from_tags, warn_of_leak
from datasets.datalist import Datalist
from datasets.errors import ScanError
from datasets.readers.dicom import describing_tags

logger = logging.getLogger(__name__)

AUTO = "auto"
FROM_LIBRARY = "library:"

Prompt = str | Sequence[str] | None


def named_prompts(prompt: Prompt, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the phrases of a run: the user's, or those that come with the scans (phantoms name what they show).

    Args:
        prompt: one phrase, or a list of phrases; a tuple is one phrase, because the command line turns
            ``--prompt "tumor, edema"`` into one and ``--prompt "['tumor', 'edema']"`` into a list; None: ask the scans;
            "auto" or "library:<modality>/<body part>": those that :func:`with_prompts` gave the scans.
        items: datalist entries, possibly with ``prompt`` or ``prompts``.

    Returns:
        Phrases, without repetition; empty if nobody named any.

    Raises:
        ValueError: if the prompts are to come with the scans, and do not.
    """
    if is_looked_up(prompt):
        found = dict.fromkeys(phrase for item in items for phrase in item.get(MIMKeys.PROMPTS, ()))
        if not found:
            raise ValueError(f"--prompt {prompt}: the scans bring no prompts; this config does not look them up.")
        return list(found)
    if isinstance(prompt, tuple):
        prompt = ", ".join(str(word) for word in prompt)
    given = [prompt] if isinstance(prompt, str) else [str(phrase) for phrase in prompt or []]
    return list(dict.fromkeys(given)) or sorted({str(item["prompt"]) for item in items if item.get("prompt")})


def is_looked_up(prompt: Prompt) -> bool:
    """Whether a prompt names no phrase, but where phrases come from: "auto" or "library:...\""""
    return isinstance(prompt, str) and (prompt.strip() == AUTO or prompt.strip().startswith(FROM_LIBRARY))


def with_prompts(datalist: Datalist, prompt: Prompt, library: str | Path, skip_bad: bool = False) -> Datalist:
    """Look up the prompts of scans where that was asked for, and warn of prompts that give labels away.

    Args:
        datalist: the scans.
        prompt: "auto": from the DICOM tags of each scan, through the library; "library:<modality>/<body part>": the
            library's prompts, the same for all scans; anything else leaves the scans as they are. Names of folders and
            classes are never prompts.
        library: folder of the prompt library.
        skip_bad: leave out scans whose tags say nothing, with a warning each, instead of raising.

    Returns:
        The datalist; looked-up phrases are in each item's ``prompts``.

    Raises:
        ScanError: if a scan has no DICOM tags, or its tags say nothing; with ``skip_bad`` if none is left.
        NoPromptError: if the library has no such body part.
    """
    if is_looked_up(prompt):
        place = str(prompt).strip().removeprefix(FROM_LIBRARY)
        found = _from_tags(datalist, library, skip_bad) if place == AUTO else _from_library(datalist, library, place)
        datalist = replace(datalist, items=found)
        logger.info("Prompts found: %s", ", ".join(map(repr, named_prompts(prompt, found))))
    warn_of_leak(named_prompts(prompt, datalist.items), datalist.classes)
    return datalist


def _from_library(datalist: Datalist, library: str | Path, place: str) -> list[dict[str, Any]]:
    prompts = PromptLibrary(library).prompts(place)
    return [{**item, MIMKeys.PROMPTS: prompts} for item in datalist.items]


def _from_tags(datalist: Datalist, library: str | Path, skip_bad: bool) -> list[dict[str, Any]]:
    known = PromptLibrary(library)
    found: list[dict[str, Any]] = []
    first: ScanError | None = None
    for item in datalist.items:
        try:
            found.append({**item, MIMKeys.PROMPTS: _of_scan(item, known)})
        except ScanError as error:
            if not skip_bad:
                raise
            first = first or error
            logger.warning("Left out: %s", error)
    if first is not None and not found:
        raise ScanError(datalist.root, f"--prompt auto finds a prompt for none of its scans; the first: {first}")
    return found


def _of_scan(item: Mapping[str, Any], library: PromptLibrary) -> list[str]:
    try:
        return prompts_from_tags(describing_tags(item["image"], item.get("series_uid")), library)
    except NoPromptError as error:
        raise ScanError(item["image"], f"--prompt auto: {error.problem}", error.remedy) from error
