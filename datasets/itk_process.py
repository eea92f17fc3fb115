# SPDX-License-Identifier: Apache-2.0
"""ITK in a process of its own: its C++ libraries (GDCM, codecs, teem) may abort at a file, or ask for any memory."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from monai.data.utils import orientation_ras_lps

_PROGRAM = Path(__file__).with_name("itk_child.py")
_SECONDS, _SECONDS_PER_MB = 120.0, 2.0  # without an answer, after which a file is given up
_ROOM = 2**30  # bytes for libraries and buffers beside the voxels
_COPIES = 4  # of the voxels that a codec, ITK and its conversions hold at once


@dataclass(frozen=True)
class ItkImage:
    """What ITK read.

    Attributes:
        values: ``[X, Y(, Z)]``, or ``[X, Y(, Z), components]``.
        affine: voxel to RAS+ millimetres, ``[D + 1, D + 1]``.
        components: numbers a voxel.
    """

    values: np.ndarray
    affine: np.ndarray
    components: int


def read_dicom(files: Sequence[str], grey: bool, size: int) -> ItkImage:
    """Read a DICOM file, or the slices of a series in their order.

    Args:
        files: their paths.
        grey: whether voxels are one number, and float32 then.
        size: bytes that the voxels take by the headers, which bounds the memory.

    Raises:
        RuntimeError: ITK's message, or how its process ended.
        MemoryError: it did not fit.
    """
    return _image(*_process().ask("dicom", files, grey, size))


def read_nrrd(file: str, size: int) -> ItkImage:
    """Read an NRRD file; arguments and errors as for :func:`read_dicom`."""
    return _image(*_process().ask("nrrd", [file], False, size))


def nrrd_shape(file: str) -> tuple[int, ...]:
    """Return the voxels of an NRRD file along its axes in space, from its header."""
    return tuple(_process().ask("nrrd shape", [file], False, 0)[0]["shape"])


def _image(header: dict[str, Any], values: np.ndarray) -> ItkImage:
    turned = values.T if header["components"] == 1 else np.moveaxis(values.T, 0, -1)
    spacing, origin = np.asarray(header["spacing"]), np.asarray(header["origin"])
    dims = min(len(spacing), 3)
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = np.asarray(header["direction"])[:dims, :dims] @ np.diag(spacing[:dims])
    affine[:dims, -1] = origin[:dims]
    return ItkImage(turned, orientation_ras_lps(affine), header["components"])


class _ItkProcess:
    """A process that reads one request after the other, and is replaced when it crashed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, kind: str, files: Sequence[str], grey: bool, size: int) -> tuple[dict[str, Any], np.ndarray]:
        """Return the answer's header, and voxels as C++ has them (the first axis varies slowest)."""
        request = {
            "kind": kind,
            "files": [os.path.abspath(file) for file in files],
            "grey": grey,
            "memory": _ROOM + _COPIES * size,
        }
        seconds = _SECONDS + _SECONDS_PER_MB * sum(os.path.getsize(file) for file in files) / 1e6
        with self.lock:
            try:
                header, values = _exchange(self._running(), request, seconds)
            except BaseException:  # a crash, or an interruption that leaves half an answer in the pipe
                self.stop()
                raise
        if "error" in header:
            raise RuntimeError(header["error"])
        if "memory" in header:
            raise MemoryError
        return header, values

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            command = [sys.executable, "-P", str(_PROGRAM)]
            places = os.pathsep.join(path for path in sys.path if path)
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": places},
            )
        return self.process

    def stop(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()


def _exchange(
    process: subprocess.Popen[bytes], request: dict[str, Any], seconds: float
) -> tuple[dict[str, Any], np.ndarray]:
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        header = json.loads(line) if line.endswith(b"\n") else {}
        values = np.empty(header.get("shape", 0) if "dtype" in header else 0, header.get("dtype", "u1"))
        complete = bool(header) and _fill(values, process.stdout)
    except OSError:  # the pipe broke
        complete = False
    finally:
        timer.cancel()
    if not complete:
        raise RuntimeError(_ending(process, seconds))
    return header, values


def _fill(values: np.ndarray, stream: IO[bytes]) -> bool:
    rest = memoryview(values.reshape(-1).view(np.uint8))
    while len(rest):
        count = stream.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            return False
        rest = rest[count:]
    return True


def _ending(process: subprocess.Popen[bytes], seconds: float) -> str:
    code = process.wait()
    if code == -signal.SIGKILL:
        return f"the decoder was stopped: no answer within {seconds:.0f} s, or too little memory"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the decoder crashed at it ({name})"


_processes: dict[int, _ItkProcess] = {}  # by the process that asks: forked ones must not share a pipe


def _process() -> _ItkProcess:
    return _processes.setdefault(os.getpid(), _ItkProcess())


@atexit.register
def _stop() -> None:
    if os.getpid() in _processes:
        _processes[os.getpid()].stop()
