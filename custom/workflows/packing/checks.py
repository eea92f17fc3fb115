# SPDX-License-Identifier: Apache-2.0
"""What must not be in a bundle that is given away: data, caches, paths of the machine where it was made."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from safetensors import safe_open

from custom.finite import check_finite

LARGEST_FILE = 25 * 1024 * 1024  # the zoo's limit for files in its repository
_TEXT = {".py", ".yaml", ".yml", ".json", ".conf", ".md", ".txt", ".css", ".html", ".js", ""}
_WEIGHTS = "models/model.pt"
_MORE_WEIGHTS = "models/self_taught.safetensors"
_MACHINE_PATH = re.compile(
    r"(?<![\w.:/<-])/(?:home|root|work|workspace|tmp|Users|mnt|media|data|scratch|opt|srv|var|private)/[\w.-]+"
    r"|\b[A-Za-z]:\\\w+"
)


def check_contents(folder: Path) -> None:
    """Look at every file of a packed bundle.

    Args:
        folder: the bundle.

    Raises:
        ValueError: names files that are no text, config or code (data, caches, links), files with a path of this
            machine, and weights that hold anything but tensors.
    """
    problems: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or "__pycache__" in name or any(part.startswith(".") for part in Path(name).parts):
            problems.append(f"{name}: a cache, hidden file or link")
        elif name == _WEIGHTS:
            problems += _weights_problems(path, name)
        elif name == _MORE_WEIGHTS:
            problems += _safetensors_problems(path, name)
        elif path.is_file() and path.suffix not in _TEXT:
            problems.append(f"{name}: neither text nor {_WEIGHTS}; is it data?")
        elif path.is_file():
            problems += [f"{name}: the path {found}" for found in machine_paths(path.read_text())]
    if problems:
        raise ValueError(f"The bundle is not packed, because it would give away: {'; '.join(problems)}.")


def machine_paths(text: str) -> list[str]:
    """Absolute paths in a text that only make sense on one machine."""
    own = [str(place) for place in {Path.home(), Path.cwd()} if len(place.parts) > 1]
    return sorted(set(_MACHINE_PATH.findall(text)) | {place for place in own if place in text})


def _weights_problems(path: Path, name: str) -> list[str]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return [f"{name}: damaged, or more than tensors"]
    check_finite(name, content)
    if isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values()):
        return []
    return [f"{name}: more than the network's tensors"]


def _safetensors_problems(path: Path, name: str) -> list[str]:
    """Such files hold tensors and a few words; the latter are looked at, and the zoo's limit of size."""
    with safe_open(path, framework="pt") as content:
        words = " ".join((content.metadata() or {}).values())
    problems = [f"{name}: the path {found}" for found in machine_paths(words)]
    size = path.stat().st_size
    return [*problems, f"{name}: {size / 2**20:.0f} MB, the zoo takes 25"] if size > LARGEST_FILE else problems
