# SPDX-License-Identifier: Apache-2.0
"""The loss of lesion finders against what it is to punish."""

from __future__ import annotations

import pytest
import torch

from custom.losses import LesionLoss, LesionTarget


def test_the_surest_finds_outside_the_marks_are_not_punished():
    logits = torch.full((1, 1, 10, 10), -5.0)
    logits[..., 0, :4] = 6.0  # a real lesion that nobody marked
    logits[..., 9, :4] = 6.0
    lesion = torch.zeros_like(logits)
    lesion[..., 9, :4] = 1
    unlooked, annotated = torch.zeros(1), torch.ones(1)
    trimmed, plain = LesionLoss(trim=0.04), LesionLoss(trim=0.0)
    assert trimmed(logits, LesionTarget(lesion, unlooked)) < 0.05
    assert trimmed(logits, LesionTarget(lesion, annotated)) > 0.3
    assert torch.isclose(
        trimmed(logits, LesionTarget(lesion, annotated)), plain(logits, LesionTarget(lesion, unlooked))
    )
    with pytest.raises(ValueError, match="trim"):
        LesionLoss(trim=1.0)
