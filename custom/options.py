# SPDX-License-Identifier: Apache-2.0
"""Values as they arrive from the command line."""

from __future__ import annotations

from typing import Any

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
