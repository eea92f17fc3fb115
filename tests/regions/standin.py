# SPDX-License-Identifier: Apache-2.0
"""A localizer for tests: quick, with an answer that is known, and it counts its calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


class HalfLocalizer:
    """Finds ``level`` in the half of the scan with low indices of the axis that the prompt names (x, y or z)."""

    native_dims = (2, 3)

    def __init__(self, level: float = 0.7, log: str | None = None, stop_after: int | None = None) -> None:
        self.level, self.log, self.stop_after = level, log, stop_after
        self.calls: list[list[str]] = []

    def describe(self) -> dict:
        return {"name": "half", "level": self.level, "dims": self.native_dims}

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(list(prompts))
        if self.log:
            with open(Path(self.log), "a") as stream:
                stream.write(f"{list(prompts)}\n")
        maps = torch.zeros(len(prompts), *image.shape[1:])
        for each, prompt in zip(maps, prompts, strict=True):
            axis = {"x": 0, "y": 1, "z": 2}.get(prompt[-1])
            if axis is not None:
                each.narrow(axis, 0, each.shape[axis] // 2).fill_(self.level)
        return maps
