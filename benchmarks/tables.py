# SPDX-License-Identifier: Apache-2.0
"""Tables as CSV for programs and as Markdown for people."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_table(rows: Sequence[Mapping[str, str]], stem: Path, head: str) -> None:
    """Write rows to ``stem`` with ``.csv``, and below a head to ``stem`` with ``.md``; its folder is created."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    stem.with_suffix(".md").write_text(head + "\n" + "\n".join(lines) + "\n", encoding="utf-8")
