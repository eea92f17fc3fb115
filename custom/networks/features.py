# SPDX-License-Identifier: Apache-2.0
"""A network's own forward pass, read at some of its submodules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn


class _Complete(BaseException):
    """All maps are there: what the network would compute afterwards is not needed."""


def run_features(
    network: nn.Module, features: Sequence[str], image: Tensor, calls: Mapping[str, int] | None = None
) -> tuple[list[Tensor], Counter[str]]:
    """Run a network and return the outputs of some of its submodules.

    Everything is as the network does it: its mode, branches, random numbers and buffers. Networks may be run in several
    threads at once.

    Args:
        network: as it is.
        features: names of submodules.
        image: ``[B, C, *spatial]``, the only argument that the network is given.
        calls: how often each of the submodules is called in a forward pass, the last call counts; the pass ends there.
            None: it is run to its end, or until something fails after the last of them.

    Returns:
        The outputs, and how often each submodule was called.

    Raises:
        ValueError: if a submodule is not called, or returns something else than one tensor.
    """
    found: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    thread = get_ident()
    # torch.export keeps a stack of the modules that it is in, which leaving them early would break; it drops by itself
    # what the maps do not need.
    enough = None if torch.compiler.is_exporting() else calls

    def keep(name: str, output: Any) -> None:
        if get_ident() != thread:
            return
        found[name] = output
        counts[name] += 1
        if enough is not None and all(counts[each] >= enough[each] for each in features):
            raise _Complete

    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name in features
    ]
    try:
        network(image)
    except _Complete:
        pass
    except Exception:
        if calls is not None or len(found) < len(features):
            raise
    finally:
        for hook in hooks:
            hook.remove()
    return [_map(network, name, found.get(name)) for name in features], counts


def _map(network: nn.Module, name: str, output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    what = "is not called" if output is None else f"returns {type(output).__name__}, not one map"
    raise ValueError(f"{type(network).__name__}: submodule {name!r} {what} in this forward pass.")
