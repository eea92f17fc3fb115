# SPDX-License-Identifier: Apache-2.0
"""How much of a pretrained encoder may change: learning rates that fall with depth, and stages that stay as they are.

An encoder's *stages*, from the image on: its stem (what comes before the first stage that gives a feature map; not all
encoders have one), then one for each feature map. The stage of a layer is read from the encoder's trace: the first
feature map that depends on it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from custom.networks import Encoder
from custom.networks.parameters import parameter_groups

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A stage of an encoder.

    Attributes:
        name: ``stem``, or the submodule that computes the feature map, e.g. ``layer1``.
        layers: what is called in this stage: convolutions, normalisation, activations.
    """

    name: str
    layers: tuple[nn.Module, ...]

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of its layers."""
        for layer in self.layers:
            yield from layer.parameters()


def encoder_stages(encoder: Encoder) -> list[Stage]:
    """Return the stages that have parameters, from the image on; they share no layer, and together are the encoder."""
    maps = _feature_nodes(encoder.graph)
    scopes = _feature_scopes(maps)
    layers: dict[str, list[nn.Module]] = {name: [] for name in ("stem", *scopes)}
    placed: set[nn.Module] = set()
    for feature, scope in zip(maps, scopes, strict=True):
        for node in _called_before(feature):
            layer = encoder.network.get_submodule(str(node.target))
            is_stem = feature is maps[0] and scope not in _stack(node)
            if layer not in placed:  # a layer may have several names, or be called in several stages
                placed.add(layer)
                layers["stem" if is_stem else scope].append(layer)
    stages = [Stage(name, tuple(found)) for name, found in layers.items()]
    return [stage for stage in stages if any(True for _ in stage.parameters())]


def layer_decay_groups(
    network: nn.Module, encoder: Encoder, weight_decay: float, learning_rate: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Split parameters for the optimizer: earlier layers of a pretrained encoder learn more slowly.

    What is not the encoder's (heads, decoders, pyramids) learns at ``learning_rate``; a stage of the encoder at
    ``learning_rate * layer_decay ** k`` where k = 1 for the last stage and grows by one a stage towards the image
    (Clark et al., ELECTRA, 2020, appendix A; Bao et al., BEiT, 2022, for masked image modelling). Biases and
    normalisation are not decayed, see :func:`custom.networks.parameter_groups`. With ``layer_decay`` 1 the groups are
    the same as there. Schedulers that multiply each group's rate (PyTorch's LambdaLR, MONAI's WarmupCosineSchedule)
    keep the ratios.

    Args:
        network: the whole network; its parameters without gradient are left out.
        encoder: the pretrained part of it.
        weight_decay: for weights of convolutions and linear layers.
        learning_rate: of what is not the encoder's.
        layer_decay: in (0, 1].

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr``, in a fixed order: those with weight decay first, among them
        the fastest, so that what reports the first group's rate reports ``learning_rate``.

    Raises:
        ValueError: if ``layer_decay`` is out of range, or the encoder is no part of the network.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be in (0, 1], received {layer_decay}. 1: all layers learn alike.")
    if not any(module is encoder for module in network.modules()):
        raise ValueError("The encoder is no part of the network: its learning rates would have no effect.")
    rates = _rates(encoder, layer_decay)
    groups = []
    for group in parameter_groups(network, weight_decay):
        factors = [rates.get(id(parameter), 1.0) for parameter in group["params"]]
        for factor in sorted(set(factors), reverse=True):
            params = [each for each, own in zip(group["params"], factors, strict=True) if own == factor]
            groups.append({**group, "params": params, "lr": learning_rate * factor})
    return groups


def freeze_stages(encoder: Encoder, count: int) -> Encoder:
    """Keep the first stages of an encoder as they are, for good.

    Their parameters get no gradient, and their layers are in evaluation mode (normalisation uses its stored statistics
    and keeps them, dropout is off) and stay so when the network is switched to training.

    Args:
        encoder: changed in place.
        count: how many stages, counted from the image: 0 none; 1 the stem (of an encoder without one: the first stage);
            the number of all stages: the whole encoder.

    Returns:
        The encoder.

    Raises:
        ValueError: if the encoder has fewer stages.
    """
    stages = encoder_stages(encoder)
    if not 0 <= count <= len(stages):
        names = ", ".join(stage.name for stage in stages)
        raise ValueError(f"frozen_stages must be 0 to {len(stages)} for this encoder ({names}), received {count}.")
    for stage in stages[:count]:
        for layer in stage.layers:
            layer.requires_grad_(False)
            layer.eval()
            layer.train = _stay  # type: ignore[method-assign,assignment]  # its parent's train() calls this
    if count:
        logger.info("Frozen stages of the encoder: %s.", ", ".join(stage.name for stage in stages[:count]))
    return encoder


def _stay(mode: bool = True) -> None:
    """In place of a frozen layer's ``train``: nothing to switch."""


def _rates(encoder: Encoder, layer_decay: float) -> dict[int, float]:
    """Factor of the learning rate, by the identity of the parameter."""
    stages = encoder_stages(encoder)
    return {
        id(parameter): layer_decay ** (len(stages) - index)
        for index, stage in enumerate(stages)
        for parameter in stage.parameters()
    }


def _feature_nodes(graph: fx.Graph) -> list[fx.Node]:
    (output,) = [node for node in graph.nodes if node.op == "output"]
    return list(output.args[0])


def _feature_scopes(maps: list[fx.Node]) -> list[str]:
    """For each map the outermost submodule that computes no other one: ``layer1``, not ``layer1.1.act``."""
    stacks = [_stack(node) for node in maps]
    return [next(path for path in own if sum(path in stack for stack in stacks) == 1) for own in stacks]


def _stack(node: fx.Node) -> list[str]:
    """The submodules in whose forward pass a node is, from the outermost on."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _called_before(feature: fx.Node) -> list[fx.Node]:
    """The calls of layers on which a feature map depends, in the order of the forward pass."""
    found: set[fx.Node] = set()
    waiting = [feature]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return [node for node in feature.graph.nodes if node in found and node.op == "call_module"]
