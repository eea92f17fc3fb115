# SPDX-License-Identifier: Apache-2.0
"""Commands to paste, for the last line of a run's log."""

from __future__ import annotations

import shlex
from collections.abc import Mapping


def run_command(options: Mapping[str, str]) -> str:
    """Return a call of the bundle with these options, quoted for the shell."""
    return "python -m monai.bundle run " + " ".join(f"--{name} {_quoted(value)}" for name, value in options.items())


def _quoted(value: str) -> str:
    readable = shlex.quote(value) != value and not set(value) & set('"$`\\!')
    return f'"{value}"' if readable else shlex.quote(value)
