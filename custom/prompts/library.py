# SPDX-License-Identifier: Apache-2.0
"""The prompt library: what can be asked for in which part of the body, and in which words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from custom.prompts.words import content_keys, side_of, tokens

Window = tuple[float, float]

_SECTIONS = ("modality", "dicom", "windows", "body_parts")
_ENTRIES = ("words", "near", "prompts", "window", "targets", "windows")


class PromptLibraryError(ValueError):
    """A file of the prompt library is wrong; the message names the file and the entry."""


class NoPromptError(ValueError):
    """Nothing says what to localize.

    Args:
        problem: why.
        remedy: what to give.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(problem, remedy)

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}."


@dataclass(frozen=True)
class BodyPart:
    """A part of the body as one modality shows it.

    - ``name``: the same in every modality.
    - ``words``: words or phrases that name it in DICOM tags, as tokens.
    - ``near``: names of parts that its scans may show as well.
    - ``prompts``: what to localize where the user names nothing.
    - ``targets``: what can be asked for -> other words for the same thing.
    - ``window``: grey values from black to white that show the part; None where the modality's have no unit.
    - ``windows``: target -> those that show it.
    """

    name: str
    words: tuple[tuple[str, ...], ...]
    near: tuple[str, ...]
    prompts: tuple[str, ...]
    targets: Mapping[str, tuple[str, ...]]
    window: Window | None = None
    windows: Mapping[str, Window] = field(default_factory=dict)

    def phrases(self) -> Iterator[str]:
        """Targets and their synonyms."""
        for target, synonyms in self.targets.items():
            yield target
            yield from synonyms


@dataclass(frozen=True)
class Modality:
    """Body parts of one modality.

    - ``name``: as in ``library:<name>/<body part>``.
    - ``codes``: values of the DICOM tag Modality.
    - ``windows``: name of a window -> grey values that become black and white.
    """

    name: str
    codes: tuple[str, ...]
    body_parts: Mapping[str, BodyPart] = field(default_factory=dict)
    windows: Mapping[str, Window] = field(default_factory=dict)


class PromptLibrary:
    """Prompts by modality and body part, read from every ``*.yaml`` of a folder.

    Args:
        folder: for example ``bundle/configs/prompts``, whose ``mri.yaml`` explains the format.

    Raises:
        PromptLibraryError: if the folder holds no file, or an entry is wrong.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        files = sorted(self.folder.glob("*.yaml"))
        if not files:
            raise PromptLibraryError(f"{self.folder}: no *.yaml file of a prompt library there.")
        self.modalities: dict[str, Modality] = {}
        for file in files:
            modality = _modality(file)
            if modality.name in self.modalities:
                raise PromptLibraryError(f"{file}: the modality {modality.name!r} has a file already.")
            self.modalities[modality.name] = modality
        self._check_neighbours(files)

    def prompts(self, place: str) -> list[str]:
        """Prompts of a body part.

        Args:
            place: ``<modality>/<body part>``, for example "mri/brain"; or the body part alone, in every modality.

        Raises:
            NoPromptError: if the library has no such place; the message lists those that it has.
        """
        modality, _, part = place.rpartition("/")
        wanted = " ".join(tokens(part))
        found = [
            each.prompts
            for each in self._parts(modality.strip().lower() or None)
            if " ".join(tokens(each.name)) == wanted
        ]
        if not found:
            raise NoPromptError(
                f"The prompt library {self.folder} has no {place!r}",
                f"Give --prompt library:<modality>/<body part> with one of: {', '.join(self.places())}; or add it to a "
                "file there",
            )
        return list(dict.fromkeys(prompt for prompts in found for prompt in prompts))

    def places(self) -> list[str]:
        """Every ``<modality>/<body part>``."""
        return [f"{modality.name}/{part}" for modality in self.modalities.values() for part in modality.body_parts]

    def synonyms(self, prompt: str) -> list[str]:
        """Other words for what a prompt names, the usual ones first; empty if the library does not know it.

        A side stays: where only "kidney" is listed, "left kidney" has "left renal parenchyma".
        """
        found = self._listed(prompt)
        side = side_of(prompt)
        if not found and side is not None:
            base = " ".join(word for word in tokens(prompt) if word != side)
            found = [f"{side} {each}" for each in self._listed(base)]
        return found

    def elsewhere(self, prompt: str) -> list[str]:
        """Targets of other parts of the body: one of each part in turn, first what it is usually asked for.

        Parts that the prompt's own scans may show (``near``) are left out, and whatever shares a word with the prompt.
        For a prompt that the library cannot place these are the targets of all parts without a common word.
        """
        here = self._places_of(prompt)
        near = here | {name for part in self._parts() if part.name in here for name in part.near}
        own = content_keys(prompt)
        away = [part for part in self._parts() if part.name not in near and not (here & set(part.near))]
        columns: dict[str, list[str]] = {part.name: [] for part in away}
        for part in away:
            columns[part.name] += part.prompts
        for part in away:
            columns[part.name] += [target for target in part.targets if target not in columns[part.name]]
        rows = (target for row in zip_longest(*columns.values()) for target in row if target is not None)
        return [target for target in dict.fromkeys(rows) if own.isdisjoint(content_keys(target))]

    def _listed(self, prompt: str) -> list[str]:
        """Phrases of the targets that list exactly the words of a prompt, without the prompt itself."""
        wanted = self._without_modality(prompt)
        found: list[str] = []
        for part in self._parts():
            for target, synonyms in part.targets.items():
                phrases = (target, *synonyms)
                if any(content_keys(phrase) == wanted for phrase in phrases):
                    found += phrases
        same = " ".join(tokens(prompt))
        return [each for each in dict.fromkeys(found) if " ".join(tokens(each)) != same]

    def _places_of(self, prompt: str) -> set[str]:
        """Body parts that a prompt belongs to: those that list it, or else those that it names."""
        wanted = self._without_modality(prompt)
        options = [wanted, wanted - {"left", "right"}]
        listed = {
            part.name for part in self._parts() if any(content_keys(phrase) in options for phrase in part.phrases())
        }
        if listed:
            return listed
        words = tokens(prompt)
        named = {part.name for part in self._parts() if any(_holds(words, phrase) for phrase in part.words)}
        shared = {part.name for part in self._parts() if any(wanted & content_keys(each) for each in part.targets)}
        return named or shared

    def _without_modality(self, prompt: str) -> frozenset[str]:
        """Keys of a prompt's words, modality words left out ("lungs on x-ray", "brain tumor, MRI")."""
        names = {"mri", "mr", "ct", "xra", "x", "ray", "radiograph", "scan", "imag"}
        return content_keys(prompt) - names

    def _parts(self, modality: str | None = None) -> list[BodyPart]:
        return [
            part
            for each in self.modalities.values()
            if modality in (None, each.name)
            for part in each.body_parts.values()
        ]

    def _check_neighbours(self, files: Sequence[Path]) -> None:
        known = {part.name for part in self._parts()}
        for file, modality in zip(files, self.modalities.values(), strict=True):
            for part in modality.body_parts.values():
                unknown = sorted(set(part.near) - known)
                if unknown:
                    raise PromptLibraryError(f"{file}: body part {part.name!r}: near {unknown[0]!r} is no body part.")


def _holds(words: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether the phrase's tokens follow one another in the words."""
    length = len(phrase)
    return any(tuple(words[start : start + length]) == tuple(phrase) for start in range(len(words) - length + 1))


def _modality(file: Path) -> Modality:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PromptLibraryError(f"{file}: cannot be read ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise PromptLibraryError(f"{file}: not YAML: {error}") from error
    _check_keys(content, _SECTIONS, str(file))
    name = str(content.get("modality") or file.stem).strip().lower()
    codes = tuple(code.upper() for code in _texts(content.get("dicom"), f"{file}: dicom"))
    parts = content.get("body_parts")
    if not isinstance(parts, Mapping) or not parts:
        raise PromptLibraryError(f"{file}: needs `body_parts`, a mapping of names to entries.")
    windows = _windows(content.get("windows"), f"{file}: windows")
    read = {str(key): _body_part(str(key), entry, file, windows) for key, entry in parts.items()}
    return Modality(name, codes, read, windows)


def _windows(content: Any, where: str) -> dict[str, Window]:
    """Named windows, each two numbers."""
    if not isinstance(content, Mapping | None):
        raise PromptLibraryError(f"{where}: must be a mapping of names to [black, white].")
    found = {}
    for name, limits in (content or {}).items():
        is_pair = isinstance(limits, list) and len(limits) == 2
        if not is_pair or not all(isinstance(each, int | float) for each in limits) or not limits[0] < limits[1]:
            raise PromptLibraryError(f"{where}: {name!r} must be [black, white], two rising numbers; got {limits!r}.")
        found[str(name)] = (float(limits[0]), float(limits[1]))
    return found


def _shown(entry: Mapping[str, Any], targets: Sequence[str], known: Mapping[str, Window], where: str) -> dict[str, Any]:
    """The windows of a body part and its targets: its own, but for the targets listed under another."""
    usual, others = entry.get("window"), entry.get("windows") or {}
    _check_keys(others, list(known), f"{where}: windows")
    listed = {target: name for name, each in others.items() for target in _texts(each, f"{where}: windows: {name}")}
    wrong = [target for target in listed if target not in targets]
    if wrong or usual not in (None, *known):
        problem = f"windows: {wrong[0]!r} is none of its targets" if wrong else f"there is no window {usual!r}"
        raise PromptLibraryError(f"{where}: {problem}; known: {', '.join(targets if wrong else known)}.")
    chosen = {target: listed.get(target, usual) for target in targets}
    windows = {target: known[name] for target, name in chosen.items() if name is not None}
    return {"window": known.get(usual), "windows": windows}


def _body_part(name: str, entry: Any, file: Path, windows: Mapping[str, Window]) -> BodyPart:
    where = f"{file}: body part {name!r}"
    _check_keys(entry, _ENTRIES, where)
    targets = entry.get("targets")
    if not isinstance(targets, Mapping) or not targets:
        raise PromptLibraryError(f"{where}: needs `targets`, a mapping of names to lists of synonyms.")
    listed = {str(key): _texts(value, f"{where}: target {key!r}") for key, value in targets.items()}
    prompts = _texts(entry.get("prompts"), f"{where}: prompts")
    missing = [prompt for prompt in prompts if prompt not in listed]
    if missing or not prompts:
        problem = f"the prompt {missing[0]!r} is not among its targets" if missing else "needs `prompts`"
        raise PromptLibraryError(f"{where}: {problem}; targets: {', '.join(listed)}.")
    words = tuple(tuple(tokens(word)) for word in (name, *_texts(entry.get("words"), f"{where}: words")))
    near = _texts(entry.get("near"), f"{where}: near")
    return BodyPart(name, words, near, prompts, listed, **_shown(entry, list(listed), windows, where))


def _check_keys(content: Any, known: Sequence[str], where: str) -> None:
    if not isinstance(content, Mapping):
        raise PromptLibraryError(f"{where}: must be a mapping with {', '.join(known)}.")
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        raise PromptLibraryError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}.")


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """A list of phrases; YAML reads an unquoted yes, no or number as something else, which is refused."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    for each in values:
        if not isinstance(each, str) or not tokens(each):
            raise PromptLibraryError(f"{where}: {each!r} is no phrase; put it in quotes if it is meant as one.")
    return tuple(values)
