# SPDX-License-Identifier: Apache-2.0
"""A localizer followed by refiners."""

from __future__ import annotations

import torch

from custom.localizers import CentredDisc
from custom.localizers.base import Localizer, Refiner
from custom.localizers.refined import RefinedLocalizer


class Times:
    native_dims = (2,)

    def __init__(self, factor):
        self.factor = factor

    def describe(self):
        return {"name": "times", "factor": self.factor}

    def refine(self, image, probabilities):
        return (probabilities * self.factor + 0.125).clamp(0, 1)


def test_refiners_follow_one_another():
    image = torch.rand(1, 16, 16)
    coarse = CentredDisc(0.2).localize(image, ["x"])
    refined = RefinedLocalizer(CentredDisc(0.2), [Times(0.5), Times(0.25)])
    assert torch.equal(refined.localize(image, ["x"]), (coarse * 0.5 + 0.125) * 0.25 + 0.125)
    assert isinstance(refined, Localizer)
    assert isinstance(Times(1), Refiner)


def test_dimensions_are_those_that_all_take():
    assert RefinedLocalizer(CentredDisc(), [Times(1)]).native_dims == (2,)
    assert RefinedLocalizer(CentredDisc(), []).native_dims == (2, 3)


def test_the_record_names_all_parts():
    described = RefinedLocalizer(CentredDisc(), [Times(0.5)]).describe()
    assert described["localizer"]["name"] == "centred_disc"
    assert described["refiners"] == [{"name": "times", "factor": 0.5}]
