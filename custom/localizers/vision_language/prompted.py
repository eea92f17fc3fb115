# SPDX-License-Identifier: Apache-2.0
"""What localizers from vision-language models share: prompts checked, pictures in batches, flat ones left out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from custom.localizers.base import UnknownPromptError
from custom.localizers.checkpoint import Checkpoint
from custom.localizers.pictures import PictureLocalizer
from custom.localizers.pretrained import PretrainedModel
from custom.localizers.windows import AUTO, PictureWindow


class UnreadablePromptError(UnknownPromptError):
    """A prompt that a model cannot take: it holds no word, or more than the model reads."""

    def __str__(self) -> str:
        return f"The prompt {self.prompt!r} {self.reason}"


class PromptedLocalizer(PictureLocalizer):
    """A localizer from a model of pictures and text of the transformers library.

    Maps are never stretched to what a picture holds: a prompt of which nothing is found has a map of (almost) zeros. A
    constant picture has a map of zeros without a look at it.

    Args:
        source: a local folder, or a hub id of weights of the same class; None: the published ones.
        download: fetch from the hub what is not on this machine; False: no network access.
        device: None: the GPU if there is one.
        batch_size: pictures that go through the model at once.
        mixed_precision: multiply in half precision on a GPU.
        window: grey values of a scan that become black and white: ``(low, high)``; None: percentiles; ``auto``: see
            :class:`~custom.localizers.windows.PictureWindow`.

    Raises:
        ValueError: if ``batch_size`` is not positive, or ``window`` is none of these.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # raised whenever the same model and parameters give other maps
    published: ClassVar[PretrainedModel]
    model_class: ClassVar[str]
    processor_class: ClassVar[str]
    half: ClassVar[torch.dtype] = torch.float16

    def __init__(
        self,
        source: str | Path | None = None,
        download: bool = False,
        device: str | torch.device | None = None,
        batch_size: int = 1,
        mixed_precision: bool = True,
        window: Any = AUTO,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, received {batch_size}.")
        half = self.half if mixed_precision else None
        self.checkpoint = Checkpoint(
            self.published, self.model_class, self.processor_class, source, download, device, half
        )
        self.batch_size, self.window = batch_size, PictureWindow(window)

    def describe(self) -> dict[str, Any]:
        """Return name, version, model, hash of its weights, the colours that they are shown, and parameters."""
        return {
            "name": self.name,
            "version": self.version,
            **self.checkpoint.describe(),
            "normalize": self.checkpoint.normalization,
            **self.window.describe(),
            **self.parameters(),
        }

    def parameters(self) -> dict[str, Any]:
        """Parameters that determine a map."""
        return {}

    @abstractmethod
    def longest_prompt(self) -> int:
        """Tokens that the model can read, those of start and end included."""

    @abstractmethod
    def find(self, pixels: Tensor, texts: Sequence[str], size: tuple[int, int]) -> Tensor:
        """Find what texts name.

        Args:
            pixels: pictures ``[N, 3, h, w]`` as the model takes them, on its device.
            texts: ``P`` texts as the model takes them.
            size: height and width of the pictures before they were prepared.

        Returns:
            ``[N, P, *size]`` in [0, 1].
        """

    def as_text(self, prompt: str) -> str:
        """A prompt in the form in which the model was taught to read it."""
        return prompt

    def localize_pictures(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names in each picture; see :class:`custom.localizers.pictures.PictureLocalizer`.

        Raises:
            UnreadablePromptError: if a prompt is empty, or longer than the model can read.
            MissingWeightsError: if the model is not on this machine and may not (or cannot) be downloaded.
            FloatingPointError: if the model computes values that are not finite.
        """
        size = (pictures.shape[-2], pictures.shape[-1])
        maps = torch.zeros(len(pictures), len(prompts), *size, device=pictures.device)
        texts = [self._checked(prompt) for prompt in prompts]
        values = pictures.flatten(1)
        varied = torch.nonzero(values.amax(dim=1) > values.amin(dim=1)).flatten()
        for batch in varied.split(self.batch_size) if texts and len(varied) else ():
            with torch.no_grad(), self.checkpoint.half_precision():
                found = self.find(self._prepared(pictures[batch]), texts, size)
            maps[batch] = found.to(maps)
        if not bool(maps.isfinite().all()):
            raise FloatingPointError(f"{self.name} computed NaN: use the option {{mixed_precision: false}}.")
        return maps.clamp(0, 1)

    def tokens(self, texts: Sequence[str], **options: Any) -> dict[str, Tensor]:
        """Texts as numbers, on the model's device."""
        encoded = self.checkpoint.processor.tokenizer(list(texts), return_tensors="pt", **options)
        return {name: values.to(self.checkpoint.device) for name, values in encoded.items()}

    def _prepared(self, pictures: Tensor) -> Tensor:
        prepare = self.checkpoint.processor.image_processor
        # the processors resize on the CPU at hand, from values in [0, 1]
        prepared = prepare(images=list(pictures.cpu()), do_rescale=False, return_tensors="pt")
        return prepared["pixel_values"].to(self.checkpoint.device)

    def _checked(self, prompt: str) -> str:
        text = self.as_text(prompt)
        if not any(character.isalnum() for character in text):
            raise UnreadablePromptError(prompt, [], "holds no word.")
        length = len(self.checkpoint.processor.tokenizer(text, verbose=False)["input_ids"])
        if length > self.longest_prompt():
            raise UnreadablePromptError(
                prompt,
                [],
                f"has {length} tokens (start and end included), {self.name} reads at most {self.longest_prompt()}: "
                "name the thing in fewer words.",
            )
        return text


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps ``[N, P, h, w]`` bilinearly, float32; values stay within their range."""
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
