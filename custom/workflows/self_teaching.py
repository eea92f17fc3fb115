# SPDX-License-Identifier: Apache-2.0
"""Teach a network to find lesions from scans that nobody annotated, and from a few that somebody did."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import monai
import numpy as np
import torch
from monai.data import Dataset
from monai.engines import PrepareBatch
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import WeightedRandomSampler

from custom.files import write_atomically
from custom.localizers.operators.finder import Finder, load_finder, make_finder
from custom.losses import LesionTarget
from custom.networks.weights import file_hash
from custom.tasks.fine_tuning import FineTuning
from custom.tasks.results import write_json
from custom.workflows.commands import run_command
from datasets.errors import ScanError

if TYPE_CHECKING:
    from datasets import Datalist

logger = logging.getLogger(__name__)

_KEPT = ("image", "scan_id", "series_uid")
_ANNOTATION = ("mask", "boxes")
WEIGHTS = "self_taught.safetensors"
THRESHOLDS = np.round(np.arange(0.05, 0.51, 0.05), 2)  # no higher: real lesions are less plain than synthetic ones
MOST_TRIALS = 200


class LesionPrepareBatch(PrepareBatch):
    """From a batch of dictionaries to the network's input and a :class:`LesionTarget`."""

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, LesionTarget]:
        """Return image ``[B, 1, *spatial]`` and target."""
        image, lesion, annotated = (
            batchdata[key].to(device, non_blocking=non_blocking, **kwargs) for key in ("image", "label", "annotated")
        )
        return image, LesionTarget(lesion, annotated.flatten())


def draw_shots(datalist: Datalist, shots: int, seed: int) -> list[str]:
    """Draw the annotated scans of a run from the train split.

    Args:
        datalist: the data set.
        shots: how many; 0: none, no annotation is read.
        seed: of the draw; a draw of 4 is the beginning of one of 16.

    Returns:
        Their scan ids, in the order drawn.

    Raises:
        ScanError: if the train split has fewer scans with ``mask`` or ``boxes``.
        ValueError: if shots is negative.
    """
    if shots < 0:
        raise ValueError(f"shots is a number of annotated scans, 0 or more; received {shots}.")
    annotated = [item["scan_id"] for item in datalist.split("train") if any(item.get(key) for key in _ANNOTATION)]
    if len(annotated) < shots:
        raise ScanError(
            datalist.root,
            f"{shots} annotated scans are wanted, {len(annotated)} scans of the split 'train' have a mask or boxes",
            "Lower --shots, or name masks in the column `mask` of manifest.csv",
        )
    order = np.random.default_rng(seed).permutation(len(annotated))[:shots]
    return [annotated[index] for index in order]


def teaching_items(datalist: Datalist, split: str, shot_ids: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the scans of a split, with the annotation of those that were drawn and of no other.

    Args:
        datalist: the data set; without a split "val" the training scans stand in.
        split: "train" or "val".
        shot_ids: of the scans whose annotation may be seen.
    """
    items = datalist.split(split) or datalist.require("train")
    chosen = set(shot_ids)
    return [
        {key: item[key] for key in (*_KEPT, *(_ANNOTATION if item["scan_id"] in chosen else ())) if key in item}
        for item in items
    ]


class SelfLabelled(Sequence[dict[Hashable, Any]]):
    """Scans of which an earlier network labels those where it is surest: their lesions are real ones.

    A network that learnt from synthetic lesions alone also learnt that real ones, which nobody marked, are none. The
    share of scans in which its map has the highest maxima gets the connected part around that maximum, above half of
    it, as ``annotation``; the rest of such a scan still counts as not looked at.

    Args:
        scans: entries on the network's grid with ``image``, ``area``, ``annotation`` and ``annotated``.
        earlier: the earlier network, on the same grid; None: no scan is labelled.
        share: of the scans without annotation, in [0, 1].

    - ``labels``: index -> label ``[1, *image_size]`` of 0 and 1.

    Raises:
        ValueError: if the network has another grid.
    """

    def __init__(self, scans: Sequence[Mapping[Hashable, Any]], earlier: Finder | None, share: float = 0.3) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"The share of self-labelled scans lies in [0, 1], received {share}.")
        self.scans = scans
        self.labels = _surest(scans, earlier, share) if earlier is not None and share > 0 else {}

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: Any) -> Any:
        """Entry of a scan, labelled or as it is."""
        scan = dict(self.scans[index])
        return {**scan, "annotation": self.labels[index]} if index in self.labels else scan


def _surest(scans: Sequence[Mapping[Hashable, Any]], earlier: Finder, share: float) -> dict[int, Tensor]:
    found: list[tuple[float, int, np.ndarray]] = []
    for index, scan in enumerate(scans):
        if scan["annotated"] > 0:
            continue
        grid = scan["image"][0].numpy()
        if grid.shape != earlier.image_size:
            raise ValueError(
                f"The earlier network has the grid {list(earlier.image_size)}, this run {list(grid.shape)}: give the "
                f'same with --image_size "{list(earlier.image_size)}".'
            )
        probability = earlier.on_grid(grid, scan["area"][0].numpy() > 0.5)
        found.append((float(probability.max()), index, _part_around_maximum(probability)))
    chosen = sorted(found, key=lambda each: (-each[0], each[1]))[: round(share * len(found))]
    return {index: torch.from_numpy(mask.astype(np.float32))[None] for _, index, mask in chosen}


def _part_around_maximum(probability: np.ndarray) -> np.ndarray:
    parts, _ = ndimage.label(probability > 0.5 * probability.max())
    part: np.ndarray = parts == parts[np.unravel_index(int(probability.argmax()), parts.shape)]
    return part & (probability > 0)


def teaching_sampler(
    kinds: Sequence[str], shares: Mapping[str, float], samples: int, generator: torch.Generator
) -> WeightedRandomSampler:
    """Draw scans with replacement, so that an epoch is as long for a small set as for a large one.

    Args:
        kinds: of each scan, see :func:`kinds_of_scans`.
        shares: kind -> share of the draws, where there are such scans; the rest goes to the kinds not named.
        samples: draws an epoch.
        generator: source of all draws.
    """
    counts = Counter(kinds)
    named = {kind: share for kind, share in shares.items() if kind in counts}
    others = sum(count for kind, count in counts.items() if kind not in named)
    rest = (1 - sum(named.values())) / max(others, 1)
    weights = [named[kind] / counts[kind] if kind in named else rest for kind in kinds]
    return WeightedRandomSampler(weights, samples, replacement=True, generator=generator)


def kinds_of_scans(scans: SelfLabelled) -> list[str]:
    """What is known of each scan: "annotated", "self_labelled" or "unlabelled"."""
    kinds = ["annotated" if scan["annotated"] > 0 else "unlabelled" for scan in scans.scans]
    return ["self_labelled" if index in scans.labels else kind for index, kind in enumerate(kinds)]


class Earlier:
    """A network taught before, from which a run goes on; None of everything without a file.

    Args:
        weights: its ``self_taught.safetensors``, or None.

    - ``finder``: the network, ready for use; ``record``: of its JSON file; ``shot_ids``: annotated scans that it saw.
    """

    def __init__(self, weights: str | Path | None) -> None:
        self.finder = load_finder(weights) if weights else None
        self.record = json.loads(Path(weights).with_suffix(".json").read_text()) if weights else None
        self.shot_ids: list[str] = self.record["shot_ids"] if self.record else []

    def start(self, network: nn.Module) -> nn.Module:
        """Copy its weights into a network of the same architecture; ValueError if it is another."""
        if self.finder is not None:
            try:
                network.load_state_dict(self.finder.network.state_dict())
            except RuntimeError as error:
                raise ValueError(f"The earlier network is another than this run's: {error}") from error
        return network


def preset(presets: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return a preset by name; ValueError listing the known ones if there is none."""
    if name not in presets:
        raise ValueError(
            f"No lesions {name!r}; known: {', '.join(presets)}. Or set --area, --modality and --lesion_options."
        )
    return presets[name]


def check_grid(spatial_dims: int, image_size: Sequence[int], strides: Sequence[int]) -> None:
    """Refuse a grid that does not fit the scans or the network; the message says what would."""
    step = int(np.prod(strides))
    if len(image_size) != spatial_dims or any(side < step or side % step for side in image_size):
        raise ValueError(
            f"image_size {list(image_size)}: {spatial_dims}D scans and this network need {spatial_dims} multiples of "
            f'{step}, for example --image_size "{[8 * step] * spatial_dims}".'
        )


class SelfTeaching:
    """Train, go back to the best epoch, write the network and what rebuilds it.

    Writes ``self_taught.safetensors`` and ``self_taught.json``, which the operator ``learned`` reads.

    Args:
        fitting: trains the network and restores its best epoch.
        scans: training scans, entries with ``image`` on the network's grid; their values make the data's digest.
        trials: validation scans with synthetic lesions, see :func:`calibrated`; its random transforms are seeded anew.
        record: JSON-able facts to keep; those that the operator reads, and all that tells how it was made.
        output_dir: where the files go.
        next_step: the line that tells the user how to go on.
    """

    def __init__(
        self,
        fitting: FineTuning,
        scans: Sequence[Mapping[Hashable, Any]],
        trials: Dataset,
        record: Mapping[str, Any],
        output_dir: str | Path,
        next_step: str = "",
    ) -> None:
        self.fitting, self.scans, self.trials, self.record = fitting, scans, trials, dict(record)
        self.output_dir, self.next_step = Path(output_dir), next_step

    def run(self) -> dict[str, Any]:
        """Do all of it; return the record as written."""
        start = time.process_time()
        fit = self.fitting.fit()
        fit["processor_minutes"] = round((time.process_time() - start) / 60, 2)
        path = self.output_dir / WEIGHTS
        network = self.fitting.model.network
        weights = {name: value.detach().contiguous().cpu() for name, value in network.state_dict().items()}
        self.trials.transform.set_random_state(seed=self.record["seed"])
        network.eval().cpu()
        half = calibrated(network, self.record, self.trials)
        write_atomically(path, lambda target: save_file(weights, target, metadata={"format": "pt"}))
        record = {
            **self.record,
            "half": half,
            "num_scans": len(self.scans),
            "data_digest": data_digest(self.scans),
            "fit": fit,
            "versions": {"torch": torch.__version__, "monai": monai.__version__, "numpy": np.__version__},
            "sha256": file_hash(path),
        }
        write_json(path.with_suffix(".json"), record)
        logger.info("Written: %s and .json. %s", path, self.next_step)
        return record


def calibrated(network: nn.Module, record: Mapping[str, Any], trials: Dataset) -> float:
    """Choose, without annotation, the output that is to count as probability 0.5: the one of the best Dice.

    Args:
        network: trained, on the CPU.
        record: facts that the operator reads.
        trials: entries with ``image``, ``label`` and ``area``, the label that of synthetic lesions.

    Returns:
        The threshold among 0.05, 0.1, ..., 0.5 with the largest mean Dice over the trials.
    """
    finder = make_finder(network, {**record, "half": 0.5})
    dice = []
    for trial in itertools.islice((trials[index] for index in range(len(trials))), MOST_TRIALS):
        label = trial["label"][0].numpy() > 0.5
        output = finder.on_grid(trial["image"][0].numpy(), trial["area"][0].numpy() > 0.5)
        found = output >= THRESHOLDS.reshape(-1, *[1] * label.ndim)
        sizes = found.reshape(len(THRESHOLDS), -1).sum(axis=1) + label.sum()
        dice.append(2 * (found & label).reshape(len(THRESHOLDS), -1).sum(axis=1) / np.maximum(sizes, 1))
    return float(THRESHOLDS[int(np.mean(dice, axis=0).argmax())])


def data_digest(scans: Sequence[Mapping[Hashable, Any]]) -> str:
    """BLAKE2b of the scans' ids and values ``image``, in their order, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for scan in scans:
        digest.update(str(scan["scan_id"]).encode())
        digest.update(np.ascontiguousarray(scan["image"].cpu().numpy()).tobytes())
    return digest.hexdigest()


def localize_command(configs: str, dataset_dir: str, output_dir: str | Path, localizer: str, prompt: str) -> str:
    """Return the command that localizes with the network, ready to paste."""
    options = {
        "config_file": f"{configs}/localize.yaml",
        "dataset_dir": str(dataset_dir),
        "localizer": localizer,
        # The quotes inside are Python's: without them the command line takes the path for an expression.
        "localizer_options": str({"weights": str(Path(output_dir) / WEIGHTS)}),
        "prompt": prompt,
    }
    return f"Next: {run_command(options)}"
