# SPDX-License-Identifier: Apache-2.0
"""The window in which a scan is shown to models of pictures: which grey values become black and white."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from torch import Tensor

from custom.files import shipped_file
from custom.localizers.operators.scan import is_hounsfield
from custom.prompts.library import Modality, PromptLibrary
from custom.prompts.windows import window_for, windowed_modalities

logger = logging.getLogger(__name__)

AUTO = "auto"
OWN = "own"  # of what holds other models: leave them the windows that they have
PERCENTILES = (0.5, 99.5)
_BY_PERCENTILES = f"percentiles {PERCENTILES[0]:g} and {PERCENTILES[1]:g} of the scan"
_TAGS = {"Modality": "modality", "BodyPartExamined": "body_part"}  # DICOM's names -> those in a scan's meta
_ASKED_FOR, _SHOWN = "asked_for", "shown"

Limits = tuple[float, float]


class PictureWindow:
    """How the grey values of scans become those of pictures.

    ``auto`` looks up the window that shows what is asked for in the prompt library, for scans whose values have a unit:
    those in Hounsfield units. A scan is taken for one if its DICOM tag says CT (``meta["modality"]``) and its values go
    below 0, or, without a tag, below -200. Everything else is shown by percentiles, and the record of each map says
    what it was, and why (:func:`noted`).

    Args:
        window: None: the scan's 0.5th and 99.5th percentile become black and white; ``(low, high)``: these values do;
            ``auto``.
        library: folder of the prompt library; None: the one that comes with the code.

    Raises:
        ValueError: if ``window`` is none of these.
    """

    def __init__(self, window: Any = None, library: str | Path | None = None) -> None:
        self.value = _checked(window)
        self.library = Path(library or shipped_file("bundle/configs/prompts"))

    def describe(self) -> dict[str, Any]:
        """Return the window; for ``auto`` also a hash of what it is looked up in."""
        if self.value != AUTO:
            return {"window": None if self.value is None else list(self.value)}
        return {"window": AUTO, "windows": _digest(self.library, _stamps(self.library))}

    def choose(self, image: Tensor, prompts: Sequence[str]) -> list[Limits | None]:
        """Return the window in which to show a scan for each prompt; None: by percentiles.

        Args:
            image: ``[C, *spatial]``; its meta may hold the DICOM tags ``modality`` and ``body_part``.
            prompts: phrases; empty ones where it is not known what was asked for.
        """
        if self.value is None or isinstance(self.value, tuple):
            return [self.value] * len(prompts)
        meta: Mapping[str, Any] = image.meta if isinstance(image, MetaTensor) else {}
        found = {prompt: self._look_up(image, str(meta.get(_ASKED_FOR, prompt)), meta) for prompt in set(prompts)}
        for prompt, (_, why) in found.items():
            if _SHOWN in meta:
                meta[_SHOWN].setdefault(prompt, why)
        return [found[prompt][0] for prompt in prompts]

    def _look_up(self, image: Tensor, prompt: str, meta: Mapping[str, Any]) -> tuple[Limits | None, str]:
        tags = {name: str(meta.get(key, "") or "") for name, key in _TAGS.items()}
        modalities = _modalities(tags["Modality"], self.library, _stamps(self.library))
        if not modalities:
            return None, f"{_BY_PERCENTILES}: {tags['Modality'] or 'the prompt library'} has no windows"
        lowest = float(image.min())
        if not (lowest < 0 if tags["Modality"] else is_hounsfield(image)):
            why = f"{_BY_PERCENTILES}: its values are no Hounsfield units, the lowest is {lowest:g}"
            level = logging.WARNING if tags["Modality"] else logging.INFO
            _say(level, f"Window auto: scans are shown by percentiles where values are no Hounsfield units{_of(tags)}.")
            return None, why
        found = next((each for one in modalities if (each := window_for(prompt, one, tags))), None)
        if found is None:
            why = f"the prompt library has no window for {prompt!r}"
            _say(logging.WARNING, f"Window auto: {why}; CT is shown by percentiles. Give {{window: [low, high]}}.")
            return None, f"{_BY_PERCENTILES}: {why}"
        (low, high), reason = found
        return (low, high), f"[{low:g}, {high:g}]: {reason}"


def asked_for(image: Tensor, prompt: str) -> MetaTensor:
    """Return a scan that is shown in the window of one prompt, whatever phrases come with it.

    So phrases can be compared: what differs between their maps is then what the model made of the words.
    """
    return _with_meta(image, {_ASKED_FOR: prompt})


def noted(image: Tensor) -> tuple[MetaTensor, dict[str, str]]:
    """Return a scan, and a dictionary in which its localizers note how they showed it: phrase -> window and reason."""
    shown: dict[str, str] = {}
    return _with_meta(image, {_SHOWN: shown}), shown


def _with_meta(image: Tensor, more: Mapping[str, Any]) -> MetaTensor:
    known = isinstance(image, MetaTensor)
    same = MetaTensor(image.as_tensor() if known else image, meta=dict(image.meta) if known else None)
    same.meta.update(more)
    return same


def _checked(window: Any) -> Limits | str | None:
    if isinstance(window, PictureWindow):
        return window.value
    if window is None or window == AUTO:
        return window
    try:
        low, high = (float(each) for each in window)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise ValueError(
            f"window is null (percentiles), auto, or [low, high] with low < high, for example [-160, 240]; "
            f"received {window!r}."
        )
    return low, high


def _of(tags: Mapping[str, str]) -> str:
    return f", though the tag Modality is {tags['Modality']}" if tags["Modality"] else ""


def _stamps(folder: Path) -> tuple[tuple[str, int], ...]:
    """What tells whether the files of a prompt library have changed."""
    return tuple((str(file), file.stat().st_mtime_ns) for file in sorted(folder.glob("*.yaml")))


@functools.lru_cache(maxsize=8)
def _modalities(code: str, folder: Path, stamps: tuple[tuple[str, int], ...]) -> list[Modality]:
    return windowed_modalities(code, PromptLibrary(folder)) if stamps else []


@functools.lru_cache(maxsize=8)
def _digest(folder: Path, stamps: tuple[tuple[str, int], ...]) -> str:
    return hashlib.blake2b(repr(_modalities("", folder, stamps)).encode(), digest_size=8).hexdigest()


@functools.lru_cache(maxsize=256)
def _say(level: int, text: str) -> None:
    """Log a text once, however many scans it holds for."""
    logger.log(level, text)
