# SPDX-License-Identifier: Apache-2.0
"""The loss of lesion finders against what it is to punish."""

from __future__ import annotations

import math

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


@pytest.mark.parametrize("logit", [0.0, 2.0, -30.0])
def test_of_equal_finds_no_more_are_left_out_than_the_share(logit):
    """A network that says the same everywhere: 10 of 100 voxels are left out, not all that are tied."""
    logits = torch.full((2, 1, 10, 10), logit, requires_grad=True)
    lesion = torch.zeros(2, 1, 10, 10)
    lesion[:, :, 2, 2:7] = 1  # 5 voxels
    loss = LesionLoss(trim=0.1, inside=0.3, outside=2.0, dice=0.5)(logits, LesionTarget(lesion, torch.zeros(2)))
    chance = 1 / (1 + math.exp(-logit))
    missed = 10 * -math.log(chance) / (10 + 1)
    invented = 170 * -math.log1p(-chance) / (170 + 1)
    overlap = (2 * 5 * chance + 1) / (90 * chance + 5 + 1)
    assert loss.item() == pytest.approx(0.3 * missed + 2 * invented + 0.5 * (1 - overlap), rel=1e-5)
    loss.backward()
    left_out = logits.grad.flatten(1) == 0
    assert left_out.sum(1).tolist() == [10, 10]
    assert left_out[:, :10].all(), "the first of equals, on any processor"


def test_of_finds_that_tie_at_the_limit_only_some_are_left_out():
    """Three surer than the others are left out first, then two of those that are equal; lesions never."""
    logits = torch.zeros(1, 1, 50)
    logits[..., [20, 30, 40]] = 3.0
    lesion = torch.zeros(1, 1, 50)
    lesion[..., [0, 40]] = 1
    logits.requires_grad_()
    LesionLoss(trim=0.1)(logits, LesionTarget(lesion, torch.zeros(1))).backward()
    assert (logits.grad[0, 0] == 0).nonzero().flatten().tolist() == [1, 2, 3, 20, 30]


def test_where_there_is_less_outside_than_may_be_left_out_lesions_still_count():
    lesion = torch.ones(1, 1, 10)
    lesion[..., 3] = 0
    logits = torch.zeros(1, 1, 10, requires_grad=True)
    LesionLoss(trim=0.5)(logits, LesionTarget(lesion, torch.zeros(1))).backward()
    assert (logits.grad[0, 0] == 0).nonzero().flatten().tolist() == [3]
