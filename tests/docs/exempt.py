# SPDX-License-Identifier: Apache-2.0
"""Commands of the documentation that the tests do not run, each with its reason."""

from __future__ import annotations

# Parts of commands, between `&&` and `;`, by how they begin.
PARTS = {
    "V=": "the name of the environment",
    "python3 -m venv": "the environment: .ci/run makes one by this very command",
    "pip install": "likewise",
    "ruff check": "part of the test command itself, which .ci/run runs",
    "python -m pytest -q -n 2": "the test command itself",
}

# Blocks after `<!-- not run: reason -->`: page -> reasons, in their order.
BLOCKS: dict[str, list[str]] = {
    "docs/from_paper_to_code.md": [
        "needs the published weights of BiomedCLIP and SAM",
        "a ResNet-50 at 224 px for 500 epochs",
        "fine-tunes the encoder of the command above",
    ],
}

# Options in the text that are none of our configs'.
OPTIONS = {
    "lr": "of the authors' own training script",
    "max_epoch": "a misspelt one, where that is explained",
}
