# SPDX-License-Identifier: Apache-2.0
"""Other defaults in a commented YAML config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import yaml


def with_defaults(text: str, values: Mapping[str, Any]) -> str:
    """Replace values of top-level keys and keep everything else as it is, comments too.

    Args:
        text: of a YAML config.
        values: key -> new value, of plain types.

    Raises:
        ValueError: if a key is not there, or its value is written over several lines.
    """
    for key, value in values.items():
        line = re.compile(rf"(?m)^(?P<setting>{re.escape(key)}:.*?(?=$|[ ]+#[ ]))(?P<comment>[ ]+#[ ].*)?$")
        text, count = line.subn(partial(_line, key, value), text)
        if count != 1:
            raise ValueError(f"{key!r} is {count} times at the top level of the config; it must be there once.")
    read = _read(text)
    if any(read.get(key, _read) != value for key, value in values.items()):
        raise ValueError(f"Among {sorted(values)} are values written over several lines; write each on its own.")
    return text


def _read(text: str) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(text))
    except yaml.YAMLError:
        return {}


def _line(key: str, value: Any, match: re.Match[str]) -> str:
    setting = f"{key}: {_flow(value)}"
    if match["comment"] is None:
        return setting
    comment = match["comment"].lstrip()
    column = match.end() - len(comment) - match.start()
    return f"{setting.ljust(column - 1)} {comment}"


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip().removesuffix("\n...")
