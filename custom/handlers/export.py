# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run leaves behind: the encoder, and what to do with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai
import torch
from ignite.engine import Engine, Events

from custom.handlers.run_settings import RunSettings
from custom.networks import EncoderSpec, MaskedImageModel, save_encoder

logger = logging.getLogger(__name__)


class EncoderExport:
    """Write ``encoder.safetensors`` and ``encoder.json`` when training ends, and say what to do next.

    Args:
        file: where the weights go; the JSON file lies beside it.
        network: the pretrained network; its encoder is written, its decoder discarded.
        spec: how the encoder was built.
        info: facts to keep in the JSON file (prompt, masking, image size, ...); the epoch and versions are added.
        next_step: the line that tells the user how to go on.
        settings: of the run; if they changed when it was resumed, their history is kept, too.
    """

    def __init__(
        self,
        file: str | Path,
        network: MaskedImageModel,
        spec: EncoderSpec,
        info: Mapping[str, Any] | None = None,
        next_step: str = "",
        settings: RunSettings | None = None,
    ) -> None:
        self.file = Path(file)
        self.network = network
        self.spec = spec
        self.info = dict(info or {})
        self.next_step = next_step
        self.settings = settings

    def attach(self, engine: Engine) -> None:
        """Write when training is complete."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the encoder as it is now."""
        history = self.settings.as_info() if self.settings is not None else {}
        versions = {"torch": torch.__version__, "monai": monai.__version__}
        save_encoder(
            self.file,
            self.network.encoder,
            self.spec,
            {**self.info, **history, "epochs": engine.state.epoch, "versions": versions},
        )
        logger.info("Encoder written to %s after %d epochs. %s", self.file, engine.state.epoch, self.next_step)
