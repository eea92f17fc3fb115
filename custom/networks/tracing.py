# SPDX-License-Identifier: Apache-2.0
"""From an unmodified network to the graph that computes the outputs of chosen submodules.

A graph holds what the forward pass did when it was traced. What Python decides there (``if self.training``, the value
of an attribute) is right for the state that the network was in, so there is a trace for each state
(:func:`state_of`). What cannot be traced in any state (random numbers drawn in Python, attributes and buffers that the
forward pass changes) is noted in :attr:`Trace.frozen`, and who needs the graph to follow it is told.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

State = tuple[tuple[Any, ...], ...]
_VALUES = (bool, int, float, str, type(None), FunctionType, BuiltinFunctionType)
_CONTAINERS = (list, tuple, dict)
_INTERNAL = frozenset(vars(nn.Module()))  # what torch keeps in each module
_VIEWS = frozenset(("getitem", "view", "reshape", "flatten", "unsqueeze", "squeeze", "expand", "select", "detach"))


@dataclass(frozen=True)
class Trace:
    """What a network computes on the way to its feature maps, in one state.

    Attributes:
        graph: its output is the tuple of the maps, fine to coarse; it names submodules, parameters and buffers.
        constants: tensors that the forward pass makes of nothing, by the names that the graph gives them.
        frozen: what the graph does not follow, and where; empty if it follows everything.
    """

    graph: fx.Graph
    constants: Mapping[str, Tensor]
    frozen: str = ""

    def modules(self) -> set[str]:
        """Dotted names of the submodules that the graph calls, and of its own parameters."""
        return {str(node.target) for node in self.graph.nodes if node.op in ("call_module", "get_attr")}


def trace_features(network: nn.Module, features: Sequence[str]) -> Trace:
    """Trace a network symbolically, in the state that it is in, and keep what leads to the named submodules' outputs.

    The network is not changed: a copy with the same parameters is traced. Arguments of its forward pass other than the
    image keep their defaults. Whatever only serves later layers (a classification head, a decoder) is left out.

    Args:
        network: any network that ``torch.fx`` can trace (no control flow on tensor values).
        features: dotted names of submodules, for example ``["layer1", "layer2"]``.

    Raises:
        ValueError: if the network cannot be traced, or a name is not one of the submodules that its forward pass calls.
    """
    try:
        tracer, frozen = _trace(network, features, follow_buffers=True)
    except Exception as first:
        try:
            tracer, frozen = _trace(network, features, follow_buffers=False)
        except Exception as error:
            raise untraceable(network, error) from error
        frozen = frozen or f"{type(network).__name__} uses its buffers in a way that cannot be followed ({first})"
    graph = tracer.graph
    outputs = tuple(_output_of(tracer, name, network) for name in features)
    frozen = frozen or _written(graph)
    for node in [node for node in graph.nodes if node.op == "output"]:
        graph.erase_node(node)
    graph.output(outputs)
    _erase_unused(graph)
    constants = {name: value for name, value in vars(tracer.root).items() if name.startswith("_tensor_constant")}
    return Trace(graph, constants, frozen)


def untraceable(network: nn.Module, error: Exception) -> ValueError:
    """The error for a network whose forward pass fails."""
    return ValueError(
        f"{type(network).__name__} cannot be traced by torch.fx ({error}). Check `arguments` in the backbone's file: a "
        "network can be built with wrong ones and fail only when it is called. If they are right, choose another "
        "encoder."
    )


def state_of(network: nn.Module) -> State:
    """All that Python code of a forward pass may branch on: the submodules, their modes and their plain attributes."""
    return tuple((name, type(module), *_plain_attributes(module)) for name, module in network.named_modules())


def copy_structure(network: nn.Module, device: str | None = None) -> nn.Module:
    """Copy a network without copying its weights.

    Args:
        network: it is not changed by what is done to the copy, the values of its parameters excepted.
        device: where parameters and buffers of the copy are, "meta" for shapes alone. None: parameters are shared.
    """
    parameters = {id(each): nn.Parameter(each.detach().to(device), each.requires_grad) for each in network.parameters()}
    buffers = {id(each): each.detach().clone().to(device) for each in network.buffers()}
    return copy.deepcopy(network, {**parameters, **buffers})


class _Tracer(fx.Tracer):
    """Also notes which node is the output of which feature, and which submodule draws random numbers.

    Args:
        features: the submodules of the network whose outputs are wanted, and their names.
        follow_buffers: whether buffers are read each time the graph is run.
    """

    def __init__(self, features: Mapping[nn.Module, str], follow_buffers: bool) -> None:
        super().__init__()
        self.features = features
        self.proxy_buffer_attributes = follow_buffers
        self.outputs: dict[str, Any] = {}
        self.draws = ""

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Only the image is symbolic: a forward pass may branch on further arguments, which keep their defaults."""
        return root_fn, [self.root, self.create_proxy("placeholder", "image", (), {})]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Trace the call of a submodule."""
        before = _random_state()
        result = super().call_module(m, forward, args, kwargs)
        if not self.draws and _random_state() != before:
            self.draws = f"{type(m).__name__} {self.path_of_module(m)!r}"
        if m in self.features:
            self.outputs[self.features[m]] = result
        return result


def _trace(network: nn.Module, features: Sequence[str], follow_buffers: bool) -> tuple[_Tracer, str]:
    """Trace a copy; return the tracer, and what it did not follow."""
    twin = copy_structure(network)
    known = dict(twin.named_modules(remove_duplicate=False))
    tracer = _Tracer({known[name]: name for name in features if name in known}, follow_buffers)
    before, versions = state_of(twin), _versions(twin)
    with _random_numbers_kept():
        drawn = _random_state()
        tracer.trace(twin)
        drawn_by = tracer.draws or (type(network).__name__ if _random_state() != drawn else "")
    changed = _first_difference(before, state_of(twin))
    if drawn_by:
        return tracer, f"{drawn_by} draws random numbers outside of layers (as stochastic depth does)"
    if changed:
        return tracer, f"{changed} changes its own attributes in its forward pass"
    if _versions(twin) != versions:
        return tracer, f"{type(network).__name__} changes its buffers in its forward pass"
    return tracer, ""


def _versions(network: nn.Module) -> list[tuple[int, int]]:
    """Which tensors are the buffers, and how often they were written to."""
    return [(id(each), each._version) for each in network.buffers()]


def _plain_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if isinstance(value, _VALUES):
            yield name, value
        elif name not in _INTERNAL and isinstance(value, _CONTAINERS) and _is_plain(value):
            yield name, repr(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _VALUES)


def _first_difference(before: State, after: State) -> str:
    """The first submodule whose attributes differ: its class and name."""
    for old, new in zip(before, after, strict=False):
        if old != new:
            return f"{new[1].__name__} {new[0]!r}".removesuffix(" ''")
    return ""


def _random_state() -> tuple[Any, ...]:
    numpy: Any = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy[1].tobytes(), numpy[2]


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Whatever is drawn inside, the numbers that are drawn afterwards are the same."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def _written(graph: fx.Graph) -> str:
    """The first parameter or buffer that is changed in place."""
    for node in graph.nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        is_method = node.op == "call_method" and name.endswith("_") and not name.endswith("__")
        if is_method or (node.op == "call_function" and name in ("iadd", "isub", "imul", "itruediv", "setitem")):
            source = _viewed(node.args[0])
            if isinstance(source, fx.Node) and source.op == "get_attr":
                return f"{source.target!r} is changed in the forward pass"
    return ""


def _viewed(node: Any) -> Any:
    """What a view is a view of."""
    while isinstance(node, fx.Node) and node.op in ("call_method", "call_function"):
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if name not in _VIEWS:
            break
        node = node.args[0]
    return node


def _erase_unused(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)


def _output_of(tracer: _Tracer, name: str, network: nn.Module) -> fx.Node:
    owner = type(network).__name__
    if name not in tracer.outputs:
        known = ", ".join(child for child, _ in network.named_children())
        raise ValueError(f"{owner} has no submodule {name!r} in its forward pass; its children: {known}.")
    result = tracer.outputs[name]
    if not isinstance(result, fx.Proxy):
        raise ValueError(
            f"{owner}: submodule {name!r} returns {type(result).__name__}, not one map. Name one that does."
        )
    return result.node
