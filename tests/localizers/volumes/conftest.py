# SPDX-License-Identifier: Apache-2.0
"""Models of pictures whose answers are known."""

from __future__ import annotations

import pytest
import torch

from custom.localizers.base import UnknownPromptError
from custom.localizers.pictures import PictureLocalizer, PictureRefiner


class Threshold(PictureLocalizer):
    """What is brighter than a half; remembers the sizes of what it saw."""

    def __init__(self):
        self.seen = []

    def describe(self):
        return {"name": "threshold"}

    def localize_pictures(self, pictures, prompts):
        self.seen.append(tuple(pictures.shape))
        return (pictures.mean(dim=1, keepdim=True) > 0.5).float().expand(-1, len(prompts), -1, -1).clone()


class Halves(PictureLocalizer):
    """The half of the picture that the prompt names: left, right, top or bottom."""

    def describe(self):
        return {"name": "halves"}

    def localize_pictures(self, pictures, prompts):
        maps = torch.zeros(len(pictures), len(prompts), *pictures.shape[2:])
        height, width = pictures.shape[2:]
        parts = {
            "left": (slice(None), slice(0, width // 2)),
            "right": (slice(None), slice(width // 2, None)),
            "top": (slice(0, height // 2), slice(None)),
            "bottom": (slice(height // 2, None), slice(None)),
        }
        for index, prompt in enumerate(prompts):
            if prompt not in parts:
                raise UnknownPromptError(prompt, parts)
            maps[:, index, parts[prompt][0], parts[prompt][1]] = 1
        return maps


class Brightness(PictureLocalizer):
    """The picture itself: soft values, so that interpolation shows."""

    def __init__(self):
        self.seen = []

    def describe(self):
        return {"name": "brightness"}

    def localize_pictures(self, pictures, prompts):
        self.seen.append(len(pictures))
        return pictures[:, :1].repeat(1, len(prompts), 1, 1)


class BrightNearPrompt(PictureRefiner):
    """Outlines, of what is brighter than a half, the pixels within the box of the coarse map, two pixels wider."""

    def __init__(self):
        self.calls = 0

    def describe(self):
        return {"name": "bright_near_prompt"}

    def refine_pictures(self, pictures, probabilities):
        self.calls += 1
        bright = pictures.mean(dim=1) > 0.5
        refined = torch.zeros_like(probabilities)
        for n, maps in enumerate(probabilities):
            for p, each in enumerate(maps):
                rows, columns = (each >= 0.5).nonzero(as_tuple=True)
                if len(rows):
                    box = (
                        slice(max(0, rows.min() - 2), rows.max() + 3),
                        slice(max(0, columns.min() - 2), columns.max() + 3),
                    )
                    refined[n, p][box] = bright[n][box].float()
        return refined


@pytest.fixture
def threshold():
    return Threshold()


@pytest.fixture
def halves():
    return Halves()


@pytest.fixture
def brightness():
    return Brightness()


@pytest.fixture
def outline():
    return BrightNearPrompt()
