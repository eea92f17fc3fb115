# SPDX-License-Identifier: Apache-2.0
"""Several phrasings of a prompt, or several localizers, combined into one map."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from custom.localizers.base import Localizer, UnknownPromptError
from custom.localizers.fusion import check_fusion, fuse
from custom.localizers.parts import shown_in
from custom.localizers.windows import OWN

logger = logging.getLogger(__name__)

PLACE = "{}"


class PromptEnsemble:
    """Localizes several phrasings of each prompt and combines their maps.

    A phrasing that the localizer does not know is left out; a prompt is unknown if all its phrasings are.

    Args:
        localizer: makes a map for each phrasing.
        templates: phrases with ``{}`` in place of the prompt: ``"{}"``, ``"an MRI showing a {}"``.
        synonyms: prompt -> other words for it, each put into every template; letter case is ignored.
        combine: how the maps become one, see :func:`custom.localizers.fusion.fuse`.
        window: that a model of pictures sees, see :class:`custom.localizers.volumes.Slicewise`.

    Raises:
        ValueError: if a template lacks ``{}``, or ``combine`` is unknown.
    """

    def __init__(
        self,
        localizer: Localizer,
        templates: Sequence[str] = (PLACE,),
        synonyms: Mapping[str, Sequence[str]] | None = None,
        combine: str = "mean",
        window: Any = OWN,
    ) -> None:
        lacking = [template for template in templates if PLACE not in template]
        if lacking or not templates:
            raise ValueError(f"A template holds {PLACE} where the prompt belongs, received {lacking or templates!r}.")
        check_fusion(combine, None, 1)
        self.localizer, self.templates, self.combine = shown_in(localizer, window), list(templates), combine
        self.synonyms = {_key(prompt): list(words) for prompt, words in (synonyms or {}).items()}
        self.native_dims = localizer.native_dims
        self._log = _Once()

    def describe(self) -> dict[str, Any]:
        """Return the localizer's description, templates, synonyms and how maps are combined."""
        return {
            "name": "prompt_ensemble",
            "version": 1,
            "localizer": self.localizer.describe(),
            "templates": self.templates,
            "synonyms": self.synonyms,
            "combine": self.combine,
        }

    def phrasings(self, prompt: str) -> list[str]:
        """Return what is localized for a prompt, the prompt's own words first."""
        words = [prompt, *self.synonyms.get(_key(prompt), ())]
        return list(dict.fromkeys(template.replace(PLACE, word) for word in words for template in self.templates))

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names; see :class:`custom.localizers.base.Localizer`."""
        phrasings = {prompt: self.phrasings(prompt) for prompt in prompts}
        wanted = list(dict.fromkeys(phrase for phrases in phrasings.values() for phrase in phrases))
        known, unknown = known_maps(self.localizer, image, wanted)
        for prompt, phrases in phrasings.items():
            missing = [phrase for phrase in phrases if phrase in unknown]
            if len(missing) == len(phrases):
                first = unknown[phrases[0]]
                raise UnknownPromptError(prompt, first.known, first.reason) from first
            for phrase in missing:
                reason = unknown[phrase].reason
                self._log.warning("Phrasing %r of the prompt %r is left out: it %s.", phrase, prompt, reason)
        maps = [
            fuse(torch.stack([known[phrase] for phrase in phrasings[prompt] if phrase in known]), self.combine)
            for prompt in prompts
        ]
        return _stacked(maps, image)


class LocalizerEnsemble:
    """Combines the maps of several localizers.

    A prompt that one member does not know counts there as an empty map, so that a mean is damped and a product is
    empty: its silence is taken as "nothing found". A prompt that no member knows is unknown.

    Args:
        localizers: the members.
        weights: one number a member; None: equal ones.
        combine: how the maps become one, see :func:`custom.localizers.fusion.fuse`.
        window: that members which are models of pictures see, see :class:`custom.localizers.volumes.Slicewise`.

    Raises:
        ValueError: if there is no member, none of their dimensions is common to all, or weights or ``combine`` do not
            fit.
    """

    def __init__(
        self,
        localizers: Sequence[Localizer],
        weights: Sequence[float] | None = None,
        combine: str = "mean",
        window: Any = OWN,
    ) -> None:
        check_fusion(combine, weights, len(localizers))
        self.localizers, self.combine = [shown_in(member, window) for member in localizers], combine
        self.weights = None if weights is None else [float(weight) for weight in weights]
        common = set.intersection(*(set(member.native_dims) for member in self.localizers))
        if not common:
            each = ", ".join(f"{type(member).__name__} {member.native_dims}" for member in self.localizers)
            raise ValueError(
                f"The members take scans of different dimensions ({each}). Put models of pictures into "
                "custom.localizers.volumes.Slicewise to let them take volumes."
            )
        self.native_dims = tuple(sorted(common))
        self._log = _Once()

    def describe(self) -> dict[str, Any]:
        """Return the members' descriptions, weights and how maps are combined."""
        return {
            "name": "localizer_ensemble",
            "version": 1,
            "localizers": [member.describe() for member in self.localizers],
            "weights": self.weights,
            "combine": self.combine,
        }

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names; see :class:`custom.localizers.base.Localizer`."""
        wanted = list(dict.fromkeys(prompts))
        answers = [known_maps(member, image, wanted) for member in self.localizers]
        for prompt in wanted:
            errors = [unknown[prompt] for _, unknown in answers if prompt in unknown]
            if len(errors) == len(answers):
                known = dict.fromkeys(word for error in errors for word in error.known)
                raise UnknownPromptError(prompt, known, errors[0].reason) from errors[0]
        for member, (_, unknown) in zip(self.localizers, answers, strict=True):
            for prompt, error in unknown.items():
                text = "Prompt %r counts as an empty map of %s: it %s."
                self._log.warning(text, prompt, type(member).__name__, error.reason)
        empty = torch.zeros(image.shape[1:])
        maps = [
            fuse(torch.stack([known.get(prompt, empty) for known, _ in answers]), self.combine, self.weights)
            for prompt in prompts
        ]
        return _stacked(maps, image)


def known_maps(
    localizer: Localizer, image: Tensor, prompts: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, UnknownPromptError]]:
    """Localize what a localizer knows.

    Returns:
        The maps ``[*spatial]`` of the prompts that it knows, and its complaints about the others.
    """
    known, unknown = list(prompts), dict[str, UnknownPromptError]()
    while known:
        try:
            maps = localizer.localize(image, known)
            return dict(zip(known, maps, strict=True)), unknown
        except UnknownPromptError as error:
            if error.prompt not in known:
                raise
            known.remove(error.prompt)
            unknown[error.prompt] = error
    return {}, unknown


class _Once:
    """Logs each warning once, however many scans it holds for."""

    def __init__(self) -> None:
        self._said: set[tuple[str, ...]] = set()

    def warning(self, text: str, *values: str) -> None:
        if (text, *values) not in self._said:
            self._said.add((text, *values))
            logger.warning(text, *values)


def _key(prompt: str) -> str:
    return " ".join(prompt.lower().split())


def _stacked(maps: Sequence[Tensor], image: Tensor) -> Tensor:
    return torch.stack(list(maps)) if maps else torch.zeros(0, *image.shape[1:])
