# SPDX-License-Identifier: Apache-2.0
"""Two-tower models in open_clip's published layout, from a local folder and nothing else."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from custom.localizers.pretrained import has_vocabulary, tokenizer_problem
from custom.localizers.vision_language.towers import TimmTower

CONFIG = "open_clip_config.json"
BERT_HEAD = 64  # channels of an attention head, in every published BERT


class OpenClipModel:
    """A frozen open_clip model of a timm vision transformer and a BERT, with its tokenizer.

    Published repositories of this kind name their BERT by a hub id, and do not hold its ``config.json``. Sizes are
    therefore read from the weights, and no network is asked.

    - ``tower``: the picture tower; ``size``: side of its input.
    - ``logit_scale``: the factor from cosines to log-odds that the model was trained with.

    Args:
        folder: with ``open_clip_config.json``, the weights and the tokenizer's files; see :func:`tokenizer_folder`.
        device: where the model goes.

    Raises:
        ValueError: if a file is missing or cannot be read, or the towers are of other kinds.
    """

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        self.folder, self.device = Path(folder), device
        config = _read_config(self.folder)
        model = _load(self.folder, config)
        self.tower = TimmTower(model.visual.to(device))
        self._text = model.text.to(device).eval().requires_grad_(False)
        self._tokenizer = _tokenizer(self.folder, self._text.vocab_size)
        self._context = int(config["text_cfg"].get("context_length", 77))
        self.size = int(model.visual.image_size[0])
        self.logit_scale = float(model.logit_scale.detach().exp())
        preprocess = model.visual.preprocess_cfg
        self._mean, self._std = (torch.tensor(preprocess[key]).view(3, 1, 1).to(device) for key in ("mean", "std"))
        self._mode = str(preprocess["interpolation"])

    def prepare(self, squares: Tensor) -> Tensor:
        """From square pictures ``[N, 3, A, A]`` in [0, 1] to the tower's input ``[N, 3, size, size]``."""
        size = (self.size, self.size)
        mode = self._mode if self._mode in ("bilinear", "bicubic") else "bicubic"
        resized = F.interpolate(squares.to(self.device), size=size, mode=mode, antialias=True).clamp(0, 1)
        return (resized - self._mean) / self._std

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Features of phrases, ``[P, D]``."""
        tokens = self._tokenizer(list(prompts), context_length=self._context).to(self.device)
        # Padding is masked in the attention: leaving it out changes nothing but the time.
        longest = int(tokens.ne(self._tokenizer.tokenizer.pad_token_id).sum(dim=1).max())
        with torch.no_grad():
            return self._text(tokens[:, :longest]).float()


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / CONFIG} is missing or not open_clip's ({type(error).__name__}): copy the whole folder."
        ) from error
    if "timm_model_name" not in config.get("vision_cfg", {}) or "hf_model_name" not in config.get("text_cfg", {}):
        raise ValueError(f"{folder / CONFIG}: the model must have a timm picture tower and a BERT text tower.")
    return dict(config)


def _load(folder: Path, config: Mapping[str, Any]) -> Any:
    """The model with its weights; open_clip finds the text tower's configuration in a folder instead of on the hub."""
    import open_clip

    with tempfile.TemporaryDirectory() as scratch:
        bert = folder
        if not (folder / "config.json").is_file():
            bert = Path(scratch)
            _bert_config(_shapes(folder), folder).save_pretrained(bert)
        text = {**config["text_cfg"], "hf_model_name": str(bert), "hf_model_pretrained": False}
        name = f"local-dir:{folder}"
        return _readable(
            folder, lambda: open_clip.create_model(name, text_cfg=text, require_pretrained=True, weights_only=True)
        )


def tokenizer_folder(folder: Path) -> Path:
    """Return where the tokenizer lies: beside the weights or, as open_clip itself leaves it, in the hub's local cache.

    open_clip takes it from the repository that its config names ``hf_tokenizer_name``.

    Raises:
        ValueError: if it is in neither place.
    """
    from huggingface_hub import snapshot_download

    if has_vocabulary(folder):
        return folder
    name = str(_read_config(folder)["text_cfg"].get("hf_tokenizer_name", ""))
    try:
        found = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # the hub's client has a dozen types for "not there"
        found = folder
    if not has_vocabulary(found):
        raise ValueError(
            f"{folder}: the tokenizer cannot be read; it needs tokenizer.json or vocab.txt, and tokenizer_config.json, "
            f"from the published folder (open_clip's own, {name!r}, is not in the hub's local cache either)."
        )
    return found


def _readable(folder: Path, read: Callable[[], Any]) -> Any:
    """What ``read`` returns; ValueError for files that are cut off, or of another model."""
    try:
        return read()
    except Exception as error:  # libraries raise a dozen types
        raise ValueError(f"{folder}: it cannot be read ({type(error).__name__}: {error}).") from error


def _tokenizer(folder: Path, words: int) -> Any:
    from open_clip.tokenizer import HFTokenizer

    text, where = _read_config(folder)["text_cfg"], tokenizer_folder(folder)
    options = {"tokenizer_mode": text.get("tokenizer_mode"), **text.get("tokenizer_kwargs", {})}
    tokenizer = _readable(where, lambda: HFTokenizer(str(where), local_files_only=True, **options))
    problem = tokenizer_problem(tokenizer.tokenizer, words)
    if problem:
        raise ValueError(f"{where}: {problem}.")
    return tokenizer


def _bert_config(shapes: Mapping[str, Sequence[int]], folder: Path) -> Any:
    """The configuration of a BERT from the shapes of its weights; all else is as in every published BERT."""
    from transformers import BertConfig

    start = "text.transformer."
    try:
        vocabulary, width = shapes[f"{start}embeddings.word_embeddings.weight"]
        positions = shapes[f"{start}embeddings.position_embeddings.weight"][0]
        kinds = shapes[f"{start}embeddings.token_type_embeddings.weight"][0]
        inner = shapes[f"{start}encoder.layer.0.intermediate.dense.weight"][0]
    except KeyError as error:
        raise ValueError(f"{folder}: the text tower is no BERT, its weights lack {error}.") from error
    layers = {found[1] for name in shapes if (found := re.match(rf"{re.escape(start)}encoder\.layer\.(\d+)\.", name))}
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // BERT_HEAD),
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=kinds,
    )


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that open_clip will choose, without reading them all."""
    from open_clip.factory import _find_checkpoint_in_dir

    file = _find_checkpoint_in_dir(folder)
    if file is None:
        raise ValueError(f"{folder} holds no weights that open_clip reads (*.safetensors, *.bin, *.pth).")
    return _readable(folder, lambda: _shapes_in(file))


def _shapes_in(file: str) -> dict[str, tuple[int, ...]]:
    if file.endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(file, framework="pt") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return {name: tuple(value.shape) for name, value in state.get("state_dict", state).items()}
