# SPDX-License-Identifier: Apache-2.0
"""`python -m datasets.phantoms`: generated scans as a folder of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets import load_datalist
from datasets.phantoms.__main__ import main


def test_writes_a_folder_that_can_be_learned_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["brain_mri_2d", "--root", str(tmp_path), "--counts", "3", "2", "1", "--size", "32"])
    datalist = load_datalist(tmp_path / "brain_mri_2d")
    assert [len(datalist.split(split)) for split in ("train", "val", "test")] == [3, 2, 1]
    assert datalist.spatial_dims == 2
    assert capsys.readouterr().out.startswith(str(tmp_path / "brain_mri_2d"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["brain_mri"], "brain_mri_2d"), (["brain_mri_2d", "--counts", "0", "0", "0"], "Counts of phantoms")],
)
def test_what_cannot_be_made_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, "--root", str(tmp_path)])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
