# SPDX-License-Identifier: Apache-2.0
"""The program of `datasets.itk_process`: reads files with ITK, where a crash of its C++ libraries ends nothing else.

Requests are lines of JSON on standard input. Each is answered by a line of JSON and, behind an image, by its voxels.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, BinaryIO

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def main() -> None:
    """Answer requests until standard input ends."""
    import itk
    import itk.support.helpers

    itk.support.helpers._HAVE_TORCH = False  # else it imports torch, 0.7 GB, to take tensors too
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the reader of the answers decides when to stop
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what C++ code prints must not get among the answers
    itk.Object.SetGlobalWarningDisplay(False)  # warnings name no file
    for line in sys.stdin.buffer:
        _answer(json.loads(line), answers)
        answers.flush()


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    try:
        _bound_memory(request["memory"])
        image = _READERS[request["kind"]](request["files"], request["grey"])
        header, values = _described(image)
    except MemoryError:
        _say(answers, {"memory": True})
    except Exception as error:  # ITK raises RuntimeError; whatever it is, the other side names the file
        _say(answers, {"error": str(error) or type(error).__name__})
    else:
        _say(answers, header)
        if values is not None:
            answers.write(memoryview(values).cast("B"))


def _say(answers: BinaryIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content).encode() + b"\n")


def _bound_memory(more: int) -> None:
    """Let this process have so many bytes more than it has now: a picture may be larger than its header says."""
    if resource is None or not os.path.exists("/proc/self/statm"):
        return
    with open("/proc/self/statm", encoding="ascii") as stream:
        now = int(stream.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = now + more
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _read_dicom(files: list[str], grey: bool) -> Any:
    import itk

    # Rescale slope and type may differ from slice to slice, and ITK takes the first one's type for all.
    source = files if len(files) > 1 else files[0]
    return itk.imread(source, pixel_type=itk.F if grey else None, imageio=itk.GDCMImageIO.New())


def _read_nrrd(files: list[str], grey: bool) -> Any:
    import itk

    return itk.imread(files[0], imageio=itk.NrrdImageIO.New())


def _nrrd_shape(files: list[str], grey: bool) -> tuple[int, ...]:
    import itk

    io = itk.NrrdImageIO.New()
    io.SetFileName(files[0])
    io.ReadImageInformation()
    return tuple(io.GetDimensions(axis) for axis in range(io.GetNumberOfDimensions()))


def _described(image: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    """The header of an answer, and the voxels, which are a view of the image's memory and go with it."""
    if isinstance(image, tuple):
        return {"shape": image}, None
    import itk

    values = np.ascontiguousarray(itk.array_view_from_image(image, keep_axes=False))
    return {
        "shape": values.shape,
        "dtype": values.dtype.str,
        "components": image.GetNumberOfComponentsPerPixel(),
        "direction": itk.array_from_matrix(image.GetDirection()).tolist(),
        "spacing": np.asarray(image.GetSpacing()).tolist(),
        "origin": np.asarray(image.GetOrigin()).tolist(),
    }, values


_READERS: dict[str, Any] = {"dicom": _read_dicom, "nrrd": _read_nrrd, "nrrd shape": _nrrd_shape}

if __name__ == "__main__":
    main()
