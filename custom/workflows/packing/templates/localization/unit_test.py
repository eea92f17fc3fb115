# SPDX-License-Identifier: Apache-2.0
"""Ask the bundle NAME_OF_THE_BUNDLE for its default prompt on random scans, as the zoo's runner does it."""

from __future__ import annotations

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
    """The inference workflow of the bundle."""

    def setUp(self) -> None:
        """Make scans."""
        sys.path.insert(0, str(BUNDLE))
        self.folder = Path(tempfile.mkdtemp())
        self.scans = self.folder / "scans"
        self.scans.mkdir()
        settings = ConfigWorkflow(str(CONFIGS / "inference.yaml"), logging_file=False, workflow_type=None)
        shape = (40, 36, 24) if settings.parser["spatial_dims"] == 3 else (40, 36, 1)
        random = np.random.default_rng(0)
        for number in range(2):
            scan = nib.Nifti1Image(random.random(shape).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
            nib.save(scan, self.scans / f"scan_{number}.nii.gz")

    def tearDown(self) -> None:
        """Remove what was made."""
        sys.path.remove(str(BUNDLE))
        shutil.rmtree(self.folder)

    def run_workflow(self, **overrides: Any) -> Path:
        """Run inference, whose properties are all there; return its output folder."""
        output = self.folder / "output"
        workflow = ConfigWorkflow(
            config_file=str(CONFIGS / "inference.yaml"),
            meta_file=str(CONFIGS / "metadata.json"),
            logging_file=str(CONFIGS / "logging.conf"),
            workflow_type="infer",
            bundle_root=str(BUNDLE),
            dataset_dir=str(self.scans),
            output_dir=str(output),
            device=torch.device("cpu"),
            **overrides,
        )
        workflow.initialize()
        assert workflow.check_properties() == []
        workflow.run()
        workflow.finalize()
        return output

    def test_inference(self) -> None:
        """A label map of 0 and 1 on the voxels of each scan."""
        output = self.run_workflow()
        for scan in self.scans.iterdir():
            found: Any = nib.load(output / scan.name.replace(".nii.gz", "_seg.nii.gz"))
            stored: Any = nib.load(scan)
            assert found.shape == stored.shape
            np.testing.assert_allclose(found.affine, stored.affine)
            assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1}

    def test_empty_prompt(self) -> None:
        """An error that says so."""
        error: BaseException | None = None
        try:
            self.run_workflow(**{"displayable_configs#text_prompt": " "})
        except RuntimeError as caught:
            error = caught
        while error is not None and error.__cause__ is not None:
            error = error.__cause__
        assert "is empty" in str(error)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    unittest.main()
