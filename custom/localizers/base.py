# SPDX-License-Identifier: Apache-2.0
"""What a localizer is: a frozen model that finds in a scan the region that a prompt names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Localizer(Protocol):
    """From a scan and prompts to one region probability a prompt.

    Frozen and deterministic: the same scan, prompts and :meth:`describe` give the same maps.

    - ``native_dims``: numbers of spatial dimensions that :meth:`localize` takes, for example ``(2, 3)``.
    """

    native_dims: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        """Return, ready for JSON, everything that determines a map besides scan and prompt."""
        ...

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names.

        Args:
            image: scan ``[C, *spatial]``.
            prompts: one phrase a map.

        Returns:
            Probabilities ``[len(prompts), *spatial]``, float32 in [0, 1]; all zero = found nothing.

        Raises:
            UnknownPromptError: if a phrase names nothing that this localizer knows.
        """
        ...


@runtime_checkable
class Refiner(Protocol):
    """From a scan and coarse maps to better ones; composes with any localizer.

    Frozen and deterministic, like a :class:`Localizer`. A map of zeros stays a map of zeros.

    - ``native_dims``: numbers of spatial dimensions that :meth:`refine` takes.
    """

    native_dims: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        """Return, ready for JSON, everything that determines a refined map besides scan and coarse map."""
        ...

    def refine(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Refine maps.

        Args:
            image: scan ``[C, *spatial]``.
            probabilities: coarse maps ``[P, *spatial]`` in [0, 1].

        Returns:
            Maps ``[P, *spatial]``, float32 in [0, 1].
        """
        ...


class PromptedRefiner(ABC):
    """A :class:`Refiner` that looks at the scan, and so wants to know what was asked for: that decides its window."""

    native_dims: tuple[int, ...]

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """See :class:`Refiner`."""

    @abstractmethod
    def refine(self, image: Tensor, probabilities: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Refine maps.

        Args:
            image: scan ``[C, *spatial]``.
            probabilities: coarse maps ``[P, *spatial]`` in [0, 1].
            prompts: ``P`` phrases that they are of; empty: not known.

        Returns:
            Maps ``[P, *spatial]``, float32 in [0, 1].
        """


class UnknownPromptError(ValueError):
    """A prompt names nothing that the localizer knows.

    Args:
        prompt: the phrase.
        known: what the localizer knows.
        reason: why it was not understood.
    """

    def __init__(
        self, prompt: str, known: Iterable[str], reason: str = "names nothing that this localizer knows"
    ) -> None:
        self.prompt = prompt
        self.known = list(known)
        self.reason = reason
        super().__init__(prompt, self.known, reason)

    def __str__(self) -> str:
        return (
            f"The prompt {self.prompt!r} {self.reason}. Known: {', '.join(self.known)}. Use one of these words, add "
            "the concept to a vocabulary file (bundle/configs/localizers/vocabulary.yaml shows how), or choose another "
            "localizer with --localizer NAME (a file of bundle/configs/localizers)."
        )


def spatial_values(image: Tensor, native_dims: Sequence[int]) -> Tensor:
    """Return a scan ``[C, *spatial]`` as grey values ``[*spatial]``, the mean over its channels.

    Raises:
        ValueError: if it has another number of dimensions, no voxel, or values that are not finite.
    """
    dims = image.ndim - 1
    if dims not in native_dims or image.numel() == 0:
        raise ValueError(
            f"A scan must be [C, *spatial] with {' or '.join(map(str, native_dims))} spatial dimensions and at least "
            f"one voxel, received the shape {tuple(image.shape)}."
        )
    values = image.detach().float().mean(dim=0)
    if not bool(values.isfinite().all()):
        raise ValueError("The scan holds NaN or infinite values: clean it before localization.")
    return values
