# SPDX-License-Identifier: Apache-2.0
"""VoxTell: free text to 3D masks, in an environment of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.localizers.external.host import ExternalLocalizer
from custom.localizers.pretrained import MissingWeightsError, weights_digest

REPOSITORY, MODEL = "mrokuss/VoxTell", "voxtell_v1.1"
TEXT_ENCODER = "Qwen/Qwen3-Embedding-4B"
ADVICE = f"""VoxTell runs in an environment of its own. Make it once, on a machine with network access:
  python3 -m venv ~/voxtell-env
  ~/voxtell-env/bin/pip install voxtell
Fetch its weights (their licence: see https://huggingface.co/{REPOSITORY}) and its text encoder (8 GB):
  ~/voxtell-env/bin/hf download {REPOSITORY} --include "*{MODEL}/*" --local-dir ~/voxtell
  ~/voxtell-env/bin/hf download {TEXT_ENCODER} --local-dir ~/voxtell/text_encoder
Then name them with --localizer voxtell --localizer_options
  "{{'python': '~/voxtell-env/bin/python', 'model_dir': '~/voxtell/{MODEL}', 'text_encoder': '~/voxtell/text_encoder'}}"
or let VoxTell fetch its weights into the hub's cache: "{{'python': '~/voxtell-env/bin/python', 'download': True}}"."""


class VoxTell(ExternalLocalizer):
    """VoxTell 1.1 (Rokuss et al., arXiv 2511.11450, https://github.com/MIC-DKFZ/VoxTell; ``mrokuss/VoxTell``).

    Words, phrases and sentences to masks in CT, MRI and PET volumes; maps are the sigmoid of its logits. Code
    Apache-2.0; **check the licence of the weights on their card**. Needs a GPU in practice: the text encoder (Qwen3
    Embedding 4B, used for prompts that are not among the precomputed embeddings) takes 8 GB there in bfloat16, 16 GB of
    main memory without one, the network a few more with the scan's size and the number of prompts.

    **Caution.** It was trained with the labels of 158 public sets, most that one would pretrain or test on. Regions
    that it finds are supervised at second hand: say so wherever results with them are compared with annotation-free
    ones.

    Left and right depend on the scan's orientation, which must be right in its file; scans arrive here in RAS+.

    Args:
        python: of the environment that holds ``voxtell``; None: the one that runs this. From 0.1.2 on its pins (torch
            other than 2.9, transformers below 6) allow that, but it brings nnU-Net and its many requirements.
        model_dir: folder with ``plans.json`` and ``fold_0/checkpoint_final.pth``; None: the hub's cache.
        text_encoder: hub id or local folder of Qwen3-Embedding-4B.
        embeddings: ``.npz`` file of precomputed embeddings of prompts; None: the one beside ``model_dir``
            (``../embeddings/<model>/text_embeddings.npz``), or the hub's cache, or none.
        download: let VoxTell fetch what is missing; False: no network access.
        device: ``cuda``, ``cpu``; None: the GPU if there is one.
        spacing: millimetres; scans are resampled to cubes of this size for VoxTell, and maps back. None: as they are,
            which its makers advise except for unusual spacings (very fine brain MRI: 1.5).
        start_minutes: that loading may take.
        scan_minutes: that one scan may take.
        environment: further variables of the worker's process. Those of VoxTell itself (VOXTELL_MODEL chooses other
            weights) are not passed on, and refused here: no record would tell of them.

    Raises:
        ValueError: if ``environment`` holds one of VoxTell's.
        MissingWeightsError: if ``model_dir`` is given and holds no model.
        WorkerError: (by :meth:`localize`) see :class:`ExternalLocalizer`; the message says how to make the environment.
    """

    name = "voxtell"
    not_passed_on = ("VOXTELL_",)
    advice = ADVICE

    def __init__(
        self,
        python: str | Path | None = None,
        model_dir: str | Path | None = None,
        text_encoder: str = TEXT_ENCODER,
        embeddings: str | Path | None = None,
        download: bool = False,
        device: str | None = None,
        spacing: float | None = None,
        start_minutes: float = 30,
        scan_minutes: float = 60,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        own = [key for key in environment or () if key.startswith(self.not_passed_on)]
        if own:
            raise ValueError(
                f"environment: {own[0]} would change the maps unrecorded; name the weights with model_dir."
            )
        self.model_dir = _checked(model_dir)
        bank = _beside(self.model_dir) if embeddings is None else Path(embeddings).expanduser()
        encoder = Path(text_encoder).expanduser()
        options = {
            "model_dir": None if self.model_dir is None else str(self.model_dir),
            "text_encoder": str(encoder.resolve()) if encoder.is_dir() else text_encoder,
            "embeddings": None if bank is None else str(bank.resolve()),
            "download": download,
            "device": device,
            "spacing": spacing,
        }
        worker = Path(__file__).with_name("voxtell_worker.py")
        super().__init__(worker, python, options, (3,), start_minutes, scan_minutes, environment)

    def describe(self) -> dict[str, Any]:
        """Return model, hash of its weights, text encoder and spacing."""
        weights = None if self.model_dir is None else weights_digest(self.model_dir / "fold_0")
        return {
            "name": self.name,
            "version": 1,
            "model": f"{REPOSITORY}/{MODEL}" if self.model_dir is None else self.model_dir.name,
            "weights": weights,
            "text_encoder": Path(self.options["text_encoder"]).name,
            "spacing": self.options["spacing"],
        }


def _checked(model_dir: str | Path | None) -> Path | None:
    if model_dir is None:
        return None
    folder = Path(model_dir).expanduser().resolve()
    for file in ("plans.json", "fold_0/checkpoint_final.pth"):
        if not (folder / file).is_file():
            raise MissingWeightsError(f"{folder} holds no {file}.\n{ADVICE}")
    return folder


def _beside(model_dir: Path | None) -> Path | None:
    if model_dir is None:
        return None
    bank = model_dir.parent / "embeddings" / model_dir.name / "text_embeddings.npz"
    return bank if bank.is_file() else None
