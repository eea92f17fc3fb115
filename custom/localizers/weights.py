# SPDX-License-Identifier: Apache-2.0
"""Files of weights that steps of a vocabulary name: where they lie, replacing them, telling them apart by content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from custom.localizers.vocabulary import Concept, Step

WEIGHTS = "weights"
HOW = 'give the file with --localizer_options "{weights: FOLDER/self_taught.safetensors}"'


class WeightsError(ValueError):
    """A vocabulary's weights cannot be had; the message names the concept and says what to give."""


def placed(entry: Any, folder: Path) -> Any:
    """Return a part of a vocabulary with paths of weights made absolute: beside the file, or else where one works.

    A file that is nowhere stays as it is written: something else may take its place.
    """
    if isinstance(entry, list):
        return [placed(each, folder) for each in entry]
    if not isinstance(entry, Mapping):
        return entry
    return {key: _place(value, folder) if key == WEIGHTS else placed(value, folder) for key, value in entry.items()}


def without_weights(entry: Any) -> Any:
    """Return a part of a vocabulary without the paths of weights, which say nothing about their content."""
    if isinstance(entry, list):
        return [without_weights(each) for each in entry]
    if not isinstance(entry, Mapping):
        return entry
    return {key: without_weights(value) for key, value in entry.items() if key != WEIGHTS}


def with_weights(
    concepts: Mapping[str, Concept], given: str | Path | Mapping[str, str | Path] | None, takers: Mapping[str, bool]
) -> dict[str, Concept]:
    """Return concepts whose operators have the weights that they take.

    Args:
        concepts: by name.
        given: a file for all of them, or concept -> file; None: those of the vocabulary.
        takers: operators that take weights -> whether they must have some.

    Raises:
        WeightsError: if a file is missing, or is given to nobody.
    """
    named = dict(given) if isinstance(given, Mapping) else {}
    able = [name for name, concept in concepts.items() if any(step.operator in takers for step in _steps(concept))]
    idle = [name for name in named if name not in able]
    if idle or (given is not None and not able):
        who = f"the concept {idle[0]!r}" if idle else "this vocabulary"
        takes = f"those that take some: {', '.join(able)}" if able else "no operator of it takes any"
        raise WeightsError(f"weights were given to {who}, which has no use for them ({takes}).")
    common = None if isinstance(given, Mapping) else given
    return {name: _equipped(concept, named.get(name, common), takers) for name, concept in concepts.items()}


def weights_digest(concepts: Mapping[str, Concept]) -> dict[str, str]:
    """Hash of the weights' content, and of the ``.json`` beside them, by concept and step."""
    return {
        f"{name}, {modality}, {index}": _file_digest(step.parameters[WEIGHTS])
        for name, concept in concepts.items()
        for modality, chain in concept.chains.items()
        for index, step in enumerate(chain)
        if step.parameters.get(WEIGHTS)
    }


def _place(value: Any, folder: Path) -> Any:
    if not isinstance(value, str):
        return value
    found = [path for path in (folder / value, Path(value).expanduser()) if path.is_file()]
    return str(found[0].resolve()) if found else value


def _steps(concept: Concept) -> list[Step]:
    return [step for chain in concept.chains.values() for step in chain]


def _equipped(concept: Concept, file: str | Path | None, takers: Mapping[str, bool]) -> Concept:
    chains = {
        modality: tuple(_step(step, file, takers, concept.name) for step in chain)
        for modality, chain in concept.chains.items()
    }
    return replace(concept, chains=chains)


def _step(step: Step, file: str | Path | None, takers: Mapping[str, bool], concept: str) -> Step:
    if step.operator not in takers:
        return step
    path = file or step.parameters.get(WEIGHTS)
    if path is None and not takers[step.operator]:
        return step
    if path is None:
        raise WeightsError(f"concept {concept!r}: {step.operator} needs weights; {HOW}.")
    place = Path(path).expanduser()
    if not place.is_file():
        looked = "" if place.is_absolute() else f" (looked beside the vocabulary and in {Path.cwd()})"
        raise WeightsError(f"concept {concept!r}: no file of weights {str(path)!r}{looked}; {HOW}.")
    return replace(step, parameters={**step.parameters, WEIGHTS: str(place.resolve())})


def _file_digest(path: str) -> str:
    state = hashlib.blake2b(digest_size=8)
    for file in (Path(path), Path(path).with_suffix(".json")):
        if file.is_file():
            with open(file, "rb") as stream:
                state.update(hashlib.file_digest(stream, "sha256").digest())
    return state.hexdigest()
