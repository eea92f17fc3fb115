# SPDX-License-Identifier: Apache-2.0
"""The store of region maps: lossless, atomic, honest about what it holds."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from custom.regions import RegionRecord, RegionStore
from custom.regions.store import prompt_slug

RECORD = RegionRecord({"name": "test", "sizes": (1, 2)}, "brain tumor", (20, 30), "abc")


@pytest.fixture
def store(tmp_path) -> RegionStore:
    return RegionStore(tmp_path / "store")


def volume_record(values: torch.Tensor) -> RegionRecord:
    return replace(RECORD, shape=tuple(values.shape))


def test_every_level_survives(store):
    values = torch.arange(256).reshape(16, 16) / 255
    store.save("a.png", "brain tumor", values, RECORD)
    assert torch.equal(store.load("a.png", "brain tumor"), values)
    volume = values.reshape(8, 8, 4)
    store.save("b.nii", "brain tumor", volume, volume_record(volume))
    assert torch.equal(store.load("b.nii", "brain tumor"), volume)


def test_rounds_to_the_nearest_level(store, generator):
    values = torch.rand(20, 30, generator=generator)
    store.save("a", "brain tumor", values, RECORD)
    assert (store.load("a", "brain tumor") - values).abs().max() <= 0.5 / 255 + 1e-6


def test_a_picture_is_upright_for_people(store):
    values = torch.zeros(20, 30)
    values[15, 3] = 1  # x = 15 (to the right), y = 3 (down)
    store.save("case/a.png", "brain tumor", values, RECORD)
    with Image.open(store.root / "maps" / "case" / "a.png" / "brain_tumor.png") as picture:
        assert picture.size == (20, 30)
        assert picture.getpixel((15, 3)) == 255


def test_a_volume_keeps_affine_and_probabilities_for_other_software(store, generator):
    values = torch.rand(5, 6, 7, generator=generator)
    affine = torch.tensor([[1.5, 0, 0, -3], [0, 0.7, 0, 5], [0, 0, 2, 9], [0, 0, 0, 1]], dtype=torch.float64)
    store.save("a.nii.gz", "brain tumor", values, volume_record(values), affine)
    volume = nibabel.load(store.root / "maps" / "a.nii.gz" / "brain_tumor.nii.gz")
    np.testing.assert_allclose(volume.affine, affine.numpy(), atol=1e-6)
    assert volume.get_data_dtype() == np.uint8
    np.testing.assert_allclose(volume.get_fdata(), values.numpy(), atol=0.5 / 255 + 1e-6)


def test_the_record_comes_back(store):
    store.save("a", "brain tumor", torch.ones(20, 30), replace(RECORD, coverage=0.25, seconds=1.5))
    found = store.record("a", "brain tumor")
    assert found.matches(RECORD)
    assert (found.coverage, found.seconds, found.shape) == (0.25, 1.5, (20, 30))
    assert found.software["torch"] == str(torch.__version__)
    assert store.record("b", "brain tumor") is None


@pytest.mark.parametrize(
    "change", [{"localizer": {"name": "other"}}, {"shape": (30, 20)}, {"image_digest": "other scan"}]
)
def test_a_map_made_otherwise_does_not_match(store, change):
    store.save("a", "brain tumor", torch.ones(20, 30), RECORD)
    assert store.load("a", "brain tumor", replace(RECORD, **change)) is None
    assert store.load("a", "brain tumor", replace(RECORD, seconds=9.0, threshold=0.1)) is not None
    assert store.load("a", "brain tumor", None) is not None
    assert store.load("a", "other prompt", None) is None


@pytest.mark.parametrize("damage", ["record", "map", "foreign map", "no map"])
def test_a_damaged_map_counts_as_missing(store, damage):
    store.save("a", "brain tumor", torch.ones(20, 30), RECORD)
    picture = store.root / "maps" / "a" / "brain_tumor.png"
    if damage == "record":
        picture.with_suffix(".json").write_text('{"localizer": {')
    elif damage == "map":
        picture.write_bytes(picture.read_bytes()[:40])
    elif damage == "no map":
        picture.unlink()
    else:
        Image.fromarray(np.zeros((30, 20), np.uint8)).save(picture)
    assert store.load("a", "brain tumor", RECORD) is None


@pytest.mark.parametrize("fails_at", ["brain_tumor.png", "brain_tumor.json"])
def test_a_failed_write_leaves_the_earlier_map_or_none(store, monkeypatch, fails_at):
    store.save("a", "brain tumor", torch.ones(20, 30), RECORD)
    replace_file = os.replace

    def full_disk(source, target):
        if str(target).endswith(fails_at):
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        store.save("a", "brain tumor", torch.zeros(20, 30), RECORD)
    # With the old record beside a new map, the map is no longer what the record says.
    found = store.load("a", "brain tumor", RECORD)
    assert found is None if fails_at.endswith("json") else bool((found == 1).all())
    assert not list(store.root.rglob(".*"))


def test_a_failing_encoder_leaves_nothing_behind(store, monkeypatch):
    monkeypatch.setattr(nibabel, "save", lambda image, path: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.save("a", "brain tumor", torch.ones(4, 4, 4), RECORD)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def _write_often(root: str, level: float) -> None:
    for _ in range(40):
        RegionStore(root).save("a", "brain tumor", torch.full((20, 30), level), replace(RECORD, score=level))


def test_two_processes_do_not_spoil_a_map(store):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(str(store.root), level)) for level in (0.2, 0.8)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = store.load("a", "brain tumor", RECORD)
        assert found is None or len(found.unique()) == 1
    for writer in writers:
        writer.join()
    assert all(writer.exitcode == 0 for writer in writers)
    _write_often(str(store.root), 0.4)
    assert store.load("a", "brain tumor", RECORD).unique().tolist() == pytest.approx([0.4])


def test_read_only_takes_any_map_and_names_what_is_missing(store):
    store.save("case/a.png", "brain tumor", torch.ones(20, 30), RECORD)
    given = RegionStore(store.root, read_only=True)
    assert given.load("case/a.png", "brain tumor", replace(RECORD, localizer={"name": "other"})) is not None
    with pytest.raises(ValueError, match=r"case/b\.png.*localize\.yaml.*--output_dir"):
        given.load("case/b.png", "brain tumor")
    with pytest.raises(ValueError, match="'other'"):
        given.load("case/a.png", "other")
    with pytest.raises(ValueError, match="read only"):
        given.save("case/a.png", "brain tumor", torch.ones(20, 30), RECORD)


def test_read_only_takes_maps_edited_by_hand(store):
    folder = store.root / "maps" / "a.png"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((30, 20), 255, np.uint8)).save(folder / "lesion.png")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)), folder / "mask.nii.gz")
    given = RegionStore(store.root, read_only=True)
    assert given.load("a.png", "lesion").shape == (20, 30)
    assert bool((given.load("a.png", "mask") == torch.ones(4, 5, 6)).all())


@pytest.mark.parametrize("scan_id", ["../a", "a/../../b", "/etc/a", "", "..", "a\\..\\b", "a\0b"])
def test_a_scan_id_stays_in_the_store(store, scan_id):
    with pytest.raises(ValueError, match="relative path"):
        store.save(scan_id, "brain tumor", torch.ones(20, 30), RECORD)


@pytest.mark.parametrize("scan_id", ["train/no tumor/scan.1.nii.gz", "1.2.840/5.6", "..hidden/ä.png"])
def test_scan_ids_may_have_folders_and_extensions(store, scan_id):
    store.save(scan_id, "brain tumor", torch.ones(20, 30), RECORD)
    assert (store.root / "maps" / scan_id / "brain_tumor.png").is_file()


def test_slugs_are_readable_and_tell_prompts_apart():
    assert prompt_slug("brain tumor") == "brain_tumor"
    prompts = [
        "brain tumor",
        "Brain tumor",
        "brain, tumor",
        "brain_tumor",
        "brain  tumor",
        "brain tumor ",
        "肿瘤",
        "肺",
    ]
    prompts += ["a" * 80, "a" * 81, "../../etc"]
    slugs = [prompt_slug(prompt) for prompt in prompts]
    assert len(set(slugs)) == len(prompts)
    assert all(slug.isascii() and len(slug) <= 80 and "/" not in slug and "." not in slug for slug in slugs)


def test_records_are_plain_json(store):
    store.save("a", "brain tumor", torch.ones(20, 30), RECORD)
    content = json.loads((store.root / "maps" / "a" / "brain_tumor.json").read_text())
    assert content["localizer"] == {"name": "test", "sizes": [1, 2]}
    assert content["prompt"] == "brain tumor"


def _hang_in_a_write(root: str, path: str) -> None:
    """Write half a file for a map, say so, and never come to an end."""

    def write(image, target):
        target.write_bytes(b"half")
        open(path, "w").close()
        time.sleep(600)

    nibabel.save = write
    RegionStore(root).save("a", "brain tumor", torch.ones(4, 4, 4), volume_record(torch.ones(4, 4, 4)))


def test_only_what_killed_writers_left_is_removed(store, tmp_path):
    """By the next write to the folder, or at once; what a living process writes stays."""
    for tidy in (lambda: store.save("a", "other", torch.ones(20, 30), RECORD), store.tidy):
        started = tmp_path / "started"
        writer = multiprocessing.get_context("fork").Process(
            target=_hang_in_a_write, args=(str(store.root), str(started)), daemon=True
        )
        writer.start()
        while not started.exists():
            time.sleep(0.01)
        started.unlink()
        (half,) = store.root.rglob(".*.nii.gz")
        tidy()
        assert half.exists()
        writer.kill()
        writer.join()
        assert half.exists()
        tidy()
        assert list(store.root.rglob(".*")) == []


def test_tidying_leaves_everything_else(store):
    store.save("a", "brain tumor", torch.ones(20, 30), RECORD)
    foreign = store.root / "maps" / "a" / ".DS_Store"
    foreign.write_text("not ours")
    assert store.tidy() == 0
    assert foreign.exists()
    assert store.load("a", "brain tumor", RECORD) is not None


def test_a_map_can_be_found_by_people(store):
    store.save("case/a.png", "brain tumor", torch.ones(20, 30), RECORD)
    assert store.file("case/a.png", "brain tumor", 2).is_file()
    assert store.file("case/a.png", "brain tumor", 3).name == "brain_tumor.nii.gz"
