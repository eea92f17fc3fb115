# SPDX-License-Identifier: Apache-2.0
"""A published model of the transformers library: found on this machine, loaded once, frozen."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from custom.localizers.pictures import default_device
from custom.localizers.pretrained import (
    MissingWeightsError,
    PretrainedModel,
    find_weights,
    how_to_get,
    tokenizer_problem,
    weights_digest,
)


class Checkpoint:
    """Model and processor in one folder of the layout that the hub uses. Nothing is read before it is needed.

    Args:
        published: the model as published.
        model_class: its class in transformers.
        processor_class: class of what prepares its inputs, likewise.
        source: see :func:`custom.localizers.pretrained.find_weights`.
        download: likewise.
        device: None: the GPU if there is one.
        half: floating point type of matrix products on a GPU; None: float32. On a CPU everything is float32.
    """

    def __init__(
        self,
        published: PretrainedModel,
        model_class: str,
        processor_class: str,
        source: str | Path | None = None,
        download: bool = False,
        device: str | torch.device | None = None,
        half: torch.dtype | None = torch.float16,
    ) -> None:
        self.published, self.model_class, self.processor_class = published, model_class, processor_class
        self.source, self.download, self.half = source, download, half
        self.device = default_device(device)

    def describe(self) -> dict[str, str]:
        """Return the name of the weights and a hash of their content, by which a record tells them apart."""
        folder = self.folder  # raises if they are not there
        name = folder.name if self.source and Path(self.source).expanduser().is_dir() else self.source
        return {"model": str(name or self.published.repo_id), "weights": weights_digest(folder)}

    @property
    def normalization(self) -> list[list[float]] | None:
        """Mean and standard deviation that the folder's own processor takes away from colours; None: it does not."""
        pictures = getattr(self.processor, "image_processor", self.processor)
        return [list(pictures.image_mean), list(pictures.image_std)] if pictures.do_normalize else None

    def half_precision(self) -> AbstractContextManager[Any]:
        """Context in which a GPU multiplies in half precision; on a CPU it changes nothing."""
        enabled = self.device.type == "cuda" and self.half is not None
        return torch.autocast("cuda", dtype=self.half or torch.float16, enabled=enabled)

    @functools.cached_property
    def folder(self) -> Path:
        """Where the model lies.

        Raises:
            MissingWeightsError: if it is not on this machine and may not (or cannot) be downloaded.
        """
        return find_weights(self.published, self.source, self.download)

    @functools.cached_property
    def processor(self) -> Any:
        """Prepares pictures and text.

        Raises:
            MissingWeightsError: see :attr:`folder`; also if files are missing from it, the vocabulary included.
        """
        import transformers

        try:
            processor = getattr(transformers, self.processor_class).from_pretrained(self.folder, local_files_only=True)
            problem = self._tokenizer_problem(processor) if hasattr(processor, "tokenizer") else ""
        except Exception as error:  # of a dozen types, for files that are missing, cut off, or of another model
            raise self._unusable(f"{type(error).__name__}: {error}") from error
        if problem:
            raise self._unusable(problem)
        return processor

    @functools.cached_property
    def model(self) -> Any:
        """The frozen network, on its device.

        Raises:
            MissingWeightsError: see :attr:`folder`; also if the folder holds another kind of model.
        """
        import transformers

        try:
            model, report = getattr(transformers, self.model_class).from_pretrained(
                self.folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # of a dozen types, for files that are missing, cut off, or of another model
            raise self._unusable(f"{type(error).__name__}: {error}") from error
        if report["missing_keys"]:  # transformers would go on with random numbers in their place
            missing = sorted(report["missing_keys"])
            raise self._unusable(f"{len(missing)} of its weights are missing, for example {missing[0]}")
        return model.eval().requires_grad_(False).to(self.device)

    def _tokenizer_problem(self, processor: Any) -> str:
        import transformers

        config = getattr(transformers, self.model_class).config_class.from_pretrained(
            self.folder, local_files_only=True
        )
        return tokenizer_problem(processor.tokenizer, config.get_text_config().vocab_size)

    def _unusable(self, reason: str) -> MissingWeightsError:
        folder = str(self.folder) if self.source and Path(self.source).expanduser().is_dir() else "FOLDER"
        return MissingWeightsError(
            f"{self.folder} cannot be loaded as {self.model_class} ({reason}). Needed are the files "
            f"{', '.join(self.published.files)} as published in https://huggingface.co/{self.published.repo_id}. "
            f"{how_to_get(self.published, folder)}"
        )
