# SPDX-License-Identifier: Apache-2.0
"""Running a traced network with hidden cells, by masks or packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from custom.networks.masked_layers import UnsupportedLayerError, masked_function, masked_layer
from custom.networks.packed.layers import first_layer, packed_function, packed_layer
from custom.networks.packed.rows import MaskedImage, Rows
from custom.networks.tracing import Trace
from custom.networks.visibility import Visibility

LayerRule = Callable[[nn.Module, Any], Any]
FunctionRule = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def run_masked_dense(trace: Trace, network: nn.Module, image: Tensor, visibility: Visibility) -> tuple[Tensor, ...]:
    """Run a trace on the visible cells only, by dense computation and masks (:mod:`custom.networks.masked_layers`).

    What is hidden cannot change the result: the image is zeroed there before the first layer.
    """

    def layer_rule(layer: nn.Module, value: Tensor) -> Tensor:
        return masked_layer(layer, value, visibility)

    def function_rule(name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return masked_function(name, call, args, kwargs, visibility)

    return _run(trace, network, visibility.hide(image), layer_rule, function_rule)


def run_packed(trace: Trace, network: nn.Module, image: Tensor, visibility: Visibility) -> tuple[Rows, ...]:
    """Run a trace on the visible cells only, computing nothing else (:mod:`custom.networks.packed`)."""

    def layer_rule(layer: nn.Module, value: MaskedImage | Rows | Tensor) -> Rows | Tensor:
        if layer._forward_pre_hooks or layer._forward_hooks:
            raise UnsupportedLayerError(f"{type(layer).__name__} with hooks, by packed execution,")
        if isinstance(value, MaskedImage):
            return first_layer(layer, value, visibility)
        return packed_layer(layer, value, visibility) if isinstance(value, Rows) else layer(value)

    def function_rule(name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return packed_function(name, call, fx.node.map_aggregate(args, _as_rows), kwargs)

    start = MaskedImage(visibility.hide(image), visibility.sites(image.shape[2:]))
    return _run(trace, network, start, layer_rule, function_rule)


def _as_rows(value: Any) -> Any:
    """Functions, other than layers, know packed maps only."""
    return value.rows if isinstance(value, MaskedImage) else value


def _run(
    trace: Trace, network: nn.Module, image: Any, layer_rule: LayerRule, function_rule: FunctionRule
) -> tuple[Any, ...]:
    if trace.frozen:
        raise UnsupportedLayerError(type(network).__name__, trace.frozen)
    values: dict[fx.Node, Any] = {}
    last_use = _last_uses(trace.graph)
    for node in trace.graph.nodes:
        args, kwargs = (fx.node.map_arg(given, values.__getitem__) for given in (node.args, node.kwargs))
        if node.op == "placeholder":
            values[node] = image
        elif node.op == "call_module":
            values[node] = _apply(layer_rule, network, str(node.target), args, kwargs)
        elif node.op == "get_attr":
            values[node] = _attribute(trace, network, str(node.target))
        elif node.op == "output":
            return tuple(args[0])
        else:
            values[node] = function_rule(_name(node), _callable(node), args, kwargs)
        for done in last_use.get(node, ()):
            del values[done]
    raise ValueError("The graph has no output.")


def _apply(rule: LayerRule, network: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply the rule of a layer; its errors say where the layer is."""
    layer = network.get_submodule(path)
    given = [*args, *kwargs.values()]
    try:
        if len(given) > 1:
            raise UnsupportedLayerError(f"{type(layer).__name__} with further arguments")
        return rule(layer, given[0])
    except UnsupportedLayerError as error:
        raise UnsupportedLayerError(f"{error.layer} (submodule {path!r})") from error


def _callable(node: fx.Node) -> Callable[..., Any]:
    target: Any = node.target
    if node.op == "call_method":
        return lambda owner, *args, **kwargs: getattr(owner, target)(*args, **kwargs)
    function: Callable[..., Any] = target
    return function


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _attribute(trace: Trace, network: nn.Module, path: str) -> Any:
    if path in trace.constants:
        return trace.constants[path]
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
