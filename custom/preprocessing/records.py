# SPDX-License-Identifier: Apache-2.0
"""The contract in records: taken over from an encoder, followed for a trained model, compared with what is asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from custom.networks import encoder_record
from custom.networks.weights import is_own_encoder
from custom.preprocessing.contract import BLOCK, Preprocessing
from custom.records import read_json

logger = logging.getLogger(__name__)

_CHOOSES_THE_SCAN = ("frame",)  # says which part of a file is the scan, and may differ from set to set


def encoder_contract(encoder: str | Path | None) -> Preprocessing | None:
    """Return how scans were prepared for an encoder; None for weights from elsewhere, or where there is none.

    Raises:
        ValueError: if its record is damaged or holds what this version does not know.
    """
    if encoder is None or not is_own_encoder(encoder):
        return None
    record = encoder_record(encoder)
    spec = record["encoder"]
    # Encoders older than the crop were pretrained without it; those that no pretraining wrote say nothing.
    facts = {"channels": spec.get("in_channels", 1), "crop_to_body": "masking" not in record, **record}
    return _read(Path(encoder).with_suffix(".json"), record, facts)


def model_contract(model: str | Path | None) -> Preprocessing | None:
    """Return how scans were prepared for a trained model, by the record beside it; None where there is none.

    Raises:
        ValueError: as :func:`encoder_contract`.
    """
    path = Path(model).with_suffix(".json") if model else None
    if path is None or not path.is_file():
        return None
    record = read_json(path, "Train again.", told_only=("facts",))
    settings = record.get("settings")
    return _read(path, record, settings if isinstance(settings, Mapping) else {})


def inherited(encoder: str | Path | None = None, model: str | Path | None = None) -> Preprocessing:
    """Return what a config's settings are unless they are given: a trained model's, an encoder's, or the defaults.

    Args:
        encoder: weights that a task starts from.
        model: ``model.pt`` to evaluate or predict with.
    """
    return model_contract(model) or encoder_contract(encoder) or Preprocessing()


def make_contract(model: str | Path | None = None, **given: Any) -> Preprocessing:
    """Return the contract of a run; a trained model takes scans as it learnt to see them.

    Args:
        model: ``model.pt`` to evaluate or predict with; its record holds, and what differs is refused. ``frame`` may
            differ, with a warning: it changes no voxel, it says which part of a file is the scan.
        given: see :meth:`Preprocessing.of`.

    Raises:
        ValueError: names the fields that differ, with both values; also for values of the wrong kind, and for a custom
            transform of intensities of which only the name is known.
    """
    made = Preprocessing.of(**given)
    recorded = model_contract(model)
    differing = recorded.differences(made) if recorded else {}
    named = [differing.pop(name) for name in _CHOOSES_THE_SCAN if name in differing]
    if differing:
        raise ValueError(
            f"{model} was trained with other preprocessing than this run asks for: {'; '.join(differing.values())}. A "
            "trained model takes scans as it learnt to see them: leave these options out, or train with them."
        )
    if named:
        logger.warning("%s: another part of the files than in training: %s.", model, "; ".join(named))
    made.intensity.check_known()
    _tell_of_old(model, recorded)
    return made


def compare_with_encoder(contract: Preprocessing, encoder: str | Path | None) -> dict[str, str]:
    """Say in one line that a run prepares scans as its encoder learnt to see them, or warn of what differs.

    Args:
        contract: of the run.
        encoder: weights that it starts from.

    Returns:
        The differences, see :meth:`Preprocessing.differences`.
    """
    recorded = encoder_contract(encoder)
    if recorded is None:
        return {}
    _tell_of_old(encoder, recorded)
    differing = recorded.differences(contract)
    if differing:
        words = "; ".join(differing.values())
        logger.warning("%s was pretrained on scans that were prepared in another way: %s.", encoder, words)
        if contract.patch_size and recorded.spacing and not recorded.voxel_size:
            logger.warning("Its scans were scaled into a box, which leaves no voxel size to take over: set --spacing.")
    else:
        logger.info("Scans are prepared as for the encoder: %s.", contract.words())
    return differing


def check_empty_cells(contract: Preprocessing, skip_empty: bool) -> None:
    """Refuse to tell empty cells by ``air_threshold`` where grey levels do not go from 0, for air, to 1.

    Raises:
        ValueError: with schemes that fit.
    """
    if skip_empty and not contract.intensity.is_unit:
        raise ValueError(
            f"--skip_empty true tells air by grey levels from 0 to 1; --intensity {contract.intensity.words()} gives "
            "others. Choose percentile, minmax or a window to 0 and 1, or --skip_empty false."
        )


def _tell_of_old(file: str | Path | None, recorded: Preprocessing | None) -> None:
    """Say what is assumed of a record that is older than the block."""
    if recorded is None or not recorded.is_old:
        return
    logger.info(
        "The record of %s does not tell how grey levels were scaled: taken is %s, the default of its time. If it was "
        "made with another --intensity, give that again.", file, recorded.intensity.words(),
    )  # fmt: skip
    if recorded.was_cut:
        logger.warning(
            "%s was made from scans that were cut where they stood out of the box %s; now they are scaled down until "
            "all of them is in it, so what it sees is smaller than what it learnt from.", file,
            list(recorded.image_size or ()),
        )  # fmt: skip


def _read(path: Path, record: Mapping[str, Any], old: Mapping[str, Any]) -> Preprocessing:
    try:
        return Preprocessing.from_record(record[BLOCK]) if BLOCK in record else Preprocessing.of_old_record(old)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
