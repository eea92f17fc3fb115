# SPDX-License-Identifier: Apache-2.0
"""What the templates of docs/README.md leave open in every bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shared_words(name: str, package: str, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the words to fill in.

    Args:
        name: of the bundle.
        package: of its Python code.
        metadata: of the bundle.
    """
    packages = metadata["required_packages_version"]
    return {
        "name": name,
        "package": package,
        "title": metadata["name"],
        "authors": metadata["authors"],
        "task": metadata["task"],
        "versions": f"MONAI {metadata['monai_version']}, PyTorch {metadata['pytorch_version']}, "
        f"NumPy {metadata['numpy_version']}",
        "requirements": " ".join(f'"{each}=={version}"' for each, version in packages.items()),
        "pins": f'"monai=={metadata["monai_version"]}" "torch=={metadata["pytorch_version"]}" '
        f'"numpy=={metadata["numpy_version"]}"',
    }
