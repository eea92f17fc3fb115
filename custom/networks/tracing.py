# SPDX-License-Identifier: Apache-2.0
"""From an unmodified network to the graph that computes the outputs of chosen submodules."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn


def trace_features(network: nn.Module, features: Sequence[str]) -> fx.Graph:
    """Trace a network symbolically and keep what leads to the named submodules' outputs.

    The network is not changed: the graph names its submodules, whose parameters stay where they are. Whatever only
    serves later layers (a classification head, a decoder) is left out.

    Args:
        network: any network that ``torch.fx`` can trace (no control flow on tensor values).
        features: dotted names of submodules, for example ``["layer1", "layer2"]``.

    Returns:
        A graph whose output is the tuple of the submodules' outputs, in the given order.

    Raises:
        ValueError: if the network cannot be traced, or a name is not one of the submodules that its forward pass calls.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception as error:
        name = type(network).__name__
        raise ValueError(
            f"{name} cannot be traced by torch.fx ({error}). Check `arguments` in the backbone's file: a network can "
            "be built with wrong ones and fail only when it is called. If they are right, choose another encoder."
        ) from error
    outputs = tuple(_output_of(graph, name, network) for name in features)
    (old_output,) = [node for node in graph.nodes if node.op == "output"]
    graph.erase_node(old_output)
    graph.output(outputs)
    _erase_unused(graph)
    return graph


def used_modules(graph: fx.Graph) -> set[str]:
    """Dotted names of the submodules that a graph calls."""
    return {str(node.target) for node in graph.nodes if node.op == "call_module"}


def _erase_unused(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)


def _output_of(graph: fx.Graph, name: str, network: nn.Module) -> fx.Node:
    inside = [node for node in graph.nodes if name in _scopes(node)]
    if not inside:
        known, owner = ", ".join(child for child, _ in network.named_children()), type(network).__name__
        raise ValueError(f"{owner} has no submodule {name!r} in its forward pass; its children: {known}.")
    return inside[-1]


def _scopes(node: fx.Node) -> set[str]:
    return {path for path, _ in node.meta.get("nn_module_stack", {}).values()}
