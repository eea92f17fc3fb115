# SPDX-License-Identifier: Apache-2.0
"""Networks whose forward pass decides in Python: tasks run it as it is, pretraining follows it or names its limit."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from custom.networks import Encoder, UnsupportedLayerError

EXECUTIONS = ["packed", "masked_dense"]


class Plain(nn.Module):
    """Two stages; what comes between them is what the cases below are about."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.extra = nn.Conv2d(8, 8, 3, padding=1)
        self.rate = 0.5
        self.register_buffer("count", torch.zeros(1))

    def forward(self, image):
        return self.second(self.between(F.relu(self.first(image))))

    def between(self, values):
        return values


class Dropped(Plain):
    def between(self, values):
        return F.dropout(values, self.rate, self.training)


class Branch(Plain):
    def between(self, values):
        return values + self.extra(values) if self.training else values * 2


class SampleDepth(Plain):
    """Stochastic depth as timm writes it: a number of each sample, drawn as a tensor."""

    def between(self, values):
        if not self.training:
            return values + self.extra(values)
        kept = values.new_empty((values.shape[0],) + (1,) * (values.ndim - 1)).bernoulli_(1 - self.rate)
        return values + self.extra(values) * (kept / (1 - self.rate))


class ChannelDropped(Plain):
    def between(self, values):
        return F.dropout2d(values, self.rate, self.training)


class BatchDepth(Plain):
    """Stochastic depth that skips a block for the whole batch, by a number drawn in Python."""

    draw = staticmethod(lambda: torch.rand(1).item())

    def between(self, values):
        if self.training and self.draw() < self.rate:
            return values
        return values + self.extra(values)


class PythonDepth(BatchDepth):
    draw = staticmethod(random.random)


class Counting(Plain):
    """Counts its passes, and acts by the count, in a buffer."""

    def between(self, values):
        self.count += 1
        return values * self.count


class CountingInPlace(Plain):
    def between(self, values):
        self.count.add_(1)
        return values


class Stepping(Plain):
    """Likewise in an attribute."""

    def between(self, values):
        self.rate = self.rate / 2
        return values * self.rate


class Buffered(Plain):
    def between(self, values):
        return values * (self.count + 1)


class Optional(Plain):
    """As STU-Net: an argument besides the image, on which the forward pass branches."""

    def forward(self, image, prompt=None, *, mode="plain", **others):
        values = F.relu(self.first(image))
        if prompt is not None:
            values = values + prompt
        if mode != "plain":
            values = values * 3
        return self.second(values)


class Scaled(Plain):
    """A parameter of its own, as layer scale."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))

    def between(self, values):
        return values * self.scale


class Further(Plain):
    """A layer of torch that is given two arguments."""

    def __init__(self):
        super().__init__()
        self.pair = nn.Bilinear(8, 8, 8)

    def between(self, values):
        last = values.permute(0, 2, 3, 1)
        return self.pair(last, last + 1).permute(0, 3, 1, 2)


FOLLOWED = [Dropped, Branch, SampleDepth, ChannelDropped, Buffered, Optional, Scaled]
FROZEN = [BatchDepth, PythonDepth, Counting, CountingInPlace, Stepping]


def make(kind: type[nn.Module], execution: str = "auto") -> Encoder:
    torch.manual_seed(0)
    return Encoder(kind(), ["first", "second"], 2, execution=execution)


def images(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 1, 32, 32, generator=generator), torch.ones(4, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [*FOLLOWED, *FROZEN, Further])
def test_without_hidden_cells_it_is_the_networks_own_forward_pass(kind, training, generator):
    encoder = make(kind).train(training)
    plain = copy.deepcopy(encoder.network)
    image, _ = images(generator)
    for _ in range(2):
        outcomes = []
        for run in (lambda: encoder(image)[-1], lambda: plain(image)):
            torch.manual_seed(1)
            random.seed(1)
            outcomes.append(run())
        assert torch.equal(*outcomes)
    assert torch.equal(encoder.network.count, plain.count)
    assert encoder.network.rate == plain.rate


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", FOLLOWED)
def test_pretraining_follows_training_and_evaluation(kind, execution, generator):
    encoder = make(kind, execution).double()
    image, everything = images(generator)
    image = image.double()
    for training in (False, True, False):
        encoder.train(training)
        is_random = training and kind in (Dropped, SampleDepth, ChannelDropped)
        if is_random:
            assert not torch.equal(encoder(image, everything)[-1], encoder(image, everything)[-1])
        else:
            torch.testing.assert_close(encoder(image, everything)[-1], encoder.network(image))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_pretraining_follows_attributes_and_buffers_that_are_changed_later(execution, generator):
    image, everything = images(generator)
    dropped = make(Dropped, execution)
    dropped.network.rate = 0.0
    torch.testing.assert_close(dropped(image, everything)[-1], dropped.network(image), atol=1e-5, rtol=1e-5)
    buffered = make(Buffered, execution)
    buffered.network.count.fill_(3)
    torch.testing.assert_close(buffered(image, everything)[-1], buffered.network(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (BatchDepth, "BatchDepth draws random numbers"),
        (PythonDepth, "PythonDepth draws random numbers"),
        (Counting, "Counting .*buffers"),
        (CountingInPlace, "'count' is changed"),
        (Stepping, "Stepping changes its own attributes"),
    ],
)
def test_what_a_trace_cannot_follow_is_refused_by_name(kind, said, execution, generator):
    with pytest.raises(UnsupportedLayerError, match=said):
        make(kind, execution)(*images(generator))


def test_the_submodule_that_cannot_be_followed_is_named(generator):
    class Outer(Plain):
        def __init__(self):
            super().__init__()
            self.block = BatchDepth()

        def between(self, values):
            return self.block.between(values) if self.training else values

    class Inner(Outer):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(_Skip())

        def between(self, values):
            return self.block(values)

    with pytest.raises(UnsupportedLayerError, match=r"_Skip 'block\.0' draws"):
        make(Inner)(*images(generator))


class _Skip(nn.Module):
    def forward(self, values):
        return values if torch.rand(1) < 0.5 else values * 2


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_further_arguments_of_a_layer_are_not_dropped(execution, generator):
    with pytest.raises(UnsupportedLayerError, match=r"Bilinear with further arguments \(submodule 'pair'\)"):
        make(Further, execution)(*images(generator))


@pytest.mark.parametrize("kind", FROZEN)
def test_tracing_leaves_the_network_and_the_random_numbers_as_they_were(kind):
    torch.manual_seed(0)
    network = kind()
    random.seed(2)
    torch.manual_seed(2)
    expected = random.random(), torch.rand(1).item()
    random.seed(2)
    torch.manual_seed(2)
    Encoder(network, ["first", "second"], 2)
    assert (random.random(), torch.rand(1).item()) == expected
    assert (network.count.item(), network.rate, network.training) == (0, 0.5, True)
    assert not any(name.startswith("_tensor_constant") for name in vars(network))


def test_a_block_that_is_skipped_by_chance_is_learnt_nevertheless():
    for seed in range(4):
        torch.manual_seed(seed)
        assert all(parameter.requires_grad for parameter in Encoder(BatchDepth(), ["first", "second"], 2).parameters())


def test_parameters_of_modules_are_learnt_and_kept():
    encoder = make(Scaled)
    assert encoder.network.scale.requires_grad
    assert "scale" in encoder.plain_state_dict()


def test_packed_layers_with_hooks_are_refused(generator):
    """As PyTorch's former weight normalisation, which makes the weight in a hook: packed execution would not."""
    encoder = make(Plain, "packed")
    encoder.network.first.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(UnsupportedLayerError, match=r"Conv2d with hooks.*submodule 'first'"):
        encoder(*images(generator))


def test_a_submodule_that_returns_no_single_map_is_named():
    class Pair(nn.Module):
        def forward(self, values):
            return values, values

    class Paired(Plain):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def between(self, values):
            return self.pair(values)[0]

    with pytest.raises(ValueError, match="'pair' returns tuple"):
        Encoder(Paired(), ["pair", "second"], 2)
