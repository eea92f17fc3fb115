# SPDX-License-Identifier: Apache-2.0
"""SAM 3: segments every instance of a concept that is named (Meta, arXiv 2511.16719)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from custom.localizers.pretrained import PretrainedModel
from custom.localizers.vision_language.detections import as_probability, check_shares
from custom.localizers.vision_language.prompted import PromptedLocalizer, resized
from custom.localizers.windows import AUTO


class Sam3Localizer(PromptedLocalizer):
    """Masks of SAM 3 (``facebook/sam3``) as a soft map: the most over instances of min(probability, mask).

    So the region at 0.5 is what the model keeps, cut where the model cuts its masks. An instance's score is that of its
    query times that of the presence head, which says whether the concept is in the picture at all. The weights are
    gated: ask for access on the hub, log in (``hf auth login``), then download; they come under the SAM licence of 19
    November 2025, which the user has to read. Taught on natural pictures and short noun phrases; words of place
    ("left") do little. Pictures are squeezed to 1008 × 1008 and encoded once for all prompts. 840 million parameters,
    3.4 GB; about 6 GB of memory a picture. Reads up to 32 tokens.

    Args:
        source: see :class:`PromptedLocalizer`.
        download: likewise.
        device: likewise.
        threshold: instances that score lower are dropped, in [0, 1]; one at it counts as probability 0.5, see
            :func:`~custom.localizers.vision_language.detections.as_probability`.
        batch_size: see :class:`PromptedLocalizer`.
        mixed_precision: likewise.
        window: likewise.

    Raises:
        ValueError: if a parameter is out of range.
    """

    name = "sam3"
    version = 2
    published: ClassVar[PretrainedModel] = PretrainedModel(
        "facebook/sam3", "3c879f39826c281e95690f02c7821c4de09afae7", "SAM License", 3440, gated=True, reads_text=True
    )
    model_class = "Sam3Model"
    processor_class = "Sam3Processor"
    half = torch.bfloat16  # as its authors run it

    def __init__(
        self,
        source: str | Path | None = None,
        download: bool = False,
        device: str | torch.device | None = None,
        threshold: float = 0.3,
        batch_size: int = 1,
        mixed_precision: bool = True,
        window: Any = AUTO,
    ) -> None:
        super().__init__(source, download, device, batch_size, mixed_precision, window)
        check_shares(threshold=threshold)
        self.threshold = threshold
        self._texts: dict[str, tuple[Tensor, Tensor]] = {}

    def parameters(self) -> dict[str, Any]:
        """Threshold of an instance's score."""
        return {"threshold": self.threshold}

    def longest_prompt(self) -> int:
        """Tokens that the text encoder has positions for."""
        return int(self.checkpoint.model.config.text_config.max_position_embeddings)

    def find(self, pixels: Tensor, texts: Sequence[str], size: tuple[int, int]) -> Tensor:
        """Encode pictures once, then segment prompt by prompt; see :class:`PromptedLocalizer`."""
        model, number = self.checkpoint.model, len(pixels)
        seen, maps = model.get_vision_features(pixel_values=pixels), []
        for features, mask in (self._read(text) for text in texts):
            text = SimpleNamespace(pooler_output=features.expand(number, -1, -1))
            output = model(vision_embeds=seen, text_embeds=text, attention_mask=mask.expand(number, -1))
            maps.append(self._soft_map(output))
        return resized(torch.stack(maps, dim=1), size)

    def _read(self, text: str) -> tuple[Tensor, Tensor]:
        """Features ``[1, L, C]`` of a text's tokens and which of them count ``[1, L]``; each text is read once."""
        if text not in self._texts:
            tokens = self.tokens([text], padding="max_length", max_length=self.longest_prompt())
            features = self.checkpoint.model.get_text_features(**tokens).pooler_output
            self._texts[text] = (features, tokens["attention_mask"])
        return self._texts[text]

    def _soft_map(self, output: Any) -> Tensor:
        """Return ``[N, h, w]``: over instances, the highest of the lesser of probability and mask probability."""
        scores = output.pred_logits.float().sigmoid() * output.presence_logits.float().sigmoid()
        scores = torch.where(scores >= self.threshold, as_probability(scores, self.threshold), 0)
        maps = torch.zeros(len(scores), *output.pred_masks.shape[-2:], device=scores.device)
        for found, instance_scores, masks in zip(maps, scores, output.pred_masks, strict=True):
            for instance in torch.nonzero(instance_scores).flatten():
                inside = masks[instance].float().sigmoid().clamp(max=instance_scores[instance])
                torch.maximum(found, inside, out=found)
        return maps
