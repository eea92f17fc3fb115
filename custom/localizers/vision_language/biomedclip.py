# SPDX-License-Identifier: Apache-2.0
"""BiomedCLIP: saliency of a picture for a phrase."""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from custom.localizers.pictures import PictureLocalizer, default_device
from custom.localizers.pretrained import (
    MissingWeightsError,
    PretrainedModel,
    find_weights,
    how_to_get,
    weights_digest,
)
from custom.localizers.vision_language.bottleneck import InformationBottleneck
from custom.localizers.vision_language.gradient import GradientSaliency
from custom.localizers.vision_language.open_clip_model import OpenClipModel, tokenizer_folder
from custom.localizers.vision_language.scale import SCALES, evidence, log_odds, stretch
from custom.localizers.vision_language.towers import check_layer, features_of
from custom.localizers.windows import AUTO, PictureWindow

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

VERSION = 1  # raise it whenever the same weights and settings give other maps

BIOMEDCLIP = PretrainedModel(
    repo_id="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    revision="9f341de24bfb00180f1b847274256e9b65a3a32e",
    licence="MIT",
    megabytes=784,
    files=(
        "open_clip_config.json",
        "open_clip_pytorch_model.bin",
        "open_clip_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
    ),
)


class BiomedClipLocalizer(PictureLocalizer):
    """What the two BiomedCLIP localizers share: the model, its pictures and phrases, and the scale of the maps.

    Weights: ``microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224`` at 9f341de (Zhang et al., NEJM AI 2024), MIT
    licence, 784 MB; a ViT-B/16 and a BERT-base through open_clip. Any folder of the same layout will do, for example of
    fine-tuned weights. Input 224 x 224 px (pictures are padded with black to a square, so nothing is cut off), maps on
    14 x 14 patches, prompts of up to 256 word pieces.

    The map is ``evidence * stretch(saliency)``. The evidence, in [0, 1), says how much the picture speaks for the
    prompt (:func:`~custom.localizers.vision_language.scale.evidence`); the stretch is the published one from the least
    to the most salient place, but differences below a floor stay small. So where the evidence is 1 the published
    thresholds mean what they meant, and a picture that is constant, or speaks against the prompt, gives zero, at next
    to no cost. How well the evidence tells present from absent concepts depends on the weights and the null prompt.

    Args:
        source: folder with the weights, or hub id; None: the published model, from the hub's local cache.
        download: fetch missing weights from the hub.
        scale: ``evidence``; ``minmax``: stretched to [0, 1] whatever there is to see, as published, to compare with.
        null_prompt: what the prompt is weighed against; it should fit every scan.
        device: None: the GPU if there is one.
        mixed_precision: matrix products in float16, on a GPU.
        window: grey values of a scan that become black and white: ``(low, high)``; None: percentiles; ``auto``: see
            :class:`~custom.localizers.windows.PictureWindow`.

    Raises:
        MissingWeightsError: if the weights are not there.
        ValueError: for wrong settings, or weights of another kind.
    """

    def __init__(
        self,
        source: str | Path | None,
        download: bool,
        scale: str,
        null_prompt: str,
        device: str | torch.device | None,
        mixed_precision: bool,
        window: Any,
    ) -> None:
        if scale not in SCALES:
            raise ValueError(f"scale is one of {', '.join(SCALES)}, received {scale!r}.")
        self.scale, self.null_prompt, self.window = scale, null_prompt, PictureWindow(window)
        self.device = default_device(device)
        self._mixed = mixed_precision and self.device.type == "cuda"
        self.folder, self.source = find_weights(BIOMEDCLIP, source, download), source
        self._complete(tokenizer_folder)
        self._texts: dict[str, Tensor] = {}
        self._zeroed: set[str] = set()

    @property
    def when_empty(self) -> tuple[str, str] | None:
        """Option and value to try where nothing is found: evidence rests on one null phrase and a black picture."""
        return ("scale", "minmax") if self.scale == "evidence" else None

    @abstractmethod
    def saliency(self, tokens: Tensor, texts: Tensor, wanted: Tensor) -> Tensor:
        """Saliency of each token, ``[N, P, T]``: of tokens behind ``layer``, ``[N, T, C]``, for texts ``[P, D]``.

        Anything is right where it is not ``wanted`` (boolean, ``[N, P]``).
        """

    @property
    @abstractmethod
    def layer(self) -> int:
        """Block behind which tokens are judged."""

    @abstractmethod
    def floor(self, tokens: Tensor) -> float:
        """Difference in saliency below which a map is not stretched to the full range."""

    def describe(self) -> dict[str, Any]:
        """Return weights and settings; see :class:`custom.localizers.base.Localizer`."""
        null = {"null_prompt": self.null_prompt} if self.scale == "evidence" else {}
        return {
            "name": "biomedclip",
            "version": VERSION,
            "weights": weights_digest(self.folder),
            "precision": "float16" if self._mixed else "float32",
            "scale": self.scale,
            **null,
            **self.window.describe(),
        }

    def localize_pictures(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """Find what each prompt names in each picture; see :class:`custom.localizers.pictures.PictureLocalizer`."""
        maps = pictures.new_zeros(len(pictures), len(prompts), *pictures.shape[2:])
        # A constant picture shows nothing; the empty slices of a volume cost nothing.
        shown = pictures.flatten(1).amax(dim=1) > pictures.flatten(1).amin(dim=1)
        if bool(shown.any()) and prompts:
            with torch.autocast(self.device.type, torch.float16, enabled=self._mixed):
                maps[shown] = self._maps(pictures[shown], prompts).to(maps)
        return maps

    def _maps(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        squares, (top, left) = _squared(pictures)
        tokens, texts = self._tokens(squares), self._encode(prompts)
        minmax = self.scale == "minmax"
        level = tokens.new_ones(len(tokens), len(texts)) if minmax else self._evidence(tokens, prompts)
        salient = self.saliency(tokens, texts, level > 0)[:, :, self._model.tower.extra :]
        whole = F.interpolate(salient.unflatten(2, self._model.tower.grid), size=squares.shape[2:], mode="bilinear")
        maps = whole[:, :, top : top + pictures.shape[2], left : left + pictures.shape[3]]
        return stretch(maps, 0 if minmax else self.floor(tokens)) * level[:, :, None, None]

    def _evidence(self, tokens: Tensor, prompts: Sequence[str]) -> Tensor:
        pictures, blank = (features_of(self._model.tower, each, self.layer) for each in (tokens, self._blank))
        features = (pictures, blank, self._encode(prompts), self._encode([self.null_prompt]))
        with torch.autocast(self.device.type, enabled=False):  # it is small differences that count
            level = evidence(*features, self._model.logit_scale)
            odds = log_odds(*features, self._model.logit_scale)
        for prompt, against in zip(prompts, odds.masked_fill(level > 0, torch.nan).T, strict=True):
            self._log_zeros(prompt, against)
        return level

    def _log_zeros(self, prompt: str, odds: Tensor) -> None:
        """Say once a phrase, then for debugging, why its maps are zero; ``odds`` ``[N]`` are NaN where they are not."""
        zeros = odds[odds.isfinite()]
        if not len(zeros) or prompt == self.null_prompt:
            return
        logger.log(
            logging.DEBUG if prompt in self._zeroed else logging.WARNING,
            "%r: the map is zero in %d of %d pictures, which speak for it no more than for %r (log-odds %.2f to %.2f). "
            "If it is there to be seen, try {scale: minmax}, which maps every picture.",
            prompt, len(zeros), len(odds), self.null_prompt, float(zeros.min()), float(zeros.max()),
        )  # fmt: skip
        self._zeroed.add(prompt)

    def _tokens(self, squares: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [self._model.tower.prefix(self._model.prepare(part), self.layer) for part in squares.split(64)]
        return torch.cat(parts).float()

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        """Features of prompts; each phrase is read once."""
        for prompt in prompts:
            if prompt not in self._texts:
                self._texts[prompt] = self._model.encode([prompt])[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def _complete(self, read: Callable[[Path], Read]) -> Read:
        """Read from the folder; MissingWeightsError, with what to run, if it lacks something."""
        try:
            return read(self.folder)
        except (OSError, ValueError) as error:
            is_given = self.source is not None and Path(self.source).expanduser().is_dir()
            advice = how_to_get(BIOMEDCLIP, str(self.folder) if is_given else "FOLDER")
            raise MissingWeightsError(f"{error} {advice}") from error

    @functools.cached_property
    def _model(self) -> OpenClipModel:
        model = self._complete(lambda folder: OpenClipModel(folder, self.device))
        check_layer(self.layer, model.tower)
        return model

    @functools.cached_property
    def _blank(self) -> Tensor:
        """Tokens of a black picture."""
        return self._tokens(torch.zeros(1, 3, self._model.size, self._model.size))


class BiomedClipBottleneck(BiomedClipLocalizer):
    """BiomedCLIP and the information bottleneck M2IB, the path of the paper; see :class:`InformationBottleneck`.

    Memory: 0.8 GB for the weights, and behind layer 7 in float32 0.03 GB for each noisy picture of a batch.

    Args:
        source: see :class:`BiomedClipLocalizer`.
        download: likewise.
        beta: weight of compression.
        layer: block behind which the bottleneck sits, from 0.
        steps: of the optimiser.
        draws: of noise, each step.
        lr: learning rate.
        seed: of the noise.
        batch_size: how many noisy pictures go through the network at once; None: 10, on a GPU 320.
        scale: see :class:`BiomedClipLocalizer`.
        floor: nats a channel by which places must differ to be stretched to the full range. A token holds more than 4.5
            nats a channel while the bottleneck is open, and 0.0003 where ten steps have closed it (on activations of
            unit variance half as much again): 0.1 lies between, so what remains of a closed bottleneck is no map.
        null_prompt: see :class:`BiomedClipLocalizer`.
        device: likewise.
        mixed_precision: likewise.
        window: likewise.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        download: bool = False,
        beta: float = 0.1,
        layer: int = 7,
        steps: int = 10,
        draws: int = 10,
        lr: float = 1.0,
        seed: int = 0,
        batch_size: int | None = None,
        scale: str = "evidence",
        floor: float = 0.1,
        null_prompt: str = "medical image",
        device: str | torch.device | None = None,
        mixed_precision: bool = True,
        window: Any = AUTO,
    ) -> None:
        super().__init__(source, download, scale, null_prompt, device, mixed_precision, window)
        if floor < 0:
            raise ValueError(f"floor must not be negative, received {floor}.")
        self.bottleneck = InformationBottleneck(beta, layer, steps, draws, lr, seed, batch_size)
        self.nats = floor

    @property
    def layer(self) -> int:
        """Block behind which the bottleneck sits."""
        return self.bottleneck.layer

    def floor(self, tokens: Tensor) -> float:
        """Nats a token, from nats a channel."""
        return self.nats * tokens.shape[2]

    def saliency(self, tokens: Tensor, texts: Tensor, wanted: Tensor) -> Tensor:
        """Nats of each token, ``[N, P, T]``."""
        return self.bottleneck(self._model.tower, tokens, texts, wanted)

    def describe(self) -> dict[str, Any]:
        """Return weights and settings; see :class:`custom.localizers.base.Localizer`."""
        floor = {"floor": self.nats} if self.scale == "evidence" else {}
        return {**super().describe(), **floor, "saliency": self.bottleneck.describe()}


class BiomedClipGradient(BiomedClipLocalizer):
    """BiomedCLIP and a gradient: one pass forward and one back; see :class:`GradientSaliency`.

    A map whose places differ by less than ``1 / (logit_scale * patches)`` of cosine is not stretched to the full range:
    all patches together would not change the model's odds by a factor of e.

    Args:
        source: see :class:`BiomedClipLocalizer`.
        download: likewise.
        layer: block behind which tokens are judged, from 0; see :class:`GradientSaliency`.
        batch_size: how many pictures go through the network at once; None: 10, on a GPU 320.
        scale: see :class:`BiomedClipLocalizer`.
        null_prompt: likewise.
        device: likewise.
        mixed_precision: likewise.
        window: likewise.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        download: bool = False,
        layer: int = 9,
        batch_size: int | None = None,
        scale: str = "evidence",
        null_prompt: str = "medical image",
        device: str | torch.device | None = None,
        mixed_precision: bool = True,
        window: Any = AUTO,
    ) -> None:
        super().__init__(source, download, scale, null_prompt, device, mixed_precision, window)
        self.gradient = GradientSaliency(layer, batch_size)

    @property
    def layer(self) -> int:
        """Block behind which tokens are judged."""
        return self.gradient.layer

    def floor(self, tokens: Tensor) -> float:
        """Contribution to the cosine by which the odds stay within a factor of e."""
        patches = tokens.shape[1] - self._model.tower.extra
        return 1 / (self._model.logit_scale * patches)

    def saliency(self, tokens: Tensor, texts: Tensor, wanted: Tensor) -> Tensor:
        """Contribution of each token to the cosine, ``[N, P, T]``."""
        return self.gradient(self._model.tower, tokens, texts, self._blank)

    def describe(self) -> dict[str, Any]:
        """Return weights and settings; see :class:`custom.localizers.base.Localizer`."""
        return {**super().describe(), "saliency": self.gradient.describe()}


def _squared(pictures: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Pad ``[N, 3, H, W]`` with black to a square; return it and where the picture starts in it (row, column)."""
    height, width = pictures.shape[2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(pictures, (left, side - width - left, top, side - height - top)), (top, left)
