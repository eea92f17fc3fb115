# SPDX-License-Identifier: Apache-2.0
"""Packed layers against the masked-dense reference: outputs, gradients and running statistics, layer by layer.

In float64 the two may differ by rounding in the order of sums only, so that any mistake in a table shows; in float32
and bfloat16 the tolerances say what users may expect.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from custom.networks import UnsupportedLayerError, Visibility
from custom.networks.masked_layers import masked_layer
from custom.networks.packed.layers import first_layer, packed_layer
from custom.networks.packed.normalisation import batch_norm
from custom.networks.packed.rows import MaskedImage, Rows

CHANNELS = 4
SIZES = {2: (12, 10), 3: (8, 6, 10)}
# Cells as large as several positions, of odd grids, and as small as one position.
GRIDS = {2: [(4, 5), (5, 3), (12, 10)], 3: [(4, 3, 5), (3, 2, 5)]}


def nd(kind: str, spatial_dims: int) -> type[nn.Module]:
    return getattr(nn, f"{kind}{spatial_dims}d")


def convolutions(spatial_dims: int) -> dict[str, nn.Module]:
    conv = nd("Conv", spatial_dims)
    return {
        "pointwise": conv(CHANNELS, 6, 1),
        "3 wide": conv(CHANNELS, 6, 3, padding=1),
        "without bias": conv(CHANNELS, 6, 3, padding=1, bias=False),
        "without padding": conv(CHANNELS, 6, 3),
        "same": conv(CHANNELS, 6, 3, padding="same"),
        "same, even": conv(CHANNELS, 6, 4, padding="same"),
        "same, even, dilated": conv(CHANNELS, 6, 2, padding="same", dilation=3),
        "same, even, grouped": conv(CHANNELS, 6, 2, padding="same", groups=2),
        "same, even, depthwise": conv(CHANNELS, CHANNELS, (4, 3, 2)[:spatial_dims], padding="same", groups=CHANNELS),
        "valid": conv(CHANNELS, 6, 3, padding="valid"),
        "stride 2": conv(CHANNELS, 6, 3, stride=2, padding=1),
        "stride 2, even": conv(CHANNELS, 6, 2, stride=2),
        "stride 3, wide": conv(CHANNELS, 6, 5, stride=3, padding=2),
        "pointwise, stride 2": conv(CHANNELS, 6, 1, stride=2),
        "stride beyond the kernel": conv(CHANNELS, 6, 1, stride=3, padding=1),
        "dilated": conv(CHANNELS, 6, 3, padding=2, dilation=2),
        "dilated, stride 2": conv(CHANNELS, 6, 3, padding=2, dilation=2, stride=2),
        "one number an axis": conv(
            CHANNELS, 6, (3, 1, 5)[:spatial_dims], (1, 2, 1)[:spatial_dims], (1, 0, 2)[:spatial_dims]
        ),
        "grouped": conv(CHANNELS, 6, 3, padding=1, groups=2),
        "depthwise": conv(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
        "depthwise, stride 2": conv(CHANNELS, CHANNELS, 3, stride=2, padding=1, groups=CHANNELS),
    }


def others(spatial_dims: int) -> dict[str, nn.Module]:
    norm = {
        "batch": nd("BatchNorm", spatial_dims)(CHANNELS),
        "batch, no affine": nd("BatchNorm", spatial_dims)(CHANNELS, affine=False),
        "batch, no statistics": nd("BatchNorm", spatial_dims)(CHANNELS, track_running_stats=False),
        "instance": nd("InstanceNorm", spatial_dims)(CHANNELS),
        "instance, affine": nd("InstanceNorm", spatial_dims)(CHANNELS, affine=True),
        "group": nn.GroupNorm(2, CHANNELS),
        "layer over maps": nn.GroupNorm(1, CHANNELS),
        "layer": nn.LayerNorm(CHANNELS),
    }
    for layer in norm.values():
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
    pools = {
        "max": nd("MaxPool", spatial_dims)(2),
        "max, 3 wide": nd("MaxPool", spatial_dims)(3, 2, 1),
        "max, dilated": nd("MaxPool", spatial_dims)(2, 1, dilation=2),
        "max, rounded up": nd("MaxPool", spatial_dims)(3, 2, ceil_mode=True),
        "average": nd("AvgPool", spatial_dims)(2),
        "average, 3 wide": nd("AvgPool", spatial_dims)(3, 2, 1),
        "average, padding not counted": nd("AvgPool", spatial_dims)(3, 2, 1, count_include_pad=False),
        "average, rounded up": nd("AvgPool", spatial_dims)(3, 2, 1, ceil_mode=True),
    }
    pointwise = {
        "relu": nn.ReLU(),
        "sigmoid": nn.Sigmoid(),
        "prelu": nn.PReLU(CHANNELS),
        "linear": nn.Linear(CHANNELS, 6),
    }
    return {**norm, **pools, **pointwise}


def names(kind) -> list[tuple[int, str]]:
    return [(spatial_dims, name) for spatial_dims in (2, 3) for name in kind(spatial_dims)]


def batch(spatial_dims: int, grid: tuple[int, ...], generator: torch.Generator, dtype=torch.float64):
    """Three samples that show other numbers of cells; one shows all, one a single cell."""
    cells = torch.rand((3, *grid), generator=generator) > 0.5
    cells[0] = True
    cells[1] = False
    cells[(1, *(side // 2 for side in grid))] = True
    values = torch.randn((3, CHANNELS, *SIZES[spatial_dims]), generator=generator, dtype=torch.float64).to(dtype)
    visibility = Visibility(cells, spatial_dims)
    return visibility.hide(values), visibility


def compare(layer: nn.Module, values: torch.Tensor, visibility: Visibility, tolerance: float) -> None:
    """Outputs, gradients of input and parameters, and buffers, both ways."""
    twin = copy.deepcopy(layer)
    dense_in, packed_in = values.clone().requires_grad_(), values.clone().requires_grad_()
    expected = masked_layer(layer, dense_in, visibility)
    rows = packed_layer(twin, Rows.of(packed_in, visibility.sites(values.shape[2:])), visibility)
    result = rows.dense() if isinstance(rows, Rows) else rows
    close = {"atol": tolerance, "rtol": tolerance}
    torch.testing.assert_close(result, expected, **close)
    assert result.dtype == expected.dtype
    gradient = torch.randn(expected.shape, dtype=torch.float64).to(expected.dtype)
    expected.backward(gradient)
    result.backward(gradient)
    visible = visibility.at(values.shape[2:])  # hidden inputs do not exist in the packed world
    torch.testing.assert_close(packed_in.grad * visible, dense_in.grad * visible, **close)
    for ours, reference in zip(twin.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, reference.grad, **close)
    for ours, reference in zip(twin.buffers(), layer.buffers(), strict=True):
        torch.testing.assert_close(ours, reference, **close)


@pytest.mark.parametrize(("spatial_dims", "name"), names(convolutions))
def test_convolutions(spatial_dims, name, generator):
    torch.manual_seed(0)
    for grid in GRIDS[spatial_dims]:
        compare(convolutions(spatial_dims)[name].double(), *batch(spatial_dims, grid, generator), 1e-11)


@pytest.fixture
def poisoned_memory():
    """Memory that nobody has written to reads as NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("visible", ["odd", "none"])
@pytest.mark.parametrize("name", ["stride 2", "stride 2, even", "3 wide", "grouped", "depthwise, stride 2"])
def test_taps_that_reach_nothing_get_no_gradient(name, visible, poisoned_memory):
    """Positions of one parity alone, and no visible position at all."""
    torch.manual_seed(0)
    cells = torch.zeros(2, *SIZES[2], dtype=torch.bool)
    if visible == "odd":
        cells[:, 1::2, 1::2] = True
    visibility = Visibility(cells, 2)
    values = visibility.hide(torch.randn(2, CHANNELS, *SIZES[2], dtype=torch.float64))
    compare(convolutions(2)[name].double(), values, visibility, 1e-11)


@pytest.mark.parametrize(("spatial_dims", "name"), names(others))
def test_normalisation_pooling_and_what_works_by_position(spatial_dims, name, generator):
    torch.manual_seed(0)
    for grid in GRIDS[spatial_dims]:
        compare(others(spatial_dims)[name].double(), *batch(spatial_dims, grid, generator), 1e-11)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_evaluation_uses_running_statistics(spatial_dims, generator):
    layer = nd("BatchNorm", spatial_dims)(CHANNELS).double()
    nn.init.uniform_(layer.running_mean, -1, 1)
    compare(layer.eval(), *batch(spatial_dims, GRIDS[spatial_dims][0], generator), 1e-11)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_global_pooling_averages_each_samples_visible_positions(spatial_dims, generator):
    compare(nd("AdaptiveAvgPool", spatial_dims)(1), *batch(spatial_dims, GRIDS[spatial_dims][0], generator), 1e-11)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("name", "tolerance"), [("3 wide", 1e-4), ("stride 2", 1e-4), ("depthwise", 1e-4)])
def test_float32_within_rounding(spatial_dims, name, tolerance, generator):
    torch.manual_seed(0)
    values = batch(spatial_dims, GRIDS[spatial_dims][0], generator, torch.float32)
    compare(convolutions(spatial_dims)[name], *values, tolerance)


@pytest.mark.parametrize("name", ["3 wide", "pointwise", "stride 2", "depthwise", "grouped"])
def test_bfloat16_autocast_computes_and_returns_bfloat16(name, generator):
    torch.manual_seed(0)
    values, visibility = batch(2, GRIDS[2][0], generator, torch.float32)
    layer = convolutions(2)[name]
    exact = packed_layer(layer, Rows.of(values, visibility.sites(values.shape[2:])), visibility).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = packed_layer(layer, Rows.of(values, visibility.sites(values.shape[2:])), visibility)
        rows.values.float().square().sum().backward()
    assert rows.values.dtype == torch.bfloat16
    torch.testing.assert_close(rows.values.float(), exact, atol=0.05, rtol=0.05)
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["3 wide", "stride 2", "depthwise", "grouped", "of the image"])
def test_weight_gradients_add_up_in_float32_under_autocast(name, dtype, monkeypatch):
    """Each of 32 chunks of 128 rows adds as much: half precision would stop counting at 256 (bfloat16) of 4096 rows."""
    monkeypatch.setattr("custom.networks.packed.gather.CHUNK_ROWS", 128)
    monkeypatch.setattr("custom.networks.packed.gather.CHUNK_BYTES", {"cpu": 1, "cuda": 1})
    layer = {**convolutions(2), "of the image": nn.Conv2d(CHANNELS, 6, 3, padding=1)}[name]
    visibility = Visibility(torch.ones(1, 64, 64, dtype=torch.bool), 2)
    rows = Rows.of(torch.ones(1, CHANNELS, 64, 64), visibility.sites((64, 64)))
    with torch.autocast("cpu", dtype=dtype):
        if name == "of the image":
            result = first_layer(layer, MaskedImage(rows.dense(), rows.sites), visibility)
        else:
            result = packed_layer(layer, Rows(rows.values.requires_grad_(), rows.sites), visibility)
        result.values.float().sum().backward()
    expected = 1024 if name == "stride 2" else 4096
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad[..., 1, 1].unique().tolist() == [expected]  # the middle tap sees an input everywhere
    assert layer.bias.grad.unique().tolist() == [expected]


@pytest.mark.parametrize("normalisation", [nn.GroupNorm(2, CHANNELS), nn.InstanceNorm2d(CHANNELS)])
def test_moments_are_taken_in_float32_under_autocast(normalisation, generator):
    values, visibility = batch(2, GRIDS[2][0], generator, torch.bfloat16)
    compare(normalisation, visibility.hide(values + 100), visibility, 1e-2)


def test_of_equal_values_the_first_gets_the_gradient(generator):
    values, visibility = batch(2, GRIDS[2][0], generator)
    compare(nn.MaxPool2d(3, 2, 1), visibility.hide(values.round()), visibility, 1e-12)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_channel_dropout_drops_the_same_channels(spatial_dims, generator):
    values, visibility = batch(spatial_dims, GRIDS[spatial_dims][0], generator)
    layer = nd("Dropout", spatial_dims)(0.5)
    torch.manual_seed(3)
    expected = masked_layer(layer, values, visibility)
    torch.manual_seed(3)
    rows = packed_layer(layer, Rows.of(values, visibility.sites(values.shape[2:])), visibility)
    torch.testing.assert_close(rows.dense(), expected)


def test_elementwise_dropout_keeps_the_expected_share(generator):
    values, visibility = batch(2, GRIDS[2][0], generator)
    rows = Rows.of(torch.ones_like(values), visibility.sites(values.shape[2:]))
    torch.manual_seed(0)
    dropped = packed_layer(nn.Dropout(0.25), rows, visibility).values
    assert set(dropped.unique().tolist()) <= {0.0, 4 / 3}
    assert (dropped == 0).double().mean() == pytest.approx(0.25, abs=0.06)


def long_rows(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Visibility]:
    """Values and gradients of 80 voxels a side, off zero, as rows of one sample: sums of half a million."""
    generator = torch.Generator().manual_seed(0)
    shape = (80**3, 4)
    values, noise = (torch.randn(shape, generator=generator) + 1 for _ in range(2))
    return values.to(dtype), (values + noise).to(dtype), Visibility(torch.ones(1, 2, 2, 2, dtype=torch.bool), 3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.InstanceNorm3d(4, affine=True),
        nn.GroupNorm(1, 4),
        nn.BatchNorm3d(4),
        nn.BatchNorm3d(4, momentum=None),
        nn.BatchNorm3d(4, track_running_stats=False),
        nn.LayerNorm(4, eps=1.0),  # a smaller one magnifies the rounding of rows with nearly equal values
        nn.AdaptiveAvgPool3d(1),
    ],
    ids=repr,
)
def test_sums_over_many_rows_keep_their_digits_in_float32(layer):
    """Carried from row to row, they lose two or three: 2e-3 of a batch normalisation's values at 160 voxels a side."""
    outcomes = []
    for dtype in (torch.float32, torch.float64):
        own = copy.deepcopy(layer).to(dtype)
        values, gradient, visibility = long_rows(dtype)
        result = packed_layer(own, Rows(values.requires_grad_(), visibility.sites((80, 80, 80))), visibility)
        result = result.values if isinstance(result, Rows) else result
        result.backward(gradient if result.ndim == 2 else torch.ones_like(result))
        outcomes.append([result, values.grad, *(each.grad for each in own.parameters()), *own.buffers()])
    for ours, exact in zip(*outcomes, strict=True):
        assert (ours - exact).abs().max() <= 1e-6 * exact.abs().max()


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
@pytest.mark.parametrize("training", [True, False])
def test_batch_normalisation_of_rows_is_the_layers_own(options, training, generator):
    layer = nn.BatchNorm2d(CHANNELS, **options).double().train(training)
    plain, rows = copy.deepcopy(layer), torch.randn(50, CHANNELS, generator=generator, dtype=torch.float64)
    for _ in range(3):
        expected = plain(rows[..., None, None]).flatten(1)
        torch.testing.assert_close(batch_norm(layer, rows, 2), expected, atol=1e-13, rtol=1e-13)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], value, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.ConvTranspose2d(4, 4, 2), "ConvTranspose2d"),
        (nn.LocalResponseNorm(2), "LocalResponseNorm"),
        (nn.AdaptiveAvgPool2d(2), "AdaptiveAvgPool2d to size"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "reflect"),
        (nn.InstanceNorm2d(4, track_running_stats=True), "InstanceNorm2d with running"),
        (nn.MaxPool2d(2, return_indices=True), "MaxPool2d with return_indices"),
        (nn.Linear(8, 8), "Linear from 8 values on a feature map of 4"),
        (nn.LayerNorm([4, 12, 10]), "LayerNorm over"),
    ],
)
def test_a_layer_without_a_rule_is_named(layer, named, generator):
    values, visibility = batch(2, GRIDS[2][0], generator, torch.float32)
    with pytest.raises(UnsupportedLayerError, match=named):
        packed_layer(layer, Rows.of(values, visibility.sites(values.shape[2:])), visibility)
    with pytest.raises(UnsupportedLayerError, match=named):
        masked_layer(layer, values, visibility)
