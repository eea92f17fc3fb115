# SPDX-License-Identifier: Apache-2.0
"""The gate's file."""

from __future__ import annotations

from dataclasses import replace

import pytest

from custom.gate import GateRecord, PromptGate

RECORD = GateRecord(
    localizer={"name": "concept", "sizes": [1, 2]},
    dataset="D",
    scans=8,
    threshold=0.5,
    prompts={"brain tumor": PromptGate("use", ["it follows"], {"found": 1.0}, [{"text": "x", "kind": "nonsense"}])},
    settings={"seed": 0},
)


def test_what_is_written_is_read_back(tmp_path):
    RECORD.save(tmp_path)
    assert GateRecord.load(tmp_path) == RECORD


def test_no_file_is_no_gate(tmp_path):
    assert GateRecord.load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 1, "prompts": {"a": {}}}'])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / "gate.json").write_text(text)
    with pytest.raises(ValueError, match=r"gate\.json is not a gate"):
        GateRecord.load(tmp_path)


def test_verdicts():
    assert RECORD.verdict("brain tumor") == "use"
    assert RECORD.verdict("lung") is None


def test_made_alike():
    assert RECORD.made_like(replace(RECORD, scans=3, prompts={}, localizer={"sizes": (1, 2), "name": "concept"}))
    assert not RECORD.made_like(replace(RECORD, localizer={"name": "clipseg"}))
    assert not RECORD.made_like(replace(RECORD, threshold=None))
