# SPDX-License-Identifier: Apache-2.0
"""Values as they arrive from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "none": False, "null": False}


def flag(value: Any, name: str) -> bool:
    """Read a switch. ``--probe false`` reaches a config as the text "false", which Python takes for true.

    Args:
        value: a bool, a number, None, or a word such as "true", "False", "yes", "0".
        name: of the option, for the message.

    Raises:
        ValueError: if it is neither yes nor no.
    """
    word = str(value).strip().lower()
    if word not in _WORDS:
        raise ValueError(f"--{name} must be true or false, received {value!r}.")
    return _WORDS[word]


def mapping(value: Any, name: str, example: str = "{download: true}") -> dict[str, Any]:
    """Read options of a component.

    ``--localizer_options "{source: /a/b, download: true}"`` is YAML to its writer, but the command line takes what is
    no Python for a text, and the bare word true for the text "true".

    Args:
        value: a mapping, None (empty), or a text in YAML's or Python's way of writing one.
        name: of the option, for the message.
        example: a mapping that fits the option, for the message.

    Returns:
        A new dictionary; texts true, false and null in it have become what they mean.

    Raises:
        ValueError: if it is no mapping.
    """
    try:
        read = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        read = value
    if read is None:
        return {}
    if not isinstance(read, Mapping):
        raise ValueError(f'--{name} must be a mapping, for example --{name} "{example}"; got {value!r}.')
    return {str(key): _meant(each) for key, each in read.items()}


def _meant(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _meant(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_meant(each) for each in value]
    if isinstance(value, str) and value.lower() in ("true", "false", "null", "none"):
        return {"true": True, "false": False}.get(value.lower())
    return value
