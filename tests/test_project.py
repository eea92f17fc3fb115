# SPDX-License-Identifier: Apache-2.0
"""Promises of the project as a whole: one-way dependencies, a light core, a README that tells the truth."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOM_MAY_USE = {
    "localizers": {
        "keys",
        "files",
        "finite",
        "prompts",
        "records",
    },  # the prompt library knows in which window to show what
    "regions": {"keys", "files", "localizers"},
    "masking": {"keys", "files", "regions"},
    "gate": {"keys", "files"},
    "networks": {"keys", "files", "finite", "records"},
    "preprocessing": {"keys", "files", "networks", "options", "records", "regions"},
    "prompts": {"keys", "files"},
    "losses": {"keys", "files"},
    "metrics": {"keys", "files"},
    "synthesis": {"keys", "files", "localizers"},
    "visual": {"keys", "files", "losses"},
    "tasks": {
        "components",
        "files",
        "finite",
        "keys",
        "metrics",
        "networks",
        "options",
        "records",
        "visual",
    },
    "handlers": {"keys", "files", "finite", "losses", "networks", "visual"},
}


def imported(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("room", ROOM_MAY_USE)
def test_dependencies_point_one_way(repository, room):
    allowed = ROOM_MAY_USE[room] | {room}
    for file in (repository / "custom" / room).rglob("*.py"):
        used = {name.split(".")[1] for name in imported(file) if name.startswith("custom.")}
        assert used <= allowed, f"{file.name} uses {used - allowed}"


def test_datasets_know_nothing_of_custom(repository):
    for file in (repository / "datasets").rglob("*.py"):
        assert not any(name.split(".")[0] == "custom" for name in imported(file)), file


def test_the_core_needs_no_optional_package(repository):
    """Everything can be imported where torchvision and the other optional packages are absent or broken."""
    modules = [
        ".".join(file.relative_to(repository).with_suffix("").parts).removesuffix(".__init__")
        for package in ("custom", "datasets")
        for file in sorted((repository / package).rglob("*.py"))
    ]
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torchvision', 'itk', 'transformers', 'open_clip', 'timm']))\n"
        f"for name in {modules!r}: __import__(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, timeout=300)


def test_every_cap_has_its_reason(repository):
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (repository / name).read_text().splitlines():
            assert "<" not in line.split("#")[0] or "#" in line, f"{name}: {line}"


def test_every_file_that_the_readme_names_is_there(repository):
    text = (repository / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    named = re.findall(r"`((?:bundle|benchmarks|custom|datasets)/[\w./]+)`", text)
    for path in links + named:
        assert (repository / path).exists(), path


def test_every_setting_that_the_readme_names_exists(repository):
    configs = "".join(file.read_text() for file in (repository / "bundle" / "configs").glob("*.yaml"))
    readme = "".join(line for line in (repository / "README.md").open() if "-m pytest" not in line)
    for option in set(re.findall(r"--(\w+)", readme)) - {"config_file", "tracking", "root"}:
        assert re.search(rf"^{option}:", configs, re.MULTILINE), option
