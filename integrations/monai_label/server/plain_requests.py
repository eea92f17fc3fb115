# SPDX-License-Identifier: Apache-2.0
"""Requests hold values: MONAI Label puts what a client sends into a bundle's config, which evaluates expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

_SIGNS = ("$", "@", "%", "_target_")  # as MONAI's config parser knows them


class ExpressionError(Exception):
    """A request holds something that the server would run."""


def check_request(value: Any) -> None:
    """Refuse a request that is not only values.

    Args:
        value: what a client sent, parsed; other objects of the server pass.

    Raises:
        ExpressionError: if a text in it, at any depth, would be evaluated by MONAI's config parser.
    """
    if isinstance(value, Mapping):
        for each in (*value.keys(), *value.values()):
            check_request(each)
    elif isinstance(value, list | tuple):
        for each in value:
            check_request(each)
    elif isinstance(value, str) and value.startswith(_SIGNS):
        raise ExpressionError(f"{value!r} would be an expression; a request holds values: no text begins with $, @, %.")


def looked_at(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the server that refuses requests as :func:`check_request` does before it does anything."""

    @wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_request([*args, *kwargs.values()])
        return call(*args, **kwargs)

    return checked
