# SPDX-License-Identifier: Apache-2.0
"""The embedded localizer: a vocabulary maps free text to classical image analysis; no weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom.localizers.base import UnknownPromptError, spatial_values
from custom.localizers.guess import guess_modality
from custom.localizers.operators import REFINERS, SOURCES, Map, Scan
from custom.localizers.operators.field import Box, field_of_body, whole_field
from custom.localizers.operators.scan import is_hounsfield
from custom.localizers.prompt import Words
from custom.localizers.vocabulary import MODALITIES, Concept, Step, Vocabulary, parameter_names

logger = logging.getLogger(__name__)

VERSION = 3  # raise it whenever an operator or the parser gives other maps
SIDE_CONVENTIONS = ("radiological", "neurological")


class ConceptLocalizer:
    """Finds what a prompt names by the chain of image operators that a vocabulary holds for it.

    Left and right are the patient's: in volumes (RAS+) low indices of axis 0 are left; in pictures shown the
    radiological way they are right.

    Args:
        vocabulary: YAML file.
        modality: ``mri``, ``ct`` or ``xray``; None: told by the prompt, by the concept, or
            guessed from the scan.
        sides_2d: ``radiological`` or ``neurological``, of pictures.
        weights: file for the vocabulary's operators that take ``weights`` (learned ones), or concept -> file; None:
            those that the vocabulary names.

    Raises:
        ValueError: if a parameter is none of those listed.
        VocabularyError: if the vocabulary is wrong, or weights are missing or of no use.
    """

    native_dims: tuple[int, ...] = (2, 3)

    def __init__(
        self,
        vocabulary: str | Path,
        modality: str | None = None,
        sides_2d: str = "radiological",
        weights: str | Path | Mapping[str, str | Path] | None = None,
    ) -> None:
        if modality is not None and modality not in MODALITIES:
            raise ValueError(f"modality is one of {', '.join(MODALITIES)} or None (guess), received {modality!r}.")
        if sides_2d not in SIDE_CONVENTIONS:
            raise ValueError(f"sides_2d is one of {', '.join(SIDE_CONVENTIONS)}, received {sides_2d!r}.")
        self.vocabulary = Vocabulary(vocabulary, weights)
        self.modality, self.sides_2d = modality, sides_2d
        self._warned: set[str] = set()

    def describe(self) -> dict[str, Any]:
        """Return version, content hash of the vocabulary and its weights, and parameters."""
        return {
            "name": "concept",
            "version": VERSION,
            "vocabulary": self.vocabulary.digest,
            "modality": self.modality,
            "sides_2d": self.sides_2d,
        }

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names; see :class:`custom.localizers.base.Localizer`."""
        tensor = spatial_values(image, self.native_dims)
        values = np.ascontiguousarray(tensor.cpu().numpy(), dtype=np.float32)
        scans: dict[str, tuple[Scan, Box]] = {}
        maps = [self._one(values, prompt, scans) for prompt in prompts]
        return torch.from_numpy(np.stack(maps) if maps else np.zeros((0, *values.shape), dtype=np.float32))

    def _one(self, values: np.ndarray, prompt: str, scans: dict[str, tuple[Scan, Box]]) -> Map:
        words = self.vocabulary.parse(prompt)
        hint = self.modality or words.modality or ("ct" if is_hounsfield(values) else None)
        concept = self._concept(prompt, words, hint)
        if np.ptp(values) == 0:
            return np.zeros_like(values)
        modality = hint or guess_modality(values, concept.modalities or MODALITIES)
        chain = concept.chain(modality)
        if chain is None:
            known = (each.name for each in self.vocabulary.concepts.values() if each.chain(modality))
            raise UnknownPromptError(
                prompt, known, f"names {concept.name!r}, which is not defined for {modality} scans"
            )
        if modality not in scans:
            box = field_of_body(values, modality)
            scans[modality] = Scan(values[box], modality, self._low_side(values.ndim)), box
        scan, box = scans[modality]
        return whole_field(run_chain(scan, chain, words), box, values.shape)

    def _concept(self, prompt: str, words: Words, modality: str | None) -> Concept:
        if words.negated:
            raise UnknownPromptError(prompt, self.vocabulary.concepts, "holds a negation, which is not understood")
        found = self.vocabulary.find(words, modality)
        if found is None:
            raise UnknownPromptError(prompt, self.vocabulary.concepts)
        concept, unused = found
        foreign, used = sorted(unused & self.vocabulary.foreign), words.content - unused
        # One word such as "mass" may be of any organ: with another organ's name beside it, it is that organ's. The lung
        # on the left of the heart is a lung.
        is_organ = used == concept.phrases[0] and bool(concept.modalities)
        if foreign and len(used) == 1 and not is_organ:
            raise UnknownPromptError(
                prompt, self.vocabulary.concepts, f"names {foreign[0]!r}, which this localizer knows nothing of"
            )
        if prompt not in self._warned:
            self._warned.add(prompt)
            self._warn(prompt, words, concept, unused)
        return concept

    def _warn(self, prompt: str, words: Words, concept: Concept, unused: frozenset[str]) -> None:
        """Say how a prompt was read, where that is not plain."""
        for typed, read in words.corrected:
            logger.warning("Prompt %r: %r was read as %r.", prompt, typed, read)
        if unused:
            logger.warning("Prompt %r: read as %r, ignoring: %s.", prompt, concept.name, ", ".join(sorted(unused)))

    def _low_side(self, dims: int) -> str:
        return "right" if dims == 2 and self.sides_2d == "radiological" else "left"


def run_chain(scan: Scan, chain: Sequence[Step], words: Words) -> Map:
    """Apply the operators of a chain in order: sources multiply (all must agree), refiners change the result so far.

    The prompt's brightness word replaces the parameter ``contrast``; its side word cuts the region at the end.
    """
    region = np.ones_like(scan.values)
    for step in chain:
        parameters = dict(step.parameters)
        if words.contrast and "contrast" in parameter_names(step.operator):
            parameters["contrast"] = words.contrast
        if step.operator in SOURCES:
            region = region * SOURCES[step.operator](scan, **parameters)
        else:
            region = REFINERS[step.operator](region, scan, **parameters)
    if words.side:
        region = REFINERS["side"](region, scan, keep=words.side)
    return np.clip(region, 0, 1).astype(np.float32)
