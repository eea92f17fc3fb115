# SPDX-License-Identifier: Apache-2.0
"""Names inside the packed bundle: `custom` and `datasets` under one package, files where the bundle has them."""

from __future__ import annotations

import ast
import re


def renamed(text: str, package: str) -> str:
    """Rewrite what a source file, a config or a record calls modules and files.

    ``custom.x`` becomes ``<package>.x`` and ``datasets.x`` becomes ``<package>.datasets.x``, in imports, ``_target_``
    paths and prose alike; paths and commands start in the bundle's folder instead of the repository's root.

    Args:
        text: of any file that is packed.
        package: name of the bundle's package.
    """
    rules = [
        (r"(?<![\w./])custom(?=[./][A-Za-z_])", package),
        (r"(?<![\w./])datasets(?=[./][A-Za-z_])", f"{package}.datasets"),
        (r"(?<=\bfrom )custom(?= import\b)", package),
        (r"(?<=\bfrom )datasets(?= import\b)", f"{package}.datasets"),
        (re.escape(f"{package}.datasets/"), f"{package}/datasets/"),
        (r"(?<![\w./])bundle/(?=configs\b|docs\b|models\b)", ""),
        (r"(?m)^bundle_root: bundle$", 'bundle_root: "."'),
        (r"\brepository root\b", "bundle's folder"),
    ]
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement.replace("\\", "\\\\"), text)
    return text


def outside_names(source: str) -> list[str]:
    """Modules of the repository that Python source still imports under their old names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return sorted(name for name in found if name.split(".")[0] in ("custom", "datasets"))
