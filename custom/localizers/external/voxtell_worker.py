# SPDX-License-Identifier: Apache-2.0
"""VoxTell behind :mod:`custom.localizers.external.serve`; run by the Python of an environment that has ``voxtell``."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np


def load(options: dict[str, Any]) -> Callable[[np.ndarray, np.ndarray, list[str]], np.ndarray]:
    """Load VoxTell.

    Args:
        options: ``model_dir``, ``text_encoder``, ``embeddings``, ``download``, ``device``, ``spacing``; see
            :class:`custom.localizers.external.VoxTell`.

    Returns:
        A function from volume ``[X, Y, Z]`` (RAS+, raw intensities), affine and ``P`` prompts to probabilities
        ``[P, X, Y, Z]``.
    """
    if not options["download"]:
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")  # read when voxtell's libraries are imported
    import torch
    from voxtell.inference.predictor import VoxTellPredictor

    predictor = VoxTellPredictor(
        model_dir=options["model_dir"],
        device=torch.device(options["device"] or ("cuda" if torch.cuda.is_available() else "cpu")),
        text_encoding_model=options["text_encoder"],
        embedding_bank=options["embeddings"],
    )

    def localize(volume: np.ndarray, affine: np.ndarray, prompts: list[str]) -> np.ndarray:
        shape = _grid(volume.shape, affine, options["spacing"])
        maps = _probabilities(predictor, _resized(volume[None], shape)[0], prompts)
        return np.clip(_resized(maps, volume.shape), 0, 1)

    return localize


def _probabilities(predictor: Any, volume: np.ndarray, prompts: list[str]) -> np.ndarray:
    import torch

    # VoxTell's reader (NibabelIOWithReorient of nnU-Net) turns scans to RAS+ and hands over [1, Z, Y, X].
    turned = np.ascontiguousarray(volume.transpose(2, 1, 0))[None]
    data, box, shape = predictor.preprocess(turned)
    embeddings = _embedded(predictor, prompts)
    try:
        logits = predictor.predict_sliding_window_return_logits(data, embeddings)
    except RuntimeError as error:
        if not _is_out_of_memory(error) or not predictor.perform_everything_on_device:
            raise
        torch.cuda.empty_cache()
        predictor.perform_everything_on_device = False  # maps of large scans then gather in main memory
        logits = predictor.predict_sliding_window_return_logits(data, embeddings)
    maps = np.zeros((len(prompts), *shape), dtype=np.float32)
    inside = tuple(slice(int(low), int(high)) for low, high in box)  # preprocess cut away the empty border
    for whole, each in zip(maps, logits, strict=True):  # one by one, in main memory: together they would fill a GPU
        whole[inside] = each.cpu().float().sigmoid().numpy()
    return maps.transpose(0, 3, 2, 1)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, also where a thread of VoxTell's hides it: "patch producer thread failed"."""
    while error is not None:
        if "out of memory" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _embedded(predictor: Any, prompts: list[str]) -> Any:
    try:
        return predictor.embed_text_prompts(prompts)
    except OSError as error:  # of the transformers library: the text encoder is not on this machine
        known = predictor.embedding_bank or {}
        new = [prompt for prompt in prompts if prompt.lower() not in known]
        raise RuntimeError(
            f"{new} is not among the {len(known)} precomputed embeddings, and the text encoder that it needs cannot be "
            f"loaded ({error}). Fetch it (8 GB): hf download Qwen/Qwen3-Embedding-4B --local-dir FOLDER, and name it "
            "with the option {text_encoder: FOLDER}; or allow {download: true}."
        ) from error


def _grid(shape: tuple[int, ...], affine: np.ndarray, spacing: Any) -> tuple[int, ...]:
    """The size at which a volume is looked at: its own, or that of voxels of ``spacing`` millimetres."""
    if spacing is None:
        return tuple(shape)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return tuple(max(1, round(count * size / spacing)) for count, size in zip(shape, sizes, strict=True))


def _resized(volumes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if volumes.shape[1:] == tuple(shape):
        return volumes
    import torch
    import torch.nn.functional as F

    tensor = torch.from_numpy(np.ascontiguousarray(volumes, dtype=np.float32))[None]
    return F.interpolate(tensor, size=tuple(shape), mode="trilinear", align_corners=False)[0].numpy()
