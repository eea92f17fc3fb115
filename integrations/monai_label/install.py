# SPDX-License-Identifier: Apache-2.0
"""An environment of its own for MONAI Label: ``python -m integrations.monai_label.install --venv V``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent


def install(venv: Path) -> None:
    """Make a virtual environment with MONAI Label and what the bundles need.

    The pip that Python brings is used as it is: later ones stop at the tags of the wheel of itk 5.4.7 when they check.

    Args:
        venv: folder of the environment; what is missing in an earlier one is added. About 8 GB.

    Raises:
        RuntimeError: on a Python that MONAI Label 0.8.5 does not run on.
        subprocess.CalledProcessError: if pip fails; it has said why.
    """
    if sys.version_info[:2] != (3, 11):
        raise RuntimeError(
            f"This is Python {sys.version_info[0]}.{sys.version_info[1]}; MONAI Label 0.8.5 and the bundles meet on "
            "3.11 only. Run this file with python3.11: it needs nothing else."
        )
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = str(venv / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-r", str(_FOLDER / "requirements.txt")], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="folder of the new environment")
    install(parser.parse_args().venv)


if __name__ == "__main__":
    main()
