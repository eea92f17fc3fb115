# SPDX-License-Identifier: Apache-2.0
"""Train, evaluate and apply the bundle NAME_OF_THE_BUNDLE on random scans, as the zoo's runner does it."""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigWorkflow

BUNDLE = Path("models") / "NAME_OF_THE_BUNDLE"
CONFIGS = BUNDLE / "configs"


class TestBundle(unittest.TestCase):
    """The three workflows of the bundle."""

    def setUp(self) -> None:
        """Make labelled scans that suit the network."""
        sys.path.insert(0, str(BUNDLE))
        self.folder = Path(tempfile.mkdtemp())
        inference = ConfigWorkflow(str(CONFIGS / "inference.yaml"), logging_file=False, workflow_type=None)
        settings = inference.parser
        size, classes = settings["patch_size"] or settings["image_size"], len(settings["class_names"])
        spacing = settings["spacing"] or [2.0] * len(size)
        voxel = np.diag([*spacing, *[2.0] * (3 - len(spacing)), 1.0])
        self.scans = self.folder / "scans"
        self.scans.mkdir()
        random = np.random.default_rng(0)
        shape = [*size, 1][:3]
        rows = []
        for number, split in enumerate(("train", "train", "val", "test")):
            names = {"file": f"image_{number}.nii.gz", "mask": f"label_{number}.nii.gz", "split": split}
            images = (random.random(shape).astype(np.float32), random.integers(0, classes + 1, shape).astype(np.uint8))
            for key, values in zip(("file", "mask"), images, strict=True):
                nib.save(nib.Nifti1Image(values, voxel), self.scans / names[key])
            rows.append(names)
        with open(self.scans / "manifest.csv", "w", newline="") as stream:
            writer = csv.DictWriter(stream, ["file", "split", "mask"])
            writer.writeheader()
            writer.writerows(rows)
        codes = {index + 1: name for index, name in enumerate(inference.parser["class_names"])}
        self.overrides: dict[str, Any] = {
            "bundle_root": str(BUNDLE),
            "dataset_dir": str(self.scans),
            "device": torch.device("cpu"),
        }
        self.train: dict[str, Any] = {
            **self.overrides,
            "classes": codes,
            "max_epochs": 1,
            "batch_size": 2,
            "resamples": 10,
        }
        self.train["publish_to"] = str(self.folder / "published")  # not into the bundle that is tested

    def tearDown(self) -> None:
        """Remove what was made."""
        sys.path.remove(str(BUNDLE))
        shutil.rmtree(self.folder)

    def run_workflow(self, kind: str, configs: list[str], **overrides: Any) -> Path:
        """Run a workflow whose properties are all there; return its output folder."""
        output = self.folder / "_".join([kind, *configs])
        workflow = ConfigWorkflow(
            config_file=[str(CONFIGS / f"{name}.yaml") for name in configs],
            meta_file=str(CONFIGS / "metadata.json"),
            logging_file=str(CONFIGS / "logging.conf"),
            workflow_type=kind,
            output_dir=str(output),
            **overrides,
        )
        workflow.initialize()
        assert workflow.check_properties() == []
        workflow.run()
        workflow.finalize()
        return output

    def test_train_and_evaluate(self) -> None:
        """One epoch, then the shipped weights on the test scan."""
        output = self.run_workflow("train", ["train"], **self.train)
        assert (output / "model.pt").is_file()
        assert (self.folder / "published" / "model.pt").is_file()
        output = self.run_workflow("train", ["train", "evaluate"], **self.train)
        assert (output / "metrics.json").is_file()

    def test_inference(self) -> None:
        """A label map on the voxels of each scan, labels of the truth among the scans of the folder or not."""
        output = self.run_workflow("infer", ["inference"], **self.overrides)
        for scan in self.scans.glob("image_*.nii.gz"):
            found: Any = nib.load(output / scan.name.replace(".nii.gz", "_seg.nii.gz"))
            stored: Any = nib.load(scan)
            assert found.shape == stored.shape
            np.testing.assert_allclose(found.affine, stored.affine)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    unittest.main()
