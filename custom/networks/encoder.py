# SPDX-License-Identifier: Apache-2.0
"""Encoders: unmodified MONAI networks, read at several depths, with or without hidden cells."""

from __future__ import annotations

import pydoc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from threading import Lock
from typing import Any, Literal, get_args

import torch
from monai.bundle import ConfigComponent
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from custom.networks.execution import run_masked_dense, run_packed
from custom.networks.features import run_features
from custom.networks.packed.rows import Rows
from custom.networks.tracing import State, Trace, copy_structure, state_of, trace_features, untraceable
from custom.networks.visibility import Visibility

PROBE_SIZE = 128  # voxels along each side, of which only shapes are computed
Execution = Literal["auto", "packed", "masked_dense"]
_TRACING = Lock()  # torch.fx patches nn.Module while it traces
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass(frozen=True)
class EncoderSpec:
    """All that is needed to build an encoder again: it is saved beside the weights.

    Args:
        network: dotted path of a class or function that returns the network, e.g. ``monai.networks.nets.resnet18``.
        arguments: its keyword arguments.
        features: submodules whose outputs are the feature maps, from fine to coarse, e.g. ``["layer1", "layer2"]``.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channel_argument: the name under which ``network`` takes the number of channels.
    """

    network: str
    features: Sequence[str]
    spatial_dims: int
    in_channels: int = 1
    channel_argument: str = "in_channels"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self, execution: Execution = "auto") -> Encoder:
        """Build the encoder with fresh random weights; ``execution`` as for :class:`Encoder`.

        Raises:
            ValueError: if the network cannot be built, traced or read at the named features.
        """
        network = self.locate()(**self.keywords())  # not through the parser: texts among the arguments stay texts
        return Encoder(network, self.features, self.spatial_dims, self.in_channels, execution)

    def locate(self) -> Callable[..., nn.Module]:
        """Return the class or function that builds the network; ValueError if there is none."""
        found: Any = pydoc.locate(str(ConfigComponent({"_target_": self.network}).resolve_module_name()))
        if not callable(found):
            raise ValueError(f"There is no network {self.network!r}: it must be the path of a class or function.")
        return found  # type: ignore[no-any-return]

    def keywords(self) -> dict[str, Any]:
        """Return the keyword arguments that the network is called with."""
        return {**self.own_keywords(), **self.arguments}

    def own_keywords(self) -> dict[str, Any]:
        """Return those that every network takes."""
        return {"spatial_dims": self.spatial_dims, self.channel_argument: self.in_channels}

    def as_dict(self) -> dict[str, Any]:
        """Return the specification as JSON-able values; ``EncoderSpec(**spec.as_dict())`` equals it."""
        return {**asdict(self), "features": list(self.features), "arguments": dict(self.arguments)}


class Encoder(nn.Module):
    """A network of MONAI, unmodified, that returns feature maps and can be told which cells it may see.

    The network stays the submodule ``network`` with its own parameter names; its weights are laid out channels last in
    memory, which both executions compute faster. Without visible cells its own forward pass is run. With them, each
    operation of its trace (one for training, one for evaluation, and for whatever else its attributes may become)
    follows :mod:`custom.networks.masked_layers`, by computing everything and hiding (``masked_dense``), or by computing
    only what is visible (``packed``, :mod:`custom.networks.packed`). Both give the same result.

    Args:
        network: the network, 2D or 3D. Parameters that do not lead to a feature map are frozen.
        features: submodules whose outputs are returned, from fine to coarse.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        execution: ``packed``, ``masked_dense``, or ``auto``: whichever was measured to be faster. That is packed on a
            CPU (``benchmarks/results/speed.md``), but masked dense for networks of depthwise convolutions, which have
            nothing to multiply at once; and masked dense on other devices, where nothing was measured yet.

    Attributes:
        channels: channels of each feature map.
        strides: down-sampling factor of each feature map.
        graph: the traced forward pass up to the feature maps, in evaluation.

    Raises:
        ValueError: if a feature or the execution is unknown, or the maps do not get coarser by one factor for all axes.
    """

    def __init__(
        self,
        network: nn.Module,
        features: Sequence[str],
        spatial_dims: int,
        in_channels: int = 1,
        execution: Execution = "auto",
    ) -> None:
        super().__init__()
        if execution not in get_args(Execution):
            raise ValueError(f"execution must be one of {get_args(Execution)}, got {execution!r}.")
        self.execution = execution
        self.network = network.to(memory_format=_CHANNELS_LAST[spatial_dims])
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.features = tuple(features)
        self._traces: dict[State, Trace] = {}
        self.graph = self._trace_both_modes()
        self._used = {name for trace in self._traces.values() for name in trace.modules()}
        self._has_depthwise = any(
            _is_depthwise(module) for name, module in network.named_modules() if name in self._used
        )
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(self._is_used(name))
        self.channels, self.strides, self._calls = self._probe()

    def forward(self, image: Tensor, visible: Visibility | Tensor | None = None) -> list[Tensor]:
        """Return the feature maps, from fine to coarse.

        Args:
            image: ``[B, C, *spatial]``.
            visible: boolean ``[B, *grid]`` or ``[B, 1, *grid]``, True = may be seen; None: the plain network.

        Returns:
            One ``[B, channels, *spatial / stride]`` per feature, zero at hidden positions.
        """
        if isinstance(visible, Tensor):
            visible = Visibility(visible, self.spatial_dims, image.device)
        return [value.dense() if isinstance(value, Rows) else value for value in self.encode(image, visible)]

    def encode(self, image: Tensor, visibility: Visibility | None = None) -> list[Tensor | Rows]:
        """Return the feature maps as they were computed, from fine to coarse: packed ones stay packed.

        Args:
            image: ``[B, C, *spatial]``.
            visibility: which cells may be seen; None: all, the plain network.
        """
        self._check_channels(image)
        if visibility is None:
            maps: list[Tensor | Rows] = [*run_features(self.network, self.features, image, self._calls)[0]]
            return maps
        run = run_packed if self._is_packed(image.device) else run_masked_dense
        return list(run(self._trace(), self.network, image, visibility))

    def _trace(self) -> Trace:
        """The trace of the state that the network is in."""
        state = state_of(self.network)
        if state not in self._traces:
            with _TRACING:
                self._traces[state] = trace_features(self.network, self.features)
        return self._traces[state]

    def _trace_both_modes(self) -> fx.Graph:
        """Trace training, if it can be, and evaluation; return the latter, which leaves no layer out by chance."""
        twin = copy_structure(self.network)
        for mode in (True, False):
            state = state_of(twin.train(mode))
            try:
                self._traces[state] = trace_features(twin, self.features)
            except ValueError:
                if not mode:
                    raise
        return self._traces[state].graph

    def _is_packed(self, device: torch.device) -> bool:
        is_faster = device.type == "cpu" and not self._has_depthwise
        return self.execution == "packed" or (self.execution == "auto" and is_faster)

    def plain_state_dict(self) -> dict[str, Tensor]:
        """Weights under the network's own names, without those that no feature map depends on."""
        return {name: value for name, value in self.network.state_dict().items() if self._is_used(name)}

    def _is_used(self, name: str) -> bool:
        return name.rpartition(".")[0] in self._used or name in self._used

    def _check_channels(self, image: Tensor) -> None:
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            raise ValueError(
                f"The encoder takes {self.spatial_dims}D images with {self.in_channels} channels, [B, C, *spatial]; "
                f"got {tuple(image.shape)}. Set `spatial_dims` and `channels`."
            )

    @torch.no_grad()
    def _probe(self) -> tuple[list[int], list[int], Counter[str]]:
        """Channels and stride of each map, and how often its submodule is called."""
        shapes_only = copy_structure(self.network, "meta").eval()
        size = (1, self.in_channels) + (PROBE_SIZE,) * self.spatial_dims
        image = torch.zeros(size, device="meta", dtype=next(shapes_only.parameters()).dtype)
        try:
            maps, calls = run_features(shapes_only, self.features, image)
        except Exception as error:
            raise untraceable(self.network, error) from error
        strides = [_stride(name, value) for name, value in zip(self.features, maps, strict=True)]
        if any(coarse <= fine for fine, coarse in pairwise(strides)):
            raise ValueError(
                f"Features must go from fine to coarse, each coarser than the last; got strides {strides}."
            )
        return [value.shape[1] for value in maps], strides, calls


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd) and layer.groups == layer.in_channels > 1


def _stride(name: str, value: Tensor) -> int:
    sizes = set(value.shape[2:])
    if len(sizes) != 1 or PROBE_SIZE % (size := sizes.pop()):
        raise ValueError(
            f"Feature {name!r} maps {PROBE_SIZE} voxels to {tuple(value.shape[2:])}: encoders must down-sample all "
            f"axes by one factor that divides {PROBE_SIZE}."
        )
    return PROBE_SIZE // size
