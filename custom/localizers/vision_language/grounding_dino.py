# SPDX-License-Identifier: Apache-2.0
"""Grounding DINO: a detector that reads what to detect (Liu et al., arXiv 2303.05499)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from custom.localizers.pretrained import PretrainedModel
from custom.localizers.vision_language.detections import corners
from custom.localizers.vision_language.detector import DetectorLocalizer


class GroundingDinoLocalizer(DetectorLocalizer):
    """Boxes of Grounding DINO (``IDEA-Research/grounding-dino-base``, Apache-2.0) as a soft map.

    Taught on natural pictures. Pictures are scaled to a short side of 800 px (long side at most 1333); each prompt is
    read alone, so that prompts cannot influence each other, in the form that the model expects: lower case, a full stop
    at the end and none inside. A box scores as its best-matching token does; that and ``threshold`` 0.25 are as in the
    authors' demonstration. :func:`custom.localizers.vision_language.detections.paint` makes the map. 232 million
    parameters, 0.9 GB; about 3 GB of memory. ``source: IDEA-Research/grounding-dino-tiny`` (at
    ``a2bb814dd30d776dcf7e30523b00659f4f141c71``) is the smaller model: 172 million, 0.7 GB. Reads up to 256 tokens.

    For the parameters see :class:`DetectorLocalizer`.
    """

    name = "grounding_dino"
    version = 1
    published: ClassVar[PretrainedModel] = PretrainedModel(
        "IDEA-Research/grounding-dino-base",
        "12bdfa3120f3e7ec7b434d90674b3396eccf88eb",
        "Apache-2.0",
        933,
        reads_text=True,
    )
    usual_threshold = 0.25
    model_class = "GroundingDinoForObjectDetection"
    processor_class = "GroundingDinoProcessor"

    def longest_prompt(self) -> int:
        """Tokens up to which the model reads; it would cut off the rest silently."""
        return int(self.checkpoint.model.config.max_text_len)

    def as_text(self, prompt: str) -> str:
        """Lower case, one full stop at the end; inside, it and the question mark would separate phrases."""
        return " ".join(prompt.lower().replace(".", " ").replace("?", " ").split()) + "."

    def find(self, pixels: Tensor, texts: Sequence[str], size: tuple[int, int]) -> Tensor:
        """Look at pictures once, then detect prompt by prompt; see :class:`PromptedLocalizer`."""
        if len(texts) == 1:
            return self._find_one(pixels, texts[0], size)[:, None]
        with _seen_once(self.checkpoint.model.model, pixels):
            return torch.stack([self._find_one(pixels, text, size) for text in texts], dim=1)

    def _find_one(self, pixels: Tensor, text: str, size: tuple[int, int]) -> Tensor:
        tokens = {name: values.expand(len(pixels), -1) for name, values in self.tokens([text]).items()}
        output = self.checkpoint.model(pixel_values=pixels, **tokens)
        scores = output.logits.float().sigmoid().amax(dim=-1)
        boxes = corners(output.pred_boxes.float().cpu()) * torch.tensor([size[1], size[0], size[1], size[0]])
        maps = [self.painted(*each, size) for each in zip(boxes, scores, strict=True)]
        return torch.stack(maps)


class _Seen(nn.Module):
    """Answers in place of a backbone that has looked at the pictures already."""

    def __init__(self, backbone: Any, pixels: Tensor) -> None:
        super().__init__()
        everywhere = torch.ones(len(pixels), *pixels.shape[-2:], dtype=torch.long, device=pixels.device)
        self.found, self.positions = backbone(pixels, everywhere)
        self.position_embedding = backbone.position_embedding

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[list[Any], list[Tensor]]:
        return list(self.found), list(self.positions)  # the model appends to what it is given


@contextmanager
def _seen_once(model: Any, pixels: Tensor) -> Iterator[None]:
    """Let a model look at pictures once, however often it is asked about them: its backbone sees no text."""
    backbone = model.backbone
    model.backbone = _Seen(backbone, pixels)
    try:
        yield
    finally:
        model.backbone = backbone
