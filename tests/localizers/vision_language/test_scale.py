# SPDX-License-Identifier: Apache-2.0
"""From saliency to probability, with known answers."""

from __future__ import annotations

import math

import pytest
import torch

from custom.localizers.vision_language.scale import evidence, stretch

AXES = torch.eye(4)


def test_evidence_of_known_features():
    # the picture is the first text; blank and null lie elsewhere: L = 4 * (1 - 0 - 0 + 0)
    found = evidence(AXES[:1] * 7, AXES[2:3], torch.stack([AXES[0] * 3, AXES[1]]), AXES[3:], logit_scale=4)
    probability = 1 / (1 + math.exp(-4))
    assert found.shape == (1, 2)
    assert found[0, 0] == pytest.approx(2 * probability - 1)
    assert found[0, 1] == 0


def test_there_is_no_evidence_in_a_blank_picture_for_the_null_text_or_against_a_text():
    generator = torch.Generator().manual_seed(0)
    pictures, texts = torch.randn((6, 8), generator=generator), torch.randn((5, 8), generator=generator)
    assert not evidence(pictures[:1], pictures[:1], texts, texts[:1], 20).any()
    found = evidence(pictures, pictures[:1], texts, texts[:1], 20)
    assert not found[:, 0].any()
    assert not found[0].any()
    turned = evidence(pictures, pictures[:1], texts[:1], texts[:1] * 0 + texts[1:2], 20)
    assert ((found[:, 1] > 0) & (turned[:, 0] > 0)).sum() == 0
    assert ((found >= 0) & (found <= 1)).all()


def test_evidence_ignores_what_lies_in_the_text_or_the_picture_alone():
    shared = torch.tensor([[0.0, 0.0, 5.0, 0.0]])
    with_bias = evidence(AXES[:1] + shared, AXES[1:2] + shared, AXES[:1], AXES[1:2], 3)
    assert 0 < with_bias[0, 0] < evidence(AXES[:1], AXES[1:2], AXES[:1], AXES[1:2], 3)[0, 0]
    assert evidence(AXES[:1], AXES[1:2], AXES[2:3], AXES[3:], 3)[0, 0] == 0  # neither text knows picture or blank


def test_stretch():
    values = torch.tensor([[2.0, 3.0], [4.0, 6.0]])
    torch.testing.assert_close(stretch(values), torch.tensor([[0.0, 0.25], [0.5, 1.0]]))
    torch.testing.assert_close(stretch(values, floor=4.0), stretch(values))
    torch.testing.assert_close(stretch(values, floor=40.0), stretch(values) / 10)
    torch.testing.assert_close(stretch(torch.stack([values, 3 * values])), stretch(values).expand(2, 2, 2))
    for floor in (0.0, 1.0):
        assert not stretch(torch.full((1, 3, 3), 7.0), floor).any()
