# SPDX-License-Identifier: Apache-2.0
"""Trained networks for other programs: TorchScript or ONNX files, compared with the original before they are kept."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from custom.files import write_atomically
from custom.networks import Encoder
from custom.tasks.detection.retinanet import RetinaDetector
from custom.tasks.instances.mask_rcnn import MaskDetector

logger = logging.getLogger(__name__)

SUFFIXES = {"torchscript": ".ts", "onnx": ".onnx"}
Run = Callable[[Tensor], list[Tensor]]


class Exportable(nn.Module):
    """A network as other programs can run it: one tensor of images in, one tensor or a tuple of tensors out.

    Args:
        network: a classifier or segmentation network, as it is. A RetinaNet gives its raw maps (scores and box
            differences of the anchors, a tensor a level): to choose boxes from them is left to the caller.

    Attributes:
        core: the part that is exported.

    Raises:
        ValueError: for a network whose forward pass cannot be written down as one graph.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if isinstance(network, MaskDetector):
            raise ValueError(
                "Mask R-CNN cannot be exported: its second pass runs on as many boxes as the first one finds, which a "
                "traced graph does not follow. Use inference.yaml, or export a RetinaNet or a segmentation network."
            )
        self.core = network.detector.network if isinstance(network, RetinaDetector) else network

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """``[B, C, *spatial]`` to the outputs, in the order of :meth:`names`."""
        found = tuple(value for _, value in _named(self.core(image)))
        return found[0] if len(found) == 1 else found

    @torch.no_grad()
    def names(self, image: Tensor) -> list[str]:
        """Names of the outputs: ``pred``, or the network's own with the number of the level."""
        return [name or "pred" for name, _ in _named(self.core(image))]


def export_model(
    network: nn.Module, example: Tensor, file: str | Path, format: str = "torchscript", tolerance: float = 1e-4
) -> dict[str, Any]:
    """Write a network to a file that runs without this project, if it computes the same there.

    The file is read back and compared with the network on the example, on another number of images and on images of
    another size. What differs by more than the tolerance is not kept.

    Args:
        network: anything that :class:`Exportable` takes; it is not changed.
        example: images ``[B, C, *spatial]`` as the network expects them.
        file: where to write; an existing file is replaced only by one that passed the comparison.
        format: "torchscript" (a trace) or "onnx" (needs onnx, onnxscript and onnxruntime).
        tolerance: largest difference, as a share of the largest output (of 1, if that is smaller).

    Returns:
        JSON-able facts: ``format``, ``file``, names of ``inputs`` and ``outputs``, ``difference`` (largest absolute one
        on "example", "batch" and "size") and ``fixed`` (those of "batch" and "size" that the file refuses to vary).

    Raises:
        ValueError: for an unknown format, a network that cannot be exported, or an export that computes other values.
        ImportError: if a package that the format needs is missing.
    """
    if format not in SUFFIXES:
        raise ValueError(f"format must be one of {', '.join(SUFFIXES)}, got {format!r}.")
    own = Exportable(copy.deepcopy(network).cpu()).eval()
    image = (example.as_tensor() if isinstance(example, MetaTensor) else example).detach().float().cpu()
    names = own.names(image)
    save, load = {"torchscript": (_save_torchscript, _load_torchscript), "onnx": (_save_onnx, _load_onnx)}[format]
    facts: dict[str, Any] = {}

    def write(target: Path) -> None:
        save(own, _to_trace(own, image), target, names)
        facts.update(_compare(own, load(target), image, tolerance))

    write_atomically(file, write)
    logger.info("%s: equal to the network within %.1e.", file, max(facts["difference"].values()))
    return {"format": format, "file": Path(file).name, "inputs": ["image"], "outputs": names, **facts}


def _named(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, each in pairs:
        yield from _named(each, f"{name}_{key}" if name else str(key))


def _save_torchscript(own: nn.Module, image: Tensor, target: Path, _: Sequence[str]) -> None:
    with _quiet("TorchScript"), torch.no_grad():
        torch.jit.trace(own, image, check_trace=False).save(str(target))


def _load_torchscript(target: Path) -> Run:
    loaded = torch.jit.load(str(target), map_location="cpu")
    return lambda image: _as_list(loaded(image))


def _save_onnx(own: nn.Module, image: Tensor, target: Path, names: Sequence[str]) -> None:
    _require("onnx", "onnxscript", "onnxruntime")
    free = {axis: torch.export.Dim.AUTO for axis in range(image.ndim) if axis != 1}
    with _quiet("ONNX"), torch.no_grad():
        torch.onnx.export(
            own,
            (image,),
            str(target),
            dynamo=True,
            input_names=["image"],
            output_names=list(names),
            dynamic_shapes=(free,),
            external_data=False,
            verbose=False,
        )


def _load_onnx(target: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    return lambda image: [torch.from_numpy(value) for value in session.run(None, {"image": image.numpy()})]


@torch.no_grad()
def _compare(own: nn.Module, other: Run, image: Tensor, tolerance: float) -> dict[str, Any]:
    difference: dict[str, float] = {}
    fixed: list[str] = []
    for what, each in _inputs(own, image).items():
        wanted = _as_list(own(each))
        try:
            found = other(each)
        except Exception as error:  # whatever a runtime raises for a shape that it does not take
            if what == "example":
                raise ValueError(f"The exported file does not run: {_first_line(error)}") from error
            logger.warning("The exported file takes no other %s than that of the example.", what)
            fixed.append(what)
            continue
        difference[what] = _difference(wanted, found, what, tolerance)
    return {"difference": difference, "fixed": fixed}


def _inputs(own: nn.Module, image: Tensor) -> dict[str, Tensor]:
    step = _stride(own)
    generator = torch.Generator().manual_seed(0)
    batch = (len(image) + 1, *image.shape[1:])
    size = (1, image.shape[1], *(side + step * (axis + 1) for axis, side in enumerate(image.shape[2:])))
    return {
        "example": image,
        "batch": torch.rand(batch, generator=generator),
        "size": torch.rand(size, generator=generator),
    }


def _to_trace(own: nn.Module, image: Tensor) -> Tensor:
    """Two images with two voxels on the coarsest map, at least: the exporters take what has length 1 for constant."""
    sides = [max(side, 2 * _stride(own)) for side in image.shape[2:]]
    shape = (max(len(image), 2), image.shape[1], *sides)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _stride(own: nn.Module) -> int:
    return max((module.strides[-1] for module in own.modules() if isinstance(module, Encoder)), default=16)


def _difference(wanted: Sequence[Tensor], found: Sequence[Tensor], what: str, tolerance: float) -> float:
    shapes = [tuple(value.shape) for value in wanted], [tuple(value.shape) for value in found]
    if shapes[0] != shapes[1]:
        raise ValueError(f"The exported file gives other shapes ({what}): {shapes[1]} instead of {shapes[0]}.")
    difference = max(float((mine - theirs).abs().max()) for mine, theirs in zip(wanted, found, strict=True))
    limit = tolerance * max(1.0, *(float(value.abs().max()) for value in wanted))
    if not difference <= limit:
        raise ValueError(
            f"The exported file computes other values ({what}): they differ by {difference:.2e}, allowed are "
            f"{limit:.2e}. It was not kept. Try the other format, or allow more with --tolerance."
        )
    return difference


def _as_list(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _require(*packages: str) -> None:
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ImportError(f"Export to ONNX needs {', '.join(packages)}: pip install {package}") from error


@contextmanager
def _quiet(format: str) -> Iterator[None]:
    """Leave out what exporters print, and say in one line what they cannot do."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            raise ValueError(f"The network cannot be exported to {format}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
