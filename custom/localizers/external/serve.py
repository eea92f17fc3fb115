# SPDX-License-Identifier: Apache-2.0
"""The worker's side of :class:`custom.localizers.external.ExternalLocalizer`.

Run by the Python (3.10 or newer) of another environment as ``python serve.py worker.py``; needs numpy alone and nothing
of this project. Requests come as lines of JSON on standard input, replies go the same way to what was standard output.
Both are set aside before the worker's file is read, so that whatever libraries print lands on standard error and
disturbs nothing.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np


def main(worker_file: str) -> None:
    """Answer requests until standard input ends."""
    requests, replies = _set_aside()
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]  # its files are no modules for workers
    worker: dict[str, Callable[..., Any]] = {}
    for line in requests:
        reply: dict[str, Any] = {"done": True}
        try:
            _answer(json.loads(line), worker, worker_file)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _set_aside() -> tuple[TextIO, TextIO]:
    """Take standard input and output for the protocol, and leave an empty input and standard error in their place."""
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, replies


def _answer(request: dict[str, Any], worker: dict[str, Callable[..., Any]], worker_file: str) -> None:
    if request["do"] == "load":
        worker["localize"] = runpy.run_path(worker_file)["load"](request["options"])
        return
    volume, affine = np.load(request["image"], allow_pickle=False), np.array(request["affine"])
    found = np.asarray(worker["localize"](volume, affine, request["prompts"]))
    if found.shape != (len(request["prompts"]), *volume.shape):
        raise ValueError(f"{worker_file} returned maps of {found.shape} for a scan of {volume.shape}.")
    np.save(request["maps"], found.astype(np.float16))


if __name__ == "__main__":
    main(sys.argv[1])
