# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of the concept localizer: concepts, their synonyms and how to find them."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from custom.localizers.operators import OPERATORS
from custom.localizers.prompt import CONTRASTS, NEGATIONS, SIDES, STOP_WORDS, Words, normalize, normalize_word, parse
from custom.localizers.spelling import intended
from custom.localizers.weights import WEIGHTS, WeightsError, placed, weights_digest, with_weights, without_weights

MODALITIES = ("mri", "ct", "xray")
ANY = "any"


class VocabularyError(ValueError):
    """A vocabulary file is wrong; the message names the file and the entry."""


@dataclass(frozen=True)
class Step:
    """One image operator of a chain, with its parameters."""

    operator: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Concept:
    """Something that a prompt can name.

    - ``name``: unique in the vocabulary; the first synonym unless stated otherwise.
    - ``phrases``: sets of normalised words; a prompt names the concept if it holds all words of one.
    - ``modalities``: of the scans that the concept is sought in, the usual one first; empty: any.
    - ``chains``: modality (or ``any``) -> operators.
    """

    name: str
    phrases: tuple[frozenset[str], ...]
    modalities: tuple[str, ...]
    chains: Mapping[str, tuple[Step, ...]]

    def chain(self, modality: str) -> tuple[Step, ...] | None:
        """Operators for scans of a modality; None if the concept is not defined for it."""
        return self.chains.get(modality, self.chains.get(ANY))


class Vocabulary:
    """Concepts read from a YAML file; see ``bundle/configs/localizers/vocabulary.yaml`` for the format.

    Args:
        path: the file. Its ``extends`` names another vocabulary, relative to it, whose entries it adds to or replaces.
        weights: file for the operators that take ``weights``, instead of the one in the vocabulary; or concept -> file.

    - ``digest``: of all entries, files of weights by their content.

    Raises:
        VocabularyError: if the file is missing or an entry is wrong.
    """

    def __init__(self, path: str | Path, weights: str | Path | Mapping[str, str | Path] | None = None) -> None:
        self.path = Path(path)
        content = _read(self.path, seen=())
        self.aliases = {_one_word(key): _one_word(value) for key, value in content["aliases"].items()}
        self.modality_words = _modality_words(content["modality_words"], self.path)
        concepts = {name: self._concept(name, entry) for name, entry in content["concepts"].items()}
        if not concepts:
            raise VocabularyError(f"{self.path}: no entry below `concepts`.")
        try:
            self.concepts = with_weights(concepts, weights, _weight_takers())
        except WeightsError as error:
            raise VocabularyError(f"{self.path}: {error}") from error
        self.digest = _digest(without_weights(content), weights_digest(self.concepts))
        named = {word for concept in self.concepts.values() for phrase in concept.phrases for word in phrase}
        self.foreign = _foreign_words(content["elsewhere"], self.path, self.aliases) - named
        modifiers = set(CONTRASTS) | set(self.modality_words)
        words = named | set(self.aliases) | set(SIDES) | NEGATIONS
        self._known = frozenset(words | self.foreign | modifiers | STOP_WORDS)
        # Words that change less are recognised behind a slip only if they are long: "back" is not "black".
        less = {word for word in modifiers if len(word) >= 6} | {word for word in self.foreign if len(word) >= 7}
        self._meant = frozenset(words | less)

    def parse(self, prompt: str) -> Words:
        """Take a prompt apart with this vocabulary's aliases; a mistyped word is read as the known word beside it."""
        return parse(prompt, self.aliases, self.modality_words, self._spelled)

    def find(self, words: Words, modality: str | None) -> tuple[Concept, frozenset[str]] | None:
        """Return the concept that fits the words best, and the words that it leaves unused; None if none fits.

        The phrase with most words wins ("lung tumor" over "tumor"); among equals a concept of the scan's modality, then
        one that has a modality at all, then the first of the file.
        """
        matches = [(concept, phrase) for concept in self.concepts.values() for phrase in concept.phrases]
        matches = [(concept, phrase) for concept, phrase in matches if phrase <= words.content]
        if not matches:
            return None
        concept, phrase = max(matches, key=lambda match: _rank(match[0], match[1], modality))
        return concept, words.content - phrase

    def _spelled(self, word: str) -> str:
        plain = normalize_word(word)
        if plain in self._known:
            return plain
        # A slip may look like a plural ("brani"), so the word as it was typed is tried as well.
        return intended(plain, self._meant) or intended(word, self._meant) or plain

    def _concept(self, name: str, entry: Any) -> Concept:
        where = f"{self.path}: concept {name!r}"
        if not isinstance(entry, Mapping) or "steps" not in entry:
            raise VocabularyError(f"{where}: needs `steps`, a list of operators (or one list a modality).")
        unknown = sorted(set(entry) - {"synonyms", "modality", "steps", "about"})
        if unknown:
            raise VocabularyError(f"{where}: unknown key {unknown[0]!r}; known: about, modality, steps, synonyms.")
        modalities = _as_tuple(entry.get("modality"))
        for modality in modalities:
            if modality not in MODALITIES:
                raise VocabularyError(f"{where}: modality {modality!r} is none of {', '.join(MODALITIES)}.")
        phrases = tuple(self._phrase(text, where) for text in (name, *_as_tuple(entry.get("synonyms"))))
        return Concept(name, phrases, modalities, _chains(entry["steps"], where))

    def _phrase(self, text: Any, where: str) -> frozenset[str]:
        content = parse(str(text), self.aliases, self.modality_words).content
        if not content:
            raise VocabularyError(f"{where}: the synonym {text!r} holds no word that could name something.")
        return content


def _rank(concept: Concept, phrase: frozenset[str], modality: str | None) -> tuple[int, bool, bool]:
    return len(phrase), modality in concept.modalities, bool(concept.modalities)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, dict[str, Any]]:
    """Read a file and those it extends into one mapping of sections."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise VocabularyError(f"{path}: cannot be read ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise VocabularyError(f"{path}: not YAML: {error}") from error
    sections: dict[str, dict[str, Any]] = {"aliases": {}, "modality_words": {}, "elsewhere": {}, "concepts": {}}
    _check_sections(path, content, (*sections, "extends"))
    if "extends" in content:
        base = (path.parent / str(content["extends"])).resolve()
        if base in seen:
            raise VocabularyError(f"{path}: `extends` runs in a circle through {base}.")
        sections = _read(base, (*seen, base))
    own = {**content, "concepts": placed(content.get("concepts"), path.parent)}
    return {name: {**values, **(own.get(name) or {})} for name, values in sections.items()}


def _check_sections(path: Path, content: Any, known: tuple[str, ...]) -> None:
    if not isinstance(content, Mapping):
        raise VocabularyError(f"{path}: must be a mapping with {', '.join(known)}.")
    for name, values in content.items():
        if name not in known:
            raise VocabularyError(f"{path}: unknown section {name!r}; known: {', '.join(known)}.")
        if name != "extends" and values is not None and not isinstance(values, Mapping):
            raise VocabularyError(f"{path}: section {name!r} must be a mapping, received {values!r}.")


def _modality_words(section: Mapping[str, Any], path: Path) -> dict[str, str]:
    unknown = sorted(set(section) - set(MODALITIES))
    if unknown:
        raise VocabularyError(f"{path}: modality_words {unknown[0]!r} is none of {', '.join(MODALITIES)}.")
    return {_one_word(word): modality for modality, words in section.items() for word in words}


def _foreign_words(section: Mapping[str, Any], path: Path, aliases: Mapping[str, str]) -> set[str]:
    for part, words in section.items():
        if not isinstance(words, list):
            raise VocabularyError(f"{path}: elsewhere {part!r}: must be a list of words, received {words!r}.")
    return {aliases.get(word, word) for words in section.values() for word in map(_one_word, words)}


def _weight_takers() -> dict[str, bool]:
    """Operators that take weights, and whether they must have some."""
    accepted = {name: inspect.signature(operator).parameters.get(WEIGHTS) for name, operator in OPERATORS.items()}
    return {name: found.default in (found.empty, None) for name, found in accepted.items() if found is not None}


def _digest(*content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def _one_word(text: Any) -> str:
    return "".join(normalize(str(text)))


def _chains(steps: Any, where: str) -> dict[str, tuple[Step, ...]]:
    chains = steps if isinstance(steps, Mapping) else {ANY: steps}
    for modality in chains:
        if modality not in (*MODALITIES, ANY):
            raise VocabularyError(f"{where}: steps for {modality!r}, which is none of {', '.join((*MODALITIES, ANY))}.")
    return {modality: _chain(chain, f"{where}, steps for {modality}") for modality, chain in chains.items()}


def _chain(chain: Any, where: str) -> tuple[Step, ...]:
    if not isinstance(chain, list) or not chain:
        raise VocabularyError(f"{where}: must be a list of operators, received {chain!r}.")
    return tuple(_step(step, f"{where}, step {index}") for index, step in enumerate(chain, start=1))


def _step(step: Any, where: str) -> Step:
    """One step: ``name`` or ``name: {parameter: value}``."""
    if isinstance(step, Mapping) and len(step) == 1:
        name, parameters = next(iter(step.items()))
    else:
        name, parameters = step, {}
    if not isinstance(name, str) or name not in OPERATORS:
        raise VocabularyError(f"{where}: unknown operator {name!r}; known: {', '.join(sorted(OPERATORS))}.")
    accepted = parameter_names(name)
    for parameter in parameters or {}:
        if parameter not in accepted:
            raise VocabularyError(f"{where}: {name} has no parameter {parameter!r}; known: {', '.join(accepted)}.")
    return Step(name, dict(parameters or {}))


def parameter_names(operator: str) -> list[str]:
    """Parameters that a step of the vocabulary may give to an operator."""
    return [name for name in inspect.signature(OPERATORS[operator]).parameters if name not in ("region", "scan")]
