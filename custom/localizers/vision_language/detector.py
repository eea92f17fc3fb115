# SPDX-License-Identifier: Apache-2.0
"""What localizers from detectors share: which boxes count."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from custom.localizers.vision_language.detections import check_shares, paint
from custom.localizers.vision_language.prompted import PromptedLocalizer
from custom.localizers.windows import AUTO


class DetectorLocalizer(PromptedLocalizer):
    """A localizer whose model answers with boxes and scores.

    Args:
        source: see :class:`PromptedLocalizer`.
        download: likewise.
        device: likewise.
        threshold: boxes that score lower are dropped, in [0, 1]; a box at it counts as probability 0.5. None: the
            model's usual one.
        max_area: boxes that cover a larger share of the picture are dropped, in [0, 1].
        batch_size: see :class:`PromptedLocalizer`.
        mixed_precision: likewise.
        window: likewise.

    Raises:
        ValueError: if a parameter is out of range.
    """

    usual_threshold: ClassVar[float]

    def __init__(
        self,
        source: str | Path | None = None,
        download: bool = False,
        device: str | torch.device | None = None,
        threshold: float | None = None,
        max_area: float = 1.0,
        batch_size: int = 1,
        mixed_precision: bool = True,
        window: Any = AUTO,
    ) -> None:
        super().__init__(source, download, device, batch_size, mixed_precision, window)
        self.threshold = self.usual_threshold if threshold is None else threshold
        self.max_area = max_area
        check_shares(threshold=self.threshold, max_area=max_area)

    def parameters(self) -> dict[str, Any]:
        """Threshold and largest area of a box."""
        return {"threshold": self.threshold, "max_area": self.max_area}

    def painted(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Paint the boxes that count; see :func:`custom.localizers.vision_language.detections.paint`."""
        return paint(boxes, scores, size, self.threshold, self.max_area)
