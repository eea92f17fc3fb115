# SPDX-License-Identifier: Apache-2.0
"""ScanDataset: caching, and one answer to scans that fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, Lambdad, RandFlipd

from datasets import LoadScand, ScanDataset, ScanError, load_datalist


@pytest.fixture
def items(make, tmp_path):
    for index in range(4):
        make.png(tmp_path / f"{index}.png", np.full((3, 4), index, np.uint8) + np.eye(3, 4, dtype=np.uint8))
    return load_datalist(tmp_path).items


def broken(items, *indices):
    for index in indices:
        path = items[index]["image"]
        with open(path, "rb") as stream:
            content = stream.read()
        with open(path, "wb") as stream:
            stream.write(content[:40])
    return items


def test_the_deterministic_part_runs_once(items):
    calls = []
    chain = [LoadScand(), Lambdad("image", lambda image: calls.append(1) or image), RandFlipd("image", prob=0.5)]
    dataset = ScanDataset(items, Compose(chain), progress=False)
    for _ in range(3):
        assert [float(item["image"].min()) for item in dataset] == [0, 1, 2, 3]
    assert len(calls) == 4


@pytest.mark.parametrize("cache", [True, False])
def test_bad_scans_raise_or_are_left_out(items, cache, messages):
    broken(items, 1, 3)
    with pytest.raises(ScanError, match=r"1\.png: it cannot be read"):
        list(ScanDataset(items, LoadScand(), cache=cache, progress=False))
    dataset = ScanDataset(items, [LoadScand()], skip_bad=True, cache=cache, progress=False)
    assert [item["scan_id"] for item in dataset] == ["0.png", "2.png"]
    assert [name for name, _ in dataset.skipped] == ["1.png", "3.png"]
    assert messages().count("Left out: ") == 2
    assert [float(item["image"].min()) for item in dataset] == [0, 2]


def test_none_left(items):
    with pytest.raises(ScanError, match=r"4 scans: none of them can be used; the first: .*0\.png"):
        ScanDataset(broken(items, 0, 1, 2, 3), LoadScand(), skip_bad=True, progress=False)
    with pytest.raises(ScanError, match="no scans to read"):
        ScanDataset([], LoadScand())


def test_mistakes_in_a_program_are_never_skipped(items):
    def fail(image):
        raise KeyError("prompt")

    with pytest.raises(KeyError, match="prompt") as caught:
        ScanDataset(items, [LoadScand(), Lambdad("image", fail)], skip_bad=True, progress=False)
    assert caught.value.__notes__ == ["while preparing the scan 0.png"]


def test_other_data_fill_the_cache_anew(items):
    dataset = ScanDataset(items[:2], LoadScand(), skip_bad=True, progress=False)
    dataset.set_data(broken(items, 2)[1:])
    assert [item["scan_id"] for item in dataset] == ["1.png", "3.png"]
    assert len(dataset.skipped) == 1


def test_batches_of_workers(items):
    dataset = ScanDataset(items, LoadScand(), progress=False)
    (batch,) = DataLoader(dataset, batch_size=4, num_workers=1)
    assert batch["image"].shape == (4, 1, 4, 3)
    assert torch.equal(batch["image"][2], dataset[2]["image"])


def test_one_scan(items):
    (batch,) = DataLoader(ScanDataset(items[:1], LoadScand(), progress=False), batch_size=4)
    assert batch["image"].shape == (1, 1, 4, 3)
