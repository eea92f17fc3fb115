# SPDX-License-Identifier: Apache-2.0
"""Mistakes, answered: options that do not exist, and errors that end with what went wrong."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

from custom.workflows.command_line import check_options


def explain_mistakes() -> None:
    """First step of every config: see :func:`show_root_causes`, then refuse misspelt options.

    Raises:
        ValueError: if this process is a ``monai.bundle run`` with an option that its configs do not have.
    """
    show_root_causes()
    check_options(sys.argv)


def show_root_causes() -> None:
    """From now on, end the traceback of an uncaught error with the error that caused it.

    MONAI wraps what a component or a transform raises in several RuntimeErrors; the one line that names the file and
    says what to do would otherwise stand far above the last one. What led to that error in turn (the hub's client found
    no file) is in the traceback.
    """
    sys.excepthook = _print_with_root_cause


def root_cause(error: BaseException) -> BaseException:
    """Return the error that MONAI wrapped in others."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error


def _print_with_root_cause(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    cause = root_cause(error)
    if cause is not error and not isinstance(error, KeyboardInterrupt):
        sys.stderr.write(f"\nWhat went wrong: {cause}\n")
