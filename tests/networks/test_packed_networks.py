# SPDX-License-Identifier: Apache-2.0
"""Whole networks, packed, against the masked-dense reference: one step, twenty steps, and what a step must not do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from custom.components import component_names, load_component
from custom.losses import HiddenCellLoss, MIMTarget
from custom.masking import RandomMasking, RegionMasking
from custom.networks import Encoder, EncoderSpec, MaskedImageModel, SparKDecoder, ThinDecoder, Visibility
from custom.networks.packed.rows import Rows
from custom.networks.packed.sites import Stencil
from tests.networks.test_encoder import SMALL

ENCODERS = "bundle/configs/encoders"
MASKS = {"random": RandomMasking(0.6), "region": RegionMasking(0.7, 0.3)}
SIDE = 32


def masks(kind: str, spatial_dims: int, cell: int, generator: torch.Generator, samples: int = 2) -> torch.Tensor:
    """Visible cells ``[B, *grid]``; the region is another corner of each sample, so that counts differ."""
    grid = (SIDE // cell,) * spatial_dims
    coverage = torch.zeros(samples, *grid)
    for sample in range(samples):
        coverage[(sample,) + (slice(0, 1 + sample),) * spatial_dims] = 1
    return MASKS[kind].sample(coverage, generator).visible


def twins(spec: EncoderSpec, spatial_dims: int) -> tuple[Encoder, Encoder]:
    torch.manual_seed(0)
    packed = EncoderSpec(**{**spec.as_dict(), "spatial_dims": spatial_dims}).build("packed")
    reference = copy.deepcopy(packed)
    reference.execution = "masked_dense"
    return packed, reference


def close(ours, reference, tolerance):
    """Equal up to rounding, relative to the largest value: single gradients may cancel to zero."""
    scale = max(float(reference.detach().abs().max()), 1.0)
    torch.testing.assert_close(ours / scale, reference / scale, atol=tolerance, rtol=0)


def compare(packed: Encoder, reference: Encoder, image: torch.Tensor, visible: torch.Tensor, tolerance: float) -> None:
    maps, expected = packed(image, visible), reference(image, visible)
    gradients = [torch.randn_like(value) for value in expected]
    for encoder, values in ((packed, maps), (reference, expected)):
        torch.autograd.backward(values, gradients)
        assert all(parameter.grad is not None for parameter in encoder.parameters() if parameter.requires_grad)
    for ours, theirs in zip(maps, expected, strict=True):
        close(ours, theirs, tolerance)
    for ours, theirs in zip(packed.parameters(), reference.parameters(), strict=True):
        if theirs.grad is not None:
            close(ours.grad, theirs.grad, tolerance)
    for ours, theirs in zip(packed.buffers(), reference.buffers(), strict=True):
        close(ours.double(), theirs.double(), tolerance)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("name", SMALL)
def test_networks_equal_the_reference(name, kind, spatial_dims, generator):
    packed, reference = twins(SMALL[name], spatial_dims)
    image = torch.randn((2, 1) + (SIDE,) * spatial_dims, generator=generator, dtype=torch.float64)
    for cell in (8, 16) if spatial_dims == 2 else (8,):
        packed.zero_grad()
        reference.zero_grad()
        compare(packed.double(), reference.double(), image, masks(kind, spatial_dims, cell, generator), 1e-9)


@pytest.mark.parametrize("name", component_names(ENCODERS))
def test_shipped_encoders_equal_the_reference_in_float32(name, generator):
    """Rounding grows through up to fifty layers, to 1e-4 of the largest value on two processors."""
    packed, reference = twins(load_component(ENCODERS, name, spatial_dims=2, in_channels=3), 2)
    # Each sample by itself, as instance normalisation does: four positions at the end would magnify rounding.
    cells, samples = (8, 1) if name.startswith("nnunet") else (3, 4)
    image = torch.randn(samples, 3, 32 * cells, 32 * cells, generator=generator)
    visible = MASKS["random"].sample(torch.zeros(samples, cells, cells), generator).visible
    with torch.no_grad():
        for ours, theirs in zip(packed(image, visible), reference(image, visible), strict=True):
            close(ours, theirs, 5e-4)


def test_maps_that_fit_no_grid(generator):
    """Sides that the stride does not divide: 44 voxels become 22, 11 and 6 positions."""
    packed, reference = twins(SMALL["resnet"], 2)
    image = torch.randn(2, 1, 44, 44, generator=generator, dtype=torch.float64)
    visible = torch.rand(2, 11, 11, generator=generator) > 0.6
    compare(packed.double(), reference.double(), image, visible, 1e-9)


def test_layers_of_networks_that_think_channels_last(generator):
    """Permute, layer normalisation, linear layers and a scale for each channel, as in ConvNeXt."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(1, 6, 4, stride=4)
            self.depthwise = torch.nn.Conv2d(6, 6, 7, padding=3, groups=6)
            self.norm = torch.nn.LayerNorm(6)
            self.wide, self.narrow = torch.nn.Linear(6, 24), torch.nn.Linear(24, 6)
            self.act = torch.nn.GELU()
            self.scale = torch.nn.Parameter(torch.linspace(0.5, 1, 6))
            self.end = torch.nn.Conv2d(6, 6, 2, stride=2)

        def forward(self, image):
            stem = self.stem(image)
            inner = self.norm(self.depthwise(stem).permute(0, 2, 3, 1))
            inner = self.narrow(self.act(self.wide(inner))) * self.scale
            return self.end(stem + inner.permute(0, 3, 1, 2))

    torch.manual_seed(0)
    plain = Block().double()
    packed = Encoder(copy.deepcopy(plain), ["stem", "end"], 2, execution="packed")
    reference = Encoder(copy.deepcopy(plain), ["stem", "end"], 2, execution="masked_dense")
    image = torch.randn(2, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(packed(image)[-1], plain(image))
    everything = torch.ones(2, 4, 4, dtype=torch.bool)
    for encoder in (packed, reference):
        torch.testing.assert_close(encoder(image, everything)[-1], plain(image))
    compare(packed, reference, image, masks("random", 2, 8, generator), 1e-11)


def test_networks_may_use_the_image_itself(generator):
    """Added to a layer's output, concatenated, asked for its size, and pooled before any convolution."""

    class Direct(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.same, self.end = torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Conv2d(2, 3, 2, stride=2)
            self.pool = torch.nn.AvgPool2d(2)

        def forward(self, image):
            scaled = image * (1 / image.shape[1])
            both = torch.cat([scaled + self.same(image), image], dim=1)
            return self.end(self.pool(both)) + self.pool(self.pool(image))

    torch.manual_seed(0)
    plain = Direct().double()
    packed = Encoder(copy.deepcopy(plain), ["end"], 2, execution="packed")
    reference = Encoder(copy.deepcopy(plain), ["end"], 2, execution="masked_dense")
    image = torch.randn(2, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    compare(packed, reference, image, masks("random", 2, 8, generator), 1e-11)


def test_the_image_gets_a_gradient_if_it_asks_for_one(generator):
    packed, reference = twins(SMALL["resnet"], 2)
    visible, gradients = masks("random", 2, 8, generator), []
    for encoder in (packed.double(), reference.double()):
        image = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        encoder(image.requires_grad_(), visible)[-1].square().sum().backward()
        gradients.append(image.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def model(execution: str, decoder: type = ThinDecoder, spatial_dims: int = 2) -> MaskedImageModel:
    torch.manual_seed(0)
    spec = load_component(ENCODERS, "resnet18_narrow", spatial_dims=spatial_dims, in_channels=1)
    encoder = spec.build(execution)
    return MaskedImageModel(encoder, decoder(spatial_dims, encoder.channels, encoder.strides, width=32), 8)


@pytest.mark.parametrize(
    ("decoder", "dtype", "tolerance"),
    [
        (ThinDecoder, torch.float64, 1e-5),
        (SparKDecoder, torch.float64, 1e-5),
        (
            ThinDecoder,
            torch.float32,
            2e-2,
        ),  # Adam divides by the gradients' size, so that rounding grows with the steps
    ],
)
def test_twenty_steps_follow_the_same_loss_curve(decoder, dtype, tolerance):
    curves = []
    for execution in ("packed", "masked_dense"):
        network, loss_function = model(execution, decoder).to(dtype), HiddenCellLoss(8)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
        generator, losses = torch.Generator().manual_seed(0), []
        for _ in range(20):
            image = torch.rand(3, 1, 64, 64, generator=generator).to(dtype)
            visible = RandomMasking(0.6).sample(torch.zeros(3, 8, 8), generator).visible
            loss = loss_function(network(image, visible), MIMTarget(image, visible))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][0] == pytest.approx(curves[1][0], rel=1e-5)
    assert curves[0] == pytest.approx(curves[1], rel=tolerance)


@pytest.mark.parametrize(("name", "kind"), [("resnet", Rows), ("mednext", torch.Tensor)])
def test_auto_packs_on_a_cpu_but_for_depthwise_convolutions(name, kind):
    encoder = EncoderSpec(**SMALL[name].as_dict()).build("auto").eval()
    visibility = Visibility(torch.ones(1, 4, 4, dtype=torch.bool), 2)
    assert all(isinstance(value, kind) for value in encoder.encode(torch.zeros(1, 1, SIDE, SIDE), visibility))


def test_an_unknown_execution_is_refused():
    with pytest.raises(ValueError, match="execution must be one of"):
        model("sparse")


class _Watch(TorchDispatchMode):
    """Notes each read of a tensor's value or shape-by-value that would make the host wait for a GPU."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if any(part == name for part in self.WAITS) and any(_is_ours(value) for value in args):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _is_ours(value) -> bool:
    # Masks are boolean and live on the host whatever the device; everything else would be on the GPU.
    return isinstance(value, torch.Tensor) and value.dtype != torch.bool


@pytest.mark.parametrize("execution", ["packed", "masked_dense"])
def test_a_step_never_waits_for_the_device(execution, generator, monkeypatch):
    monkeypatch.setattr(Stencil, "pairs", None)  # made on CPUs only, because their number must be asked for
    network, loss_function = model(execution), HiddenCellLoss(8)
    image = torch.rand(2, 1, 64, 64, generator=generator)
    visible = torch.rand(2, 8, 8, generator=generator) > 0.5
    with _Watch() as watch:
        loss_function(network(image, visible), MIMTarget(image, visible)).backward()
    assert watch.seen == []
