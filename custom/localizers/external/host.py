# SPDX-License-Identifier: Apache-2.0
"""A localizer that lives in another Python environment."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from custom.localizers.base import spatial_values
from custom.localizers.external.process import Worker, WorkerError

logger = logging.getLogger(__name__)

SERVE = Path(__file__).with_name("serve.py")
_NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # they would mix this environment into the other one


class ExternalLocalizer:
    """Asks a worker process for the maps; see :mod:`custom.localizers.external` for how to write a worker.

    One process is started when the first map is needed and kept for all scans; if it died, the next scan starts
    another. Scans and maps travel as files in a temporary folder, maps as float16.

    Args:
        worker: Python file with a function ``load(options)``.
        python: of the worker's environment, a path or a command; None: the one that runs this.
        options: handed to ``load``; ready for JSON.
        native_dims: numbers of spatial dimensions that the worker takes.
        start_minutes: that loading the model may take.
        scan_minutes: that one scan may take, all prompts together.
        environment: variables of the worker's process, beside this process's own.

    Raises:
        ValueError: if the worker's file is missing.
        WorkerError: (by :meth:`localize`) if the worker cannot be started, dies, takes too long or reports an error.
    """

    name = "external"
    not_passed_on: tuple[str, ...] = ()  # starts of names of variables that would change maps, and stand in no record
    advice = "Check the option `python`: the interpreter of the environment that holds the worker's libraries."

    def __init__(
        self,
        worker: str | Path,
        python: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        native_dims: Sequence[int] = (3,),
        start_minutes: float = 30,
        scan_minutes: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.worker_file, self.python, self.options = Path(worker).expanduser(), python, dict(options or {})
        if not self.worker_file.is_file():
            raise ValueError(f"The worker {self.worker_file} is not there.")
        self.native_dims = tuple(native_dims)
        self.start_minutes, self.scan_minutes, self.environment = start_minutes, scan_minutes, dict(environment or {})
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """Return the options and a hash of the worker's file."""
        source = hashlib.blake2b(self.worker_file.read_bytes(), digest_size=8).hexdigest()
        return {"name": self.name, "version": 1, "worker": source, "options": self.options}

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names; see :class:`custom.localizers.base.Localizer`."""
        values = np.asarray(spatial_values(image, self.native_dims).cpu())
        if not prompts or np.ptp(values) == 0:
            return torch.zeros(len(prompts), *values.shape)
        affine = np.asarray(image.affine if isinstance(image, MetaTensor) else np.eye(4), dtype=np.float64)
        with self._lock, tempfile.TemporaryDirectory(prefix="localize-") as folder:
            image_file, maps_file = Path(folder) / "image.npy", Path(folder) / "maps.npy"
            np.save(image_file, np.ascontiguousarray(values))
            request = {"image": str(image_file), "affine": affine.tolist(), "prompts": list(prompts)}
            self._ask(self._running(), {"do": "localize", "maps": str(maps_file), **request}, self.scan_minutes)
            maps = np.load(maps_file, allow_pickle=False)
        return torch.from_numpy(maps.astype(np.float32))

    def close(self) -> None:
        """End the worker; the next call of :meth:`localize` starts another."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _running(self) -> Worker:
        if self._worker is not None and self._worker.alive:
            return self._worker
        self._worker = None
        worker = self._started()
        try:
            self._ask(worker, {"do": "load", "options": self.options}, self.start_minutes)
        except WorkerError as error:
            worker.close()
            raise WorkerError(f"{error}\n{self.advice}") from error
        self._worker = worker
        return worker

    def _started(self) -> Worker:
        asked = str(Path(self.python).expanduser()) if self.python is not None else sys.executable
        python = shutil.which(asked)
        if python is None:
            raise WorkerError(f"There is no program {asked} to run the worker of {self.name}.\n{self.advice}")
        hidden = _NOT_PASSED_ON if self.python is not None else ()
        passed = {key: value for key, value in os.environ.items() if key not in hidden}
        environment = {key: passed[key] for key in passed if not key.startswith(self.not_passed_on)} | self.environment
        try:
            worker = Worker([python, str(SERVE), str(self.worker_file.resolve())], environment)
        except OSError as error:
            raise WorkerError(f"{asked} cannot be run ({error.strerror}).\n{self.advice}") from error
        logger.info("Started a worker for %s (process %d, %s).", self.name, worker.pid, python)
        return worker

    def _ask(self, worker: Worker, request: Mapping[str, Any], minutes: float) -> None:
        reply = worker.ask(request, 60 * minutes)
        if "error" in reply:
            raise WorkerError(f"{self.name}: {reply['error']}\nIn the worker:\n{reply['traceback'].rstrip()}")

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in another process too, starts a worker of its own."""
        return {key: value for key, value in vars(self).items() if key not in ("_worker", "_lock")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._worker, self._lock = None, threading.Lock()
