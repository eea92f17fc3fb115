# SPDX-License-Identifier: Apache-2.0
"""What a record may hold: the JSON beside weights and maps comes with data, and never decides what is run or read.

A record holds plain values: numbers, booleans, texts, and lists and mappings of these. It names parts of this project
by the names of their files, and networks by the name of a class or function that is defined in a trusted package.
Every reader of records comes through here.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from custom.options import mapping

logger = logging.getLogger(__name__)

_SIGNS = ("$", "%", "@")  # with which MONAI's parser knows an expression, a part of another file, a reference
_PARSERS_OWN = ("_target_", "_mode_", "_disabled_", "_requires_", "_desc_", "_debug_")
# Arguments by which networks of MONAI read or fetch weights when they are built.
_READING = re.compile(r".*(pretrained|weights).*|checkpoint|url|file(name)?|path(_or_repo_id)?", re.IGNORECASE)


class UntrustedNetworkError(ValueError):
    """A record asks for a network that it may not decide alone to build."""


def read_json(record: str | Path, remedy: str, told_only: Collection[str] = ()) -> dict[str, Any]:
    """Read a record and see to it that it holds plain values only.

    Args:
        record: its path.
        remedy: what to do about a damaged one, for the message.
        told_only: fields that are only ever told, never part of a config: names of folders and prompts may begin with
            any sign.

    Raises:
        ValueError: if it is missing, no JSON, no mapping, or holds something that the config parser would evaluate.
    """
    try:
        content = json.loads(Path(record).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it is no mapping")
        check_plain(record, {name: value for name, value in content.items() if name not in told_only})
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError, RecursionError) as error:
        raise ValueError(f"{record}: cannot be read as a record ({error!r}). {remedy}") from error
    return content


def check_plain(record: str | Path, value: Any, field: str = "") -> None:
    """Refuse what the config parser would evaluate or build.

    Args:
        record: path of the record, for the message.
        value: what was read from it.
        field: where in the record the value stands, for the message.

    Raises:
        ValueError: if there is an expression, a reference or a ``_target_`` in it, at any depth.
    """
    if isinstance(value, Mapping):
        for key, each in value.items():
            check_plain(record, key, field)
            check_plain(record, each, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            check_plain(record, each, field)
    elif isinstance(value, str):
        _check_text(record, value, field)
    elif not isinstance(value, int | float | None):
        raise ValueError(f"{record}: {_of(field)}{value!r} is no plain value. Do not trust it.")


def _check_text(record: str | Path, text: str, field: str) -> None:
    if text.startswith((*_SIGNS, *_PARSERS_OWN)):
        raise ValueError(
            f"{record}: {_of(field)}{text!r} is an expression, but a record holds plain values only. Do not trust it; "
            f"if it is yours, choose a name that does not begin with {', '.join(_SIGNS)} or {_PARSERS_OWN[0]}."
        )


def recorded_options(record: str | Path, field: str, value: Any) -> dict[str, Any]:
    """Return recorded options of a component: a mapping of plain values.

    Args:
        record: path of the record, for the message.
        field: where in the record the options stand.
        value: a mapping, None, or the text of one, as models of earlier versions have it.

    Raises:
        ValueError: if it is no mapping, or holds an expression once it is parsed.
    """
    try:
        options = mapping(value, field)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{record}: {field} must be a mapping of plain values, not {value!r}.") from error
    check_plain(record, options, field)
    return options


def recorded_name(record: str | Path, field: str, name: Any, known: Collection[str], remedy: str) -> str:
    """Return the recorded name of a part of this project.

    Args:
        record: path of the record, for the message.
        field: where in the record the name stands.
        name: as recorded.
        known: names that there are; a path is none.
        remedy: what to do if the user trusts the record, for the message.

    Raises:
        ValueError: if there is no such part.
    """
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"{record} asks for the {field} {name}, which is none of this project's ({', '.join(sorted(known))}). "
            f"{remedy}"
        )
    return name


def recorded_network(record: str | Path, name: Any, trusted: Sequence[str]) -> Callable[..., nn.Module]:
    """Return the class or function of a recorded network.

    Args:
        record: path of the record, for the message.
        name: dotted, as recorded.
        trusted: packages, of which one name is taken, which must be a network class or a function that is defined in
            the package itself; or dotted names of single classes and functions.

    Raises:
        UntrustedNetworkError: if it is anything else: a name behind an attribute, another package's, no network.
    """
    package, _, attribute = str(name).rpartition(".")
    packages = [each.rstrip(".") for each in trusted]
    found: Any = None
    if package in packages or name in packages:
        with suppress(ImportError):  # a name behind one of the classes and functions
            found = getattr(importlib.import_module(package), attribute, None)
    if _is_network(found) and (name in packages or f"{found.__module__}.".startswith(f"{package}.")):
        return found  # type: ignore[no-any-return]
    raise UntrustedNetworkError(
        f"{record} asks to build {name!r}, which is outside {list(trusted)}: it must be a network class or a function "
        "that is defined there."
    )


def _is_network(found: Any) -> bool:
    return inspect.isfunction(found) or (inspect.isclass(found) and issubclass(found, nn.Module))


def recorded_arguments(record: str | Path, build: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded arguments of a network, with those switched off by which it would read or fetch weights.

    Args:
        record: path of the record, for the message.
        build: the class or function.
        arguments: all keyword arguments that it will be called with.

    Raises:
        ValueError: if they are not plain, ``build`` does not take them, or one names a file of weights.
    """
    check_plain(record, arguments, "arguments")
    try:
        bound = inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{record}: cannot be read as a record: {build.__name__}: {error}.") from error
    bound.apply_defaults()
    taken = {**bound.arguments, **bound.arguments.get(_further(build), {})}
    reading = {name: value for name, value in taken.items() if _READING.fullmatch(name) and value}
    for name, value in reading.items():
        if isinstance(value, str):
            raise ValueError(
                f"{record}: {name} {value!r} of {build.__name__} would read weights from elsewhere. If you trust the "
                "record, set it to null there: the weights lie beside it."
            )
    switched_off = [name for name in reading if "pretrained" in name.lower()]
    for name in switched_off:
        logger.warning("%s: %s of %s is switched off: the weights lie beside it.", record, name, build.__name__)
    return {**arguments, **dict.fromkeys(switched_off, False)}


def _further(build: Callable[..., Any]) -> str:
    """Name of the parameter that takes any further keyword arguments; "" if there is none."""
    parameters = inspect.signature(build).parameters.values()
    return next((each.name for each in parameters if each.kind is each.VAR_KEYWORD), "")


def _of(field: str) -> str:
    return f"{field}: " if field else ""
