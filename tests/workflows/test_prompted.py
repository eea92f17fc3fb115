# SPDX-License-Identifier: Apache-2.0
"""A localizer as a network, and what it makes of requests."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from custom.localizers.base import UnknownPromptError
from custom.workflows.prompted import PromptedInferer, PromptedNetwork, RegionLabeld, read_prompts, read_threshold


def test_the_network() -> None:
    """A batch of scans; the default prompt and others; probabilities that add up."""

    class Half:
        native_dims = (2,)

        def describe(self) -> dict[str, Any]:
            return {}

        def localize(self, image: torch.Tensor, prompts: Any) -> torch.Tensor:
            return torch.stack([image[0] * len(prompt) / 10 for prompt in prompts])

    image = torch.rand(3, 1, 5, 4)
    network = PromptedNetwork(Half(), "['a', 'abcde']")
    found = network(image)
    assert found.shape == (3, 2, 5, 4)
    assert torch.allclose(found[:, 1], image[:, 0] / 2)
    assert torch.allclose(found.sum(dim=1), torch.ones(3, 5, 4))
    assert torch.allclose(PromptedInferer("ab")(image, network)[:, 1], image[:, 0] / 5)
    assert list(network.parameters()) == []
    with pytest.raises(UnknownPromptError, match="is empty"):
        network(image, [])


def test_a_server_gets_errors_that_it_can_hand_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class WebError(Exception):
        def __init__(self, status_code: int, detail: str) -> None:
            super().__init__(detail)
            self.status_code, self.detail = status_code, detail

    def network(image: torch.Tensor, prompts: Any) -> torch.Tensor:
        raise UnknownPromptError(prompts[0], ["lung"])

    ask = PromptedInferer("chair")
    monkeypatch.delitem(sys.modules, "starlette.exceptions", raising=False)
    with pytest.raises(UnknownPromptError):
        ask(torch.zeros(1, 1, 2, 2), network)
    monkeypatch.setitem(sys.modules, "starlette.exceptions", SimpleNamespace(HTTPException=WebError))
    with pytest.raises(WebError, match=r"'chair' names nothing .*Known: lung") as caught:
        ask(torch.zeros(1, 1, 2, 2), network)
    assert caught.value.status_code == 400
    with pytest.raises(WebError, match="threshold"):
        RegionLabeld("pred", "x")({"pred": torch.zeros(2, 2, 2)})


def test_prompts_and_thresholds_as_text() -> None:
    assert read_prompts(" left lung ") == ["left lung"]
    assert read_prompts("edema, tumor") == ["edema, tumor"]
    assert read_prompts(("edema", "tumor")) == ["edema, tumor"]  # what the command line makes of the former
    assert read_prompts(["a", " a", "b "]) == ["a", "b"]
    assert read_prompts(None) == []
    with pytest.raises(ValueError, match="7 is neither a phrase nor a list"):
        read_prompts(7)
    assert read_threshold("0.25") == 0.25
    for wrong in (0, 1.1, "", None, float("nan"), [0.5, 0.6]):
        with pytest.raises(ValueError, match="threshold"):
            read_threshold(wrong)
