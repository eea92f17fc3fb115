# SPDX-License-Identifier: Apache-2.0
"""Our folder has the name of a PyPI package that transformers and timm look for: all work, with that package or not."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

PROGRAM = """
import importlib.metadata, importlib.util, sys
import datasets
assert datasets.__file__ == sys.argv[1], datasets.__file__
installed = any(found.name == "datasets" for found in importlib.metadata.distributions())
assert installed == (sys.argv[2] == "with"), installed

import torch
from transformers import CLIPConfig, CLIPModel
small = dict(hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1, projection_dim=8)
text = dict(small, vocab_size=20, max_position_embeddings=8, eos_token_id=2)
vision = dict(small, image_size=32, patch_size=16)
clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
tokens, picture = torch.tensor([[1, 5, 2]]), torch.zeros(1, 3, 32, 32)
assert clip(input_ids=tokens, pixel_values=picture).logits_per_image.shape == (1, 1)
import transformers.trainer

import timm, timm.data
assert timm.create_model("resnet10t", num_classes=3, pretrained=False).eval()(picture).shape == (1, 3)

import open_clip
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
vision = CLIPVisionCfg(layers=1, width=16, head_width=8, patch_size=16, image_size=32)
model = CLIP(8, vision, CLIPTextCfg(context_length=3, vocab_size=20, width=16, heads=2, layers=1))
assert model(picture, tokens)[0].shape == (1, 8)

assert sys.modules["datasets"] is datasets and datasets.__file__ == sys.argv[1]
assert issubclass(datasets.ScanError, ValueError) and "monai" not in sys.modules
print("all three work")
"""


def _run(repository: Path, site: str, program: str, *arguments: str) -> str:
    # -S: no site-packages but the one given here, behind the repository as `python -m` puts it there.
    program = f"import sys; sys.path[:0] = [{str(repository)!r}]; sys.path.append({site!r})\n{program}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-S", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=repository)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def ours(repository: Path) -> str:
    return str(repository / "datasets" / "__init__.py")


@pytest.fixture(scope="module")
def libraries() -> str:
    for name in ("transformers", "timm", "open_clip"):
        pytest.importorskip(name)
    return sysconfig.get_paths()["purelib"]


def test_with_the_package_of_that_name(repository, libraries, ours):
    try:
        importlib.metadata.version("datasets")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the PyPI package `datasets` is not installed (requirements-dev.txt has it)")
    assert "all three work" in _run(repository, libraries, PROGRAM, ours, "with")


def test_without_the_package_of_that_name(repository, libraries, ours, tmp_path):
    """A site-packages with all that is installed, save that package: as if it had never been installed."""
    for entry in Path(libraries).iterdir():
        if entry.name != "datasets" and not entry.name.startswith("datasets-"):
            (tmp_path / entry.name).symlink_to(entry)
    assert "all three work" in _run(repository, str(tmp_path), PROGRAM, ours, "without")


def test_importing_our_packages_is_light(repository, libraries):
    """Neither MONAI nor what it imports where it can: transformers, itk and torchvision."""
    program = "import custom, datasets; print([name for name in sys.argv[1:] if name in sys.modules])"
    assert _run(repository, libraries, program, "monai", "itk", "torchvision", "transformers").strip() == "[]"
