# SPDX-License-Identifier: Apache-2.0
"""A localizer in the form that MONAI's inference workflows and MONAI Label know: network, inferer, label map."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import Tensor, nn

from custom.localizers.base import Localizer, UnknownPromptError
from custom.workflows.prompts import named_prompts

logger = logging.getLogger(__name__)


class PromptedNetwork(nn.Module):
    """A localizer as a network: scans in, probabilities of background and region out.

    It has no tensors of its own: a localizer that needs weights reads them from their file, and computes where its own
    options say. Nothing is learnt here, and no gradient flows.

    Args:
        localizer: finds what prompts name.
        prompt: of calls that bring none, see :func:`read_prompts`.
    """

    def __init__(self, localizer: Localizer, prompt: str | Sequence[str]) -> None:
        super().__init__()
        self.localizer, self.prompt = localizer, prompt

    def forward(self, image: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """Find what the prompts name.

        Args:
            image: scans ``[B, C, *spatial]``, grey levels as stored.
            prompts: phrases; the region is where any of them is.

        Returns:
            ``[B, 2, *spatial]``, float32: probability of the background, then of the region (the largest over the
            prompts); they add up to 1.

        Raises:
            UnknownPromptError: if a phrase, or the prompt as a whole, names nothing that the localizer knows.
        """
        phrases = list(prompts) if prompts is not None else read_prompts(self.prompt)
        if not phrases or not all(phrases):
            known = _known(self.localizer) or ["any English phrase"]
            raise UnknownPromptError("", known, "is empty: it must name what to localize")
        maps = [self.localizer.localize(image[index], phrases).amax(dim=0) for index in range(len(image))]
        region = torch.stack([_plain(each) for each in maps]).float().to(image.device)
        return torch.stack([1 - region, region], dim=1)


class PromptedInferer(Inferer):
    """Asks a :class:`PromptedNetwork` for a prompt.

    Args:
        prompt: see :func:`read_prompts`. It is looked at when a scan comes, not before: so a wrong one is the answer
            to a request instead of a failure to set up.
    """

    def __init__(self, prompt: Any) -> None:
        super().__init__()
        self.prompt = prompt

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Return the network's ``[B, 2, *spatial]`` for scans ``[B, C, *spatial]``."""
        with answered_errors():
            return network(inputs, read_prompts(self.prompt))


class RegionLabeld(MapTransform):
    """From probabilities to a label map: 1 where the region is, 0 elsewhere. A log line says where nothing was found.

    Args:
        keys: of the probabilities of background and region, ``[2, *spatial]``; replaced by labels ``[1, *spatial]``.
        threshold: probability, above 0 and up to 1, from which a voxel is region; a number, or its text.
        allow_missing_keys: whether data without some of the keys is passed on.
    """

    def __init__(self, keys: KeysCollection, threshold: Any = 0.5, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with its label maps, uint8; ValueError for a threshold out of range."""
        with answered_errors():
            threshold = read_threshold(self.threshold)
        result = dict(data)
        for key in self.key_iterator(result):
            labels = (result[key][1:] >= threshold).to(torch.uint8)  # as ITK wants it for PNG
            if not bool(labels.any()):
                name = labels.meta.get("filename_or_obj", "scan") if isinstance(labels, MetaTensor) else "scan"
                logger.warning("%s: nothing found, the label map is empty.", name)
            result[key] = labels
        return result


def read_prompts(value: Any) -> list[str]:
    """Read what a command line, a text field or a request holds as a prompt.

    Args:
        value: one phrase (with its commas); a list of phrases, or its text: ``['left lung', 'right lung']``.

    Returns:
        Phrases without repetition and without white space around them; empty for an empty text.

    Raises:
        ValueError: if a text starts like a list and is none, or the value is neither a phrase nor a list.
    """
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(
                f"The prompt {value!r} starts like a list and is none. One phrase, or \"['left lung', 'right lung']\"."
            ) from error
    if value is not None and not isinstance(value, str | Sequence):
        raise ValueError(f"The prompt {value!r} is neither a phrase nor a list of phrases.")
    return list(dict.fromkeys(phrase.strip() for phrase in named_prompts(value, []) if phrase.strip()))


def read_threshold(value: Any) -> float:
    """Read a probability above 0 and up to 1, as a number or a text; ValueError for anything else."""
    try:
        threshold = float(value)
    except (TypeError, ValueError):
        threshold = float("nan")
    if not 0 < threshold <= 1:
        raise ValueError(
            f"The threshold must be a probability above 0 and up to 1, for example 0.5; received {value!r}."
        )
    return threshold


@contextmanager
def answered_errors() -> Iterator[None]:
    """In a web server, turn a ValueError into an answer that has its text.

    Starlette, which MONAI Label runs on, hides the text of other errors from the client: "Internal Server Error".
    """
    try:
        yield
    except ValueError as error:
        web = sys.modules.get("starlette.exceptions")
        if web is None:
            raise
        raise web.HTTPException(status_code=400, detail=str(error)) from error


def _known(localizer: Any) -> list[str]:
    """What a localizer, or the one inside it, has in its vocabulary; empty if it has none."""
    while hasattr(localizer, "localizer"):
        localizer = localizer.localizer
    return list(localizer.vocabulary.concepts) if hasattr(localizer, "vocabulary") else []


def _plain(value: Tensor) -> Tensor:
    return value.as_tensor() if isinstance(value, MetaTensor) else value
