# SPDX-License-Identifier: Apache-2.0
"""What tests of several configs share: running one in this process, and the zoo's unit test of a packed bundle."""

from __future__ import annotations

import importlib.util
import unittest
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow


def run_config(configs: Path, config: str, kind: str | None = None, **overrides: Any) -> None:
    """Run ``configs/<config>.yaml`` of the bundle that ``configs`` belongs to."""
    overrides = {"bundle_root": str(configs.parent), **overrides}
    workflow = ConfigWorkflow(str(configs / f"{config}.yaml"), logging_file=False, workflow_type=kind, **overrides)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def check_zoo_unit_test(zoo: Path, name: str) -> None:
    """Run ``ci/unit_tests/test_<name>.py``, the only one; the working folder is ``zoo``, as for the zoo's runner."""
    (file,) = (zoo / "ci" / "unit_tests").iterdir()
    assert file.name == f"test_{name}.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    assert result.testsRun == 2
    assert result.wasSuccessful(), [text for _, text in result.errors + result.failures]
