# SPDX-License-Identifier: Apache-2.0
"""Weights from elsewhere: found in a file under whatever names, matched with an encoder's, and reported.

What is understood: state dicts under the names of the encoder's own network, at any depth of a checkpoint (PyTorch,
MONAI bundles and FlexibleUNets, Lightning, SparK, this project's ``model.pt`` and training checkpoints); ImageNet
ResNets of torchvision and timm, whose names are those of MONAI's ResNets; ResNets saved as a sequence (RadImageNet,
MONAI's ``TorchVisionFCModel``); MedicalNet's ResNets; nnU-Net's residual encoders (also nnssl's, which are of the same
class), with an encoder of :mod:`custom.networks.nnunet`. What is not: the plain U-Nets of nnU-Net and the STU-Net of
AnatoMask. The way out, to other libraries, is :mod:`custom.networks.key_maps`.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.networks import nets
from monai.networks.nets.resnet import get_medicalnet_pretrained_resnet_args
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

NNUNET_PREFIX = "network_weights."  # before the names in a checkpoint of nnU-Net
OWN_BEST = "best_model.weights."  # in training checkpoints of this project's tasks: the best epoch's, beside the last's
LEAST_SHARE = 0.9  # of an encoder's weights must be in a file: less is another network, or another form of it
_SEQUENCE = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
# A layer of nnU-Net runs `all_modules`; `conv` and `norm` are other names of the same, or, in files of nnssl's SparK,
# whose conversion makes the two apart, copies that are never run and stay as they began.
_RUN = "all_modules"
_NNUNET_LAYER = re.compile(r"(?P<block>.*\.)(?P<layer>conv|norm)\.(?P<name>[^.]+)")
_NNUNET = re.compile(r"(stages\.\d+\.(0\.)?(blocks|convs)|conv_blocks_context)\.\d+")


@dataclass(frozen=True)
class KeyReport:
    """How well weights from a file fitted a network.

    Attributes:
        matched: names of the network whose values are in the file.
        missing: names of the network whose values are not.
        unexpected: names in the file, beside the matched ones, that the network does not have, or in another shape.
        prefix: what stands before the network's names in the file, e.g. ``state_dict.module.``.
        adapted: what was made to fit, and how.
        elsewhere: how many tensors of the file have another prefix (heads, decoders, the optimizer's).
        share: of the network's weights that are in the file, counted in numbers, 0 to 1.
        rivals: prefixes under which the file has the network with other values.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    prefix: str = ""
    adapted: tuple[str, ...] = ()
    elsewhere: int = 0
    share: float = 1.0
    rivals: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{len(self.matched)} keys matched ({self.share:.1%} of the weights)",
            f"{len(self.missing)} missing {_some(self.missing)}".rstrip(),
            f"{len(self.unexpected)} unexpected {_some(self.unexpected)}".rstrip(),
            f"{self.elsewhere} outside the prefix {self.prefix!r}" if self.prefix else "",
            f"adapted: {'; '.join(self.adapted)}" if self.adapted else "",
        ]
        return ", ".join(part for part in parts if part)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values for ``metrics.json``; of the matched keys, only how many."""
        return {
            "matched": len(self.matched),
            "share": self.share,
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "prefix": self.prefix,
            "elsewhere": self.elsewhere,
            "adapted": list(self.adapted),
        }


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return all tensors of a file under dotted names, whatever they are nested in; nothing in it is executed.

    Args:
        path: ``.safetensors``, or a file of ``torch.save`` (read with ``weights_only=True``).

    Raises:
        ValueError: if it cannot be read, or holds no tensor.
    """
    path = Path(path)
    try:
        is_safetensors = path.suffix == ".safetensors"
        content = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: is damaged, or holds more than tensors and plain values, so that reading it could run code "
            f"({_first_line(error)}). If you trust it, save its state dict alone: torch.save(model.state_dict(), file)."
        ) from error
    except (OSError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as weights ({error}). Is the file complete?") from error
    tensors = dict(_flat(content))
    if not tensors:
        raise ValueError(f"{path}: holds no weights.")
    return tensors


def match_weights(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], in_channels: int | None = None
) -> tuple[dict[str, Tensor], KeyReport]:
    """Find a network's weights among the tensors of a file.

    The prefix under which most of the network's names stand is searched. The first convolution may have been trained on
    another number of channels: from colour to grey its weights are summed over the channels, which is what it computes
    of a grey picture shown in all of them; from grey to colour they are divided by the number of channels.

    Args:
        found: of :func:`read_tensors`.
        wanted: the network's state dict (values on the meta device will do).
        in_channels: channels of the image, by which the first convolution is known; None: nothing is adapted.

    Returns:
        The weights that fit, under the network's names, and the report.
    """
    rename, prefix, others = _best_naming(found, wanted)
    fitting: dict[str, Tensor] = {}
    adapted: list[str] = []
    used: set[str] = set()
    stale = 0
    for name, own in wanted.items():
        key = prefix + rename(name)
        run = _key_that_is_run(key, found)
        value = found.get(run)
        stale += run != key and key in found and not _equal(found[key], found[run])
        if value is not None and value.shape != own.shape:
            value, change = _adapt_channels(value, own, in_channels)
            adapted += [f"{name}: {change}"] if value is not None else []
        if value is not None:
            fitting[name] = value
            used |= {key, run}
    if stale:
        adapted.append(f"{stale} weights under {_RUN}, which the network runs: their copies under conv and norm differ")
    if fitting and any(name.startswith(NNUNET_PREFIX) for name in found):
        fitting = reverse_axes(fitting)
        adapted.append("axes reversed: nnU-Net's arrays are [Z, Y, X]")
    total = sum(value.numel() for value in wanted.values())
    here = [name for name in found if name.startswith(prefix)]
    report = KeyReport(
        matched=tuple(fitting),
        missing=tuple(name for name in wanted if name not in fitting),
        unexpected=tuple(name.removeprefix(prefix) for name in here if name not in used),
        prefix=prefix,
        adapted=tuple(adapted),
        elsewhere=len(found) - len(here),
        share=sum(value.numel() for value in fitting.values()) / max(total, 1),
        rivals=tuple(other for other in others if _differs(found, [rename(name) for name in wanted], prefix, other)),
    )
    return fitting, report


def spread_channels(kernel: Tensor, channels: int) -> Tensor:
    """A first convolution ``[out, 1, *kernel]`` for ``channels`` channels: the same of grey shown in all of them."""
    return kernel.expand(-1, channels, *kernel.shape[2:]) / channels


def reverse_axes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the axes of all kernels around: ``[out, in, X, Y, Z]`` to ``[out, in, Z, Y, X]``; its own inverse.

    With them a network computes of an image with reversed axes what it computed before, with reversed axes. Scans here
    are ``[C, X, Y, Z]`` and pictures ``[C, X, Y]``, as MONAI reads them; nnU-Net's are ``[C, Z, Y, X]``, and pictures
    of torchvision and timm ``[C, row, column]``.
    """
    return {
        name: value.permute(0, 1, *range(value.ndim - 1, 1, -1)).contiguous() if value.ndim > 3 else value
        for name, value in weights.items()
    }


def check_match(path: str | Path, report: KeyReport, found: Mapping[str, Tensor], owner: str) -> None:
    """Refuse weights of another network.

    Args:
        path: the file, for the message.
        report: of :func:`match_weights`.
        found: the file's tensors.
        owner: name of the network.

    Raises:
        ValueError: if less than ``LEAST_SHARE`` of the network's weights are in the file, or several copies of them
            that differ.
    """
    if report.rivals:
        places = ", ".join(map(repr, (report.prefix, *report.rivals)))
        raise ValueError(
            f"{path}: holds {owner} several times, under {places}, with other values, and which of them was trained is "
            "not known. Save the one that you mean in a file of its own."
        )
    if report.share >= LEAST_SHARE:
        return
    what = "no key fits" if not report.matched else f"only {report.share:.0%} of the weights fit"
    hint = "Are these weights of another network? Choose the one that they belong to with --backbone"
    if any(_NNUNET.search(name) for name in found):
        hint = (
            "They look like nnU-Net's or STU-Net's. Those of nnU-Net's residual encoders fit --backbone "
            "nnunet_resenc_m_3d, or a file with the features and blocks of their plan; others cannot be used"
        )
    raise ValueError(f"{path}: {what} {owner}: {report}. {hint}.")


def medicalnet_resnet(depth: int, **arguments: Any) -> nn.Module:
    """Build the ResNet of MONAI whose names and shapes are those of MedicalNet's weights.

    MedicalNet (Chen et al., Med3D, 2019) pretrained ResNets on 23 sets of volumes. Its ResNet-18 and 34 have shortcuts
    without weights ("type A": every second voxel, padded with zero channels). MONAI computes these in a way that
    ``torch.fx`` cannot trace and that stops the gradient; here they are a module without parameters. As in MONAI, the
    last two stages down-sample, where MedicalNet's own code dilates: the weights are the same.

    Args:
        depth: 10, 18, 34, 50, 101, 152 or 200.
        arguments: further ones of MONAI's ``resnet<depth>``: spatial_dims, n_input_channels, widen_factor, ...
    """
    bias, shortcut = get_medicalnet_pretrained_resnet_args(depth)
    build = getattr(nets, f"resnet{depth}")
    network = build(
        **{"conv1_t_stride": 2, "feed_forward": False, **arguments}, bias_downsample=bias, shortcut_type=shortcut
    )
    for module in list(network.modules()):
        if isinstance(getattr(module, "downsample", None), partial):
            options = module.downsample.keywords
            growth = options["planes"] // module.conv1.in_channels
            del module.downsample
            module.downsample = ZeroPaddedShortcut(options["spatial_dims"], options["stride"], growth)
    return network


class ZeroPaddedShortcut(nn.Module):
    """Every ``stride``-th voxel, followed by channels of zeros: shortcut "A" of He et al., 2016.

    It consists of operations that sparse pretraining knows.

    Args:
        spatial_dims: 2 or 3.
        stride: of the block.
        growth: how many times more channels the block's output has.
    """

    def __init__(self, spatial_dims: int, stride: int, growth: int) -> None:
        super().__init__()
        self.growth = growth
        self.pool = (nn.AvgPool2d if spatial_dims == 2 else nn.AvgPool3d)(1, stride)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, C, *spatial]`` to ``[B, growth * C, *spatial / stride]``."""
        pooled = self.pool(image)
        return torch.cat([pooled] + [pooled * 0] * (self.growth - 1), dim=1)


def _flat(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))


def _best_naming(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[Callable[[str], str], str, list[str]]:
    """How the file calls the network's weights: a renaming, what stands before, and before further copies of them."""
    best: tuple[Callable[[str], str], str, list[str]] = (str, "", [])
    most = 0
    for rename in (str, _in_sequence):
        known = {rename(name): value for name, value in wanted.items()}
        counts = Counter(prefix for key, value in found.items() for prefix in _prefixes(key, value, known))
        if counts and (top := max(counts.values())) > most:
            most = top
            prefix = min((each for each, count in counts.items() if count == top), key=len)
            copies = [each for each, count in counts.items() if count >= LEAST_SHARE * top and each != prefix]
            best = rename, prefix, [each for each in copies if not each.startswith(OWN_BEST)]
    return best


def _key_that_is_run(key: str, found: Mapping[str, Tensor]) -> str:
    """The name, in the file, of the weight that a layer of nnU-Net runs; other names stay as they are."""
    match = _NNUNET_LAYER.fullmatch(key)
    if match is None:
        return key
    places = (0,) if match["layer"] == "conv" else (1, 2, 3)  # dropout or an activation may stand before the norm
    names = (f"{match['block']}{_RUN}.{place}.{match['name']}" for place in places)
    return next((name for name in names if name in found), key)


def _differs(found: Mapping[str, Tensor], names: Sequence[str], prefix: str, other: str) -> bool:
    """Whether a file has weights of the same shapes under two prefixes, and other values."""
    pairs = [[found.get(_key_that_is_run(each + name, found)) for each in (prefix, other)] for name in names]
    known = [(one, two) for one, two in pairs if one is not None]
    copies = [(one, two) for one, two in known if two is not None and one.shape == two.shape]
    return len(copies) >= LEAST_SHARE * len(known) and not all(_equal(one, two) for one, two in copies)


def _equal(one: Tensor, two: Tensor) -> bool:
    return one is two or (one.shape == two.shape and torch.equal(one, two))


def _prefixes(key: str, value: Tensor, known: Mapping[str, Tensor]) -> Iterator[str]:
    starts = [0, *(match.end() for match in re.finditer(r"\.", key))]
    for start in starts:
        own = known.get(key[start:])
        if own is not None and own.ndim == value.ndim:
            yield key[:start]


def _in_sequence(name: str) -> str:
    """The name in a ResNet that was saved as ``nn.Sequential(*resnet.children())``."""
    first, _, rest = name.partition(".")
    return f"{_SEQUENCE.get(first, first)}.{rest}"


def _adapt_channels(value: Tensor, own: Tensor, in_channels: int | None) -> tuple[Tensor | None, str]:
    """Fit the first convolution ``[out, channels, *kernel]`` to the image's channels, if nothing else differs."""
    is_first = value.ndim == own.ndim > 2 and own.shape[1] == in_channels
    if in_channels is None or not is_first or value.shape[:1] + value.shape[2:] != own.shape[:1] + own.shape[2:]:
        return None, ""
    if in_channels == 1:
        return value.sum(dim=1, keepdim=True), f"summed over its {value.shape[1]} channels"
    if value.shape[1] == 1:
        return spread_channels(value, in_channels), f"spread over {in_channels} channels"
    return None, ""


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


def _some(names: Sequence[str], limit: int = 4) -> str:
    return f"({', '.join(sorted(names)[:limit])}{', …' if len(names) > limit else ''})" if names else ""
