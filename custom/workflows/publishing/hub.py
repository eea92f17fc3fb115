# SPDX-License-Identifier: Apache-2.0
"""`publish.yaml`: the folder that goes to the Hugging Face hub. Nothing is uploaded."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from custom.networks import Encoder, encoder_record, file_hash, load_encoder, save_encoder
from custom.networks.key_maps import NoCounterpartError, to_nnunet, to_torchvision
from custom.networks.weights import recorded_spec
from custom.preprocessing import Preprocessing, encoder_contract
from custom.workflows.packing.checks import machine_paths
from custom.workflows.publishing.card import model_card
from custom.workflows.publishing.loading import is_nnunet, loading_code
from custom.workflows.publishing.record import public_record, realised_ratios, strategy_settings

logger = logging.getLogger(__name__)

_ABOUT = {
    "README.md": "this card",
    "encoder.safetensors": "the weights, under the network's own names",
    "encoder.json": "how the network is built, and the record of pretraining",
    "torchvision.safetensors": "the same for torchvision and timm, without the classifier",
    "nnunet.pth": "the same as a checkpoint for `nnUNetv2_train -pretrained_weights`, with a fresh decoder",
}


class HubFolder:
    """Write a pretrained encoder as a repository of the Hugging Face hub.

    Args:
        encoder: ``encoder.safetensors`` of a pretraining run, ``encoder.json`` beside it.
        output_dir: where the files go; it holds nothing else.
        title: of the model card.
        strategies: folder of the masking strategies' files, to tell their settings.
        dataset: the name by which the data may be called; None: it is not told.
        license_id: of the weights, as the hub writes it.
        tags: further ones for the hub.
        nnunet_classes: of the segmentation for which nnU-Net's decoder is drawn; nnU-Net replaces those layers.
        seed: of that decoder.
    """

    def __init__(
        self,
        encoder: str | Path,
        output_dir: str | Path,
        title: str,
        strategies: str | Path,
        dataset: str | None = None,
        license_id: str = "apache-2.0",
        tags: Sequence[str] = (),
        nnunet_classes: int = 2,
        seed: int = 0,
    ) -> None:
        self.file, self.output_dir = Path(encoder), Path(output_dir)
        self.strategies = strategies
        self.title, self.dataset, self.license_id, self.tags = title, dataset, license_id, list(tags)
        self.nnunet_classes, self.seed = nnunet_classes, seed

    def run(self) -> Path:
        """Do it.

        Returns:
            The folder.

        Raises:
            ValueError: if the encoder is missing, damaged or not the one that its record describes; if the folder holds
                other files; if a path of this machine would be given away.
            OSError: if a file cannot be written.
        """
        record = encoder_record(self.file)
        if record.get("sha256") != file_hash(self.file):
            raise ValueError(
                f"{self.file}: not the file that its JSON record describes. Pretrain again, or find its own."
            )
        encoder = load_encoder(self.file)
        self._check_folder()
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.output_dir.parent) as temporary:
            written = Path(temporary)
            self._fill(written, encoder, record)
            _check_texts(written)
            for name in _ABOUT:
                (self.output_dir / name).unlink(missing_ok=True)
            for path in written.iterdir():
                os.replace(path, self.output_dir / path.name)
        names = ", ".join(sorted(path.name for path in self.output_dir.iterdir()))
        logger.info(
            "%s: %s. Read README.md and encoder.json before you give them away. Then: hf upload USER/NAME %s",
            self.output_dir,
            names,
            self.output_dir,
        )
        return self.output_dir

    def _check_folder(self) -> None:
        there = {path.name for path in self.output_dir.iterdir()} if self.output_dir.is_dir() else set()
        if others := sorted(there - _ABOUT.keys()):
            raise ValueError(
                f"{self.output_dir} holds other files ({', '.join(others[:5])}), which would be uploaded, too. Choose "
                "another --output_dir."
            )

    def _fill(self, folder: Path, encoder: Encoder, record: dict[str, Any]) -> None:
        spec = recorded_spec(self.file.with_suffix(".json"), record["encoder"])
        public = public_record(record, self.dataset)
        save_encoder(folder / "encoder.safetensors", encoder, spec, {**public, "encoder": spec.as_dict()})
        weights = encoder.plain_state_dict()
        if is_nnunet(spec):
            torch.save(to_nnunet(weights, spec, self.nnunet_classes, self.seed), folder / "nnunet.pth")
        else:
            _write_if_any(folder / "torchvision.safetensors", lambda: to_torchvision(weights, spec))
        card = model_card(
            title=self.title,
            license_id=self.license_id,
            tags=self.tags,
            encoder=encoder,
            spec=spec,
            record=public,
            contract=encoder_contract(self.file) or Preprocessing(),
            ratios=realised_ratios(self.file, record.get("epochs")),
            strategy=strategy_settings(self.strategies, public.get("masking")),
            code=loading_code(encoder, spec, self.nnunet_classes),
            files={name: what for name, what in _ABOUT.items() if name == "README.md" or (folder / name).exists()},
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


def _write_if_any(path: Path, convert: Callable[[], dict[str, torch.Tensor]]) -> None:
    try:
        save_file(convert(), path, metadata={"format": "pt"})
    except NoCounterpartError as error:
        logger.info("%s is not written: %s", path.name, error)


def _check_texts(folder: Path) -> None:
    problems = [
        f"{path.name}: {found}"
        for path in sorted(folder.iterdir())
        if path.suffix in (".md", ".json")
        for found in machine_paths(path.read_text(encoding="utf-8"))
    ]
    if problems:
        raise ValueError(
            f"Nothing is written, because paths of this machine would be given away: {'; '.join(problems)}."
        )
