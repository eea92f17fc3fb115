# SPDX-License-Identifier: Apache-2.0
"""OWLv2: an open-vocabulary detector on a plain vision transformer (Minderer et al., arXiv 2306.09683)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from custom.localizers.pretrained import PretrainedModel
from custom.localizers.vision_language.detections import corners
from custom.localizers.vision_language.detector import DetectorLocalizer


class Owlv2Localizer(DetectorLocalizer):
    """Boxes of OWLv2 (``google/owlv2-base-patch16-ensemble``, Apache-2.0) as a soft map.

    Taught on natural pictures. Pictures are padded at the right and lower edge to a square, then scaled to 960 × 960;
    boxes are taken back accordingly. The library pads with black, its authors' own code with grey: what that does to
    scans that are not square has not been measured. Every picture is encoded once, and every prompt scores every box on
    its own: prompts do not compete. :func:`custom.localizers.vision_language.detections.paint` makes the map;
    ``threshold`` 0.1 is the library's. 155 million parameters, 0.6 GB; about 2 GB of memory. Reads up to 16 tokens.

    For the parameters see :class:`DetectorLocalizer`.
    """

    name = "owlv2"
    version = 1
    published: ClassVar[PretrainedModel] = PretrainedModel(
        "google/owlv2-base-patch16-ensemble",
        "cfd3195ba4ea9592eec887ded089f4c08eff231d",
        "Apache-2.0",
        620,
        reads_text=True,
    )
    usual_threshold = 0.1
    model_class = "Owlv2ForObjectDetection"
    processor_class = "Owlv2Processor"

    def longest_prompt(self) -> int:
        """Tokens that the text encoder has positions for."""
        return int(self.checkpoint.model.config.text_config.max_position_embeddings)

    def find(self, pixels: Tensor, texts: Sequence[str], size: tuple[int, int]) -> Tensor:
        """Detect with all prompts at once; see :class:`PromptedLocalizer`."""
        tokens = self.tokens(texts, padding=True)
        repeated = {name: values.repeat(len(pixels), 1) for name, values in tokens.items()}
        output = self.checkpoint.model(pixel_values=pixels, **repeated)
        scores = output.logits.float().sigmoid().transpose(1, 2)  # [N, P, boxes]
        boxes = corners(output.pred_boxes.float()) * max(size)  # of the padded square
        maps = [
            self.painted(boxes_of_picture, scores_of_prompt, size)
            for boxes_of_picture, scores_of_picture in zip(boxes, scores, strict=True)
            for scores_of_prompt in scores_of_picture
        ]
        return torch.stack(maps).reshape(len(pixels), len(texts), *size)
