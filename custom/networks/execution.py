# SPDX-License-Identifier: Apache-2.0
"""Running a traced network: densely, or with hidden cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from custom.networks.masked_layers import check_function, masked_function, masked_layer
from custom.networks.visibility import Visibility

LayerRule = Callable[[nn.Module, tuple[Any, ...]], Any]
FunctionRule = Callable[[str, tuple[Any, ...], Callable[[], Any]], Any]


def run_dense(graph: fx.Graph, network: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """Run the graph as the plain network would. ``image`` is ``[B, C, *spatial]``."""
    return _run(graph, network, image, lambda layer, args: layer(*args), lambda name, args, call: call())


def run_masked_dense(graph: fx.Graph, network: nn.Module, image: Tensor, visibility: Visibility) -> tuple[Tensor, ...]:
    """Run the graph on the visible cells only, by dense computation and masks (:mod:`custom.networks.masked_layers`).

    What is hidden cannot change the result: the image is zeroed there before the first layer.
    """

    def layer_rule(layer: nn.Module, args: tuple[Any, ...]) -> Tensor:
        return masked_layer(layer, args[0], visibility)

    def function_rule(name: str, args: tuple[Any, ...], call: Callable[[], Any]) -> Any:
        check_function(name, args[0])
        result = call()
        return masked_function(name, result, visibility) if isinstance(result, Tensor) else result

    return _run(graph, network, visibility.hide(image), layer_rule, function_rule)


def _run(
    graph: fx.Graph, network: nn.Module, image: Tensor, layer_rule: LayerRule, function_rule: FunctionRule
) -> tuple[Tensor, ...]:
    values: dict[fx.Node, Any] = {}
    last_use = _last_uses(graph)
    for node in graph.nodes:
        args = fx.node.map_arg(node.args, values.__getitem__)
        if node.op == "placeholder":
            values[node] = image if not values else node.args[0]  # further arguments keep their defaults
        elif node.op == "call_module":
            values[node] = layer_rule(network.get_submodule(str(node.target)), args)
        elif node.op == "get_attr":
            values[node] = _attribute(network, str(node.target))
        elif node.op == "output":
            return tuple(args[0])
        else:
            values[node] = function_rule(_name(node), args, _bind(node, args, values))
        for done in last_use.get(node, ()):
            del values[done]
    raise ValueError("The graph has no output.")


def _bind(node: fx.Node, args: tuple[Any, ...], values: dict[fx.Node, Any]) -> Callable[[], Any]:
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.op == "call_method":
        return lambda: getattr(args[0], str(node.target))(*args[1:], **kwargs)
    target: Any = node.target
    return lambda: target(*args, **kwargs)


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _attribute(network: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(network.get_submodule(owner), name)


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the values that nothing after it needs: they are freed there, as in a plain forward pass."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last[source] = node
    freed: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        freed.setdefault(node, []).append(source)
    return freed
