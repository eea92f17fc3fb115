# SPDX-License-Identifier: Apache-2.0
"""What an annotator's viewer does, in one command: look at what is served, infer, save a label, train, infer again.

python -m integrations.monai_label.walk_through --venv V --bundles LOCALIZATION SEGMENTATION --studies S \\
    --image I --prompts "left lung" "right lung" --label L
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from integrations.monai_label.client import LabelClient, LabelError
from integrations.monai_label.serve import add_server_arguments, server_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelMap:
    """A label map and where it lies: voxels ``[X, Y, Z]`` of the scan, affine ``[4, 4]``."""

    voxels: np.ndarray
    affine: np.ndarray

    @classmethod
    def of(cls, content: bytes) -> LabelMap:
        """Read a NIfTI file, compressed or not."""
        suffix = ".nii.gz" if content[:2] == b"\x1f\x8b" else ".nii"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"label{suffix}"
            file.write_bytes(content)
            image: Any = nib.load(file)
            return cls(np.asarray(image.dataobj), np.asarray(image.affine))

    @property
    def sizes(self) -> dict[int, int]:
        """Voxels of each code but 0."""
        codes, counts = np.unique(self.voxels, return_counts=True)
        return {int(code): int(count) for code, count in zip(codes, counts, strict=True) if code}

    def lies_on(self, scan: LabelMap) -> bool:
        """Whether shape and affine are the scan's, to the last digit that NIfTI keeps."""
        return self.voxels.shape == scan.voxels.shape and np.allclose(self.affine, scan.affine, rtol=0, atol=1e-4)


@dataclass(frozen=True)
class Walk:
    """What came back.

    Attributes:
        info: of the server.
        regions: prompt -> label map of the localizer; empty without one.
        before: label map of the segmentation before training.
        training: what the server says of the training.
        after: label map of the segmentation after it.
    """

    info: dict[str, Any]
    regions: dict[str, LabelMap]
    before: LabelMap
    training: dict[str, Any]
    after: LabelMap


def walk(
    client: LabelClient,
    image: str,
    prompts: Sequence[str] = (),
    label: str | Path | None = None,
    epochs: int = 1,
) -> Walk:
    """Do it, and say what comes back.

    Args:
        client: of a server with a bundle whose name ends in ``_segmentation`` and, for the prompts, one that ends in
            ``_localization``.
        image: name of the scan.
        prompts: what to localize.
        label: label map that the annotator hands in; None: hands in what the model found, as if it were right.
        epochs: of the training.
    """
    info = client.info()
    for name, model in info["models"].items():
        trains = "can be trained" if name in info["trainers"] else "is not trained"
        logger.info("%s: labels %s, options %s, %s.", name, model["labels"], model["config"], trains)
    scan = LabelMap.of(client.image(image))
    regions = {}
    for prompt in prompts:
        answer = client.infer(named(info, "_localization"), image, {"text_prompt": prompt})
        regions[prompt] = LabelMap.of(answer)
        _say(f"{prompt!r}", regions[prompt], scan)
    segmenter = named(info, "_segmentation")
    answer = client.infer(segmenter, image)
    before = LabelMap.of(answer)
    _say(f"{segmenter}, before training", before, scan)
    with tempfile.TemporaryDirectory() as folder:
        proposed = Path(folder) / "proposed.nii.gz"
        proposed.write_bytes(answer)
        logger.info("Saved: the label of %s.", client.save_label(image, label or proposed))
    training = client.train(segmenter, {"max_epochs": epochs, "multi_gpu": False})
    logger.info("Training: %s, %s to %s.", training["status"], training["start_ts"], training["end_ts"])
    for line in training["details"]:
        if "Best epoch" in line:  # 0: no epoch was better than the weights before, which are kept
            logger.info(line[line.index("Best epoch") :])
    after = LabelMap.of(client.infer(segmenter, image))
    _say(f"{segmenter}, after training", after, scan)
    changed = int((before.voxels != after.voxels).sum()) if before.voxels.shape == after.voxels.shape else None
    logger.info("Voxels that changed: %s.", changed)
    return Walk(info, regions, before, training, after)


def refusals(client: LabelClient, image: str) -> dict[str, LabelError]:
    """Ask for what cannot be done; return what the server said, by what was wrong."""
    info = client.info()
    model = named(info, "_localization")
    asked: dict[str, tuple[str, str, Any]] = {
        "unknown model": ("no_such_model", image, {}),
        "unknown image": (model, "no_such_image", {}),
        "unknown prompt": (model, image, {"text_prompt": "zebra crossing"}),
        "empty prompt": (model, image, {"text_prompt": ""}),
        "bad threshold": (model, image, {"threshold": "many"}),
    }
    found = {}
    for wrong, (name, scan, params) in asked.items():
        try:
            client.infer(name, scan, params)
        except LabelError as error:
            found[wrong] = error
            logger.info("%s: %s", wrong, error)
        else:
            logger.warning("%s: was not refused.", wrong)
    return found


def named(info: dict[str, Any], ending: str) -> str:
    """Return the first model that is served and has a name with that ending."""
    found = [name for name in info["models"] if name.endswith(ending)]
    if not found:
        raise ValueError(f"No model of the server ends in {ending}: {', '.join(info['models'])}.")
    return found[0]


def _say(what: str, found: LabelMap, scan: LabelMap) -> None:
    where = "on the scan's voxels" if found.lies_on(scan) else f"NOT on the scan: {found.voxels.shape}"
    logger.info("%s: voxels of each label %s, %s.", what, found.sizes, where)


def main() -> None:
    """Start a server, walk, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_arguments(parser)
    parser.add_argument("--image", required=True, help="name of a NIfTI scan of the folder, without its ending")
    parser.add_argument("--prompts", nargs="*", default=[], help="what to localize")
    parser.add_argument("--label", help="label map that is handed in; left out: what the model found")
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with server_of(options) as server:
        client = LabelClient(server.url)
        walk(client, options.image, options.prompts, options.label, options.epochs)
        if options.prompts:
            refusals(client, options.image)


if __name__ == "__main__":
    main()
