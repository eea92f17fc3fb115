# SPDX-License-Identifier: Apache-2.0
"""CLIPSeg: a CLIP with a small decoder that paints where a text applies (Lüddecke & Ecker, arXiv 2112.10003)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from custom.localizers.pretrained import PretrainedModel
from custom.localizers.vision_language.prompted import PromptedLocalizer, resized
from custom.localizers.windows import AUTO


class ClipSegLocalizer(PromptedLocalizer):
    """Per-pixel probabilities of CLIPSeg (``CIDAS/clipseg-rd64-refined``, Apache-2.0).

    Taught on natural pictures (PhraseCut). Pictures are squeezed to 352 × 352, probabilities come back on the picture's
    grid. Every picture is encoded once, whatever the number of prompts. 151 million parameters, 0.6 GB; about 2 GB
    of memory at a batch of 8. Reads up to 77 tokens.

    Args:
        source: see :class:`PromptedLocalizer`.
        download: likewise.
        device: likewise.
        batch_size: likewise.
        mixed_precision: likewise.
        window: likewise.
    """

    name = "clipseg"
    version = 1
    published: ClassVar[PretrainedModel] = PretrainedModel(
        "CIDAS/clipseg-rd64-refined", "999e0328d9e10b484360c477313983f9afdd7050", "Apache-2.0", 603, reads_text=True
    )
    model_class = "CLIPSegForImageSegmentation"
    processor_class = "CLIPSegProcessor"

    def __init__(
        self,
        source: str | Path | None = None,
        download: bool = False,
        device: str | torch.device | None = None,
        batch_size: int = 8,
        mixed_precision: bool = True,
        window: Any = AUTO,
    ) -> None:
        super().__init__(source, download, device, batch_size, mixed_precision, window)
        self._texts: dict[str, Tensor] = {}

    def longest_prompt(self) -> int:
        """Tokens that the text encoder has positions for."""
        return int(self.checkpoint.model.config.text_config.max_position_embeddings)

    def find(self, pixels: Tensor, texts: Sequence[str], size: tuple[int, int]) -> Tensor:
        """Encode pictures and texts once each, then decode every pair; see :class:`PromptedLocalizer`."""
        model = self.checkpoint.model
        seen = model.clip.vision_model(
            pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True
        ).hidden_states
        activations = [seen[layer + 1] for layer in model.extract_layers]  # [0] is what enters the first layer
        conditions = [self._read(text).expand(len(pixels), -1) for text in texts]
        logits = [model.decoder(activations, condition).logits for condition in conditions]
        return resized(torch.stack(logits, dim=1).float().sigmoid(), size)

    def _read(self, text: str) -> Tensor:
        """What the decoder needs to know of a text, ``[1, D]``; each text is read once."""
        if text not in self._texts:
            model = self.checkpoint.model
            self._texts[text] = model.get_conditional_embeddings(batch_size=1, **self.tokens([text]))
        return self._texts[text]
