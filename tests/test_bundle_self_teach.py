# SPDX-License-Identifier: Apache-2.0
"""self_teach.yaml as a user runs it: from unlabelled scans to a network that localize.yaml uses, in 2D and 3D."""

from __future__ import annotations

import json
import logging
import re
import shlex

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from custom.localizers import ConceptLocalizer
from custom.workflows.self_teaching import (
    SelfLabelled,
    calibrated,
    draw_shots,
    kinds_of_scans,
    localize_command,
    teaching_items,
    teaching_sampler,
)
from datasets.datalist import load_datalist
from datasets.phantoms import ensure_phantoms

QUICK = {
    "image_size": [32, 32],
    "channels": [4, 8, 8],
    "residual_units": 0,
    "max_epochs": 2,
    "samples_per_epoch": 16,
    "batch_size": 4,
    "mask_values": [4, 5],
    "device": torch.device("cpu"),
}
COUNTS = {"train": 10, "val": 3, "test": 2}


@pytest.fixture(autouse=True)
def from_repository_root(repository, monkeypatch):
    monkeypatch.chdir(repository)


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    return ensure_phantoms("brain_mri", 2, tmp_path_factory.mktemp("brains"), counts=COUNTS)


def teach(dataset, output, **overrides):
    workflow = ConfigWorkflow(
        "bundle/configs/self_teach.yaml",
        meta_file="bundle/configs/metadata.json",
        logging_file=False,
        workflow_type="train",
        **{**QUICK, "dataset_dir": str(dataset), "output_dir": str(output), **overrides},
    )
    workflow.initialize()
    workflow.run()
    return json.loads((output / "self_taught.json").read_text())


def test_a_run_leaves_a_network_that_the_localizer_uses(brains, tmp_path, caplog, configs):
    with caplog.at_level(logging.INFO):
        record = teach(brains, tmp_path, shots=2)
    assert (record["shots"], len(record["shot_ids"]), record["num_scans"]) == (2, 2, 10)
    assert set(record["shot_ids"]) <= {item["scan_id"] for item in load_datalist(brains).split("train")}
    assert {"data_digest", "sha256", "versions", "seed", "lesion_statistics", "fit"} <= record.keys()
    assert {"self_taught.safetensors", "history.csv", "model.pt"} <= {path.name for path in tmp_path.iterdir()}
    weights = tmp_path / "self_taught.safetensors"
    assert str(weights) in caplog.text
    vocabulary = configs / "localizers" / "self_taught_vocabulary.yaml"
    localizer = ConceptLocalizer(vocabulary, weights=str(weights))
    image = torch.rand(1, 50, 40, generator=torch.Generator().manual_seed(0))
    tumor, lungs = localizer.localize(image, ["brain tumor", "lungs on CT"])
    assert tumor.shape == lungs.shape == (50, 40)
    assert 0 <= tumor.min() <= tumor.max() <= 1


def test_the_same_seed_gives_the_same_network(brains, tmp_path):
    first, again, other = (teach(brains, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first["sha256"] == again["sha256"] != other["sha256"]
    assert first["data_digest"] == other["data_digest"]
    assert first["shot_ids"] == []


def test_volumes_and_lungs(tmp_path):
    folder = ensure_phantoms("chest_ct", 3, tmp_path, counts={"train": 3, "val": 1, "test": 1})
    record = teach(
        folder,
        tmp_path / "out",
        lesions="lung",
        image_size=[16, 16, 16],
        max_epochs=1,
        samples_per_epoch=4,
        mask_values=[6, 7, 8, 9],
        shots=1,
    )
    assert (record["spatial_dims"], record["area"], record["network"]["spatial_dims"]) == (3, "lungs", 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"shots": 11}, "11 annotated scans are wanted, 10 scans"),
        ({"image_size": [30, 32]}, "multiples of 4"),
        ({"image_size": [32, 32, 32]}, "2D scans and this network need 2 multiples"),
        ({"lesions": "liver"}, "No lesions 'liver'; known: brain, lung"),
        ({"earlier": "nowhere.safetensors"}, "nowhere.safetensors and nowhere.json: no such file"),
        ({"area": "liver"}, "Unknown search area 'liver'"),
        ({"lesion_options": {"size": [0.5, 0.1]}}, "least <= largest"),
    ],
)
def test_settings_that_cannot_work_say_why(brains, tmp_path, raises_cause, overrides, message):
    with raises_cause(message):
        teach(brains, tmp_path, **overrides)


def test_shots_come_from_train_alone_and_no_other_annotation_is_read(brains):
    datalist = load_datalist(brains)
    four, eight = draw_shots(datalist, 4, seed=3), draw_shots(datalist, 8, seed=3)
    assert eight[:4] == four
    assert draw_shots(datalist, 4, seed=4) != four
    items = teaching_items(datalist, "train", four)
    assert [item["scan_id"] for item in items if "mask" in item or "boxes" in item] == [
        item["scan_id"] for item in datalist.split("train") if item["scan_id"] in four
    ]
    assert not any("mask" in item or "label" in item for item in teaching_items(datalist, "val"))


def test_kinds_of_scans_get_their_share_of_the_draws():
    kinds = ["unlabelled"] * 90 + ["annotated"] * 2 + ["self_labelled"] * 8
    generator = torch.Generator().manual_seed(0)
    shares = {"annotated": 0.4, "self_labelled": 0.2}
    drawn = np.array(list(teaching_sampler(kinds, shares, 4000, generator)))
    assert abs(np.isin(drawn, [90, 91]).mean() - 0.4) < 0.03
    assert abs((drawn > 91).mean() - 0.2) < 0.03
    assert len(set(teaching_sampler(["unlabelled"] * 100, shares, 4000, generator))) == 100
    assert set(teaching_sampler(["annotated"] * 2, shares, 50, generator)) == {0, 1}


class Sure:
    """Stands in for a trained network: its map is the scan."""

    image_size = (12, 12)

    def on_grid(self, grid, inside):
        return grid * inside


def spot(height, annotated=0.0):
    image = torch.zeros(1, 12, 12)
    image[0, 3:6, 3:6] = height
    image[0, 9, 9] = 0.8 * height
    area = torch.ones(1, 12, 12)
    return {"image": image, "area": area, "annotation": torch.zeros_like(area), "annotated": torch.tensor([annotated])}


def test_the_surest_scans_are_labelled_around_their_maximum():
    scans = [spot(0.3), spot(0.9), spot(1.0, annotated=1.0), spot(0.6), spot(0.2)]
    pool = SelfLabelled(scans, Sure(), share=0.5)
    assert sorted(pool.labels) == [1, 3]
    assert torch.equal(pool[1]["annotation"] > 0, (scans[1]["image"] == 0.9))
    assert pool[1]["annotated"] == 0
    assert not pool[0]["annotation"].any()
    assert kinds_of_scans(pool) == ["unlabelled", "self_labelled", "annotated", "self_labelled", "unlabelled"]
    assert not SelfLabelled(scans, None).labels
    with pytest.raises(ValueError, match="earlier network has the grid"):
        SelfLabelled([{**spot(1), "image": torch.zeros(1, 8, 8)}], Sure())


class Faint(torch.nn.Module):
    """A network that is never surer than 0.3 of what is bright, and at 0.1 elsewhere."""

    def forward(self, image):
        return torch.logit(0.1 + 0.2 * image)


def test_what_counts_as_half_is_chosen_on_synthetic_lesions():
    image = torch.zeros(1, 12, 12)
    image[0, 3:7, 3:7] = 1
    trial = {"image": image, "label": image.clone(), "area": torch.ones(1, 12, 12)}
    record = {"spatial_dims": 2, "image_size": [12, 12], "flips": [], "blur": 0, "area": "anywhere", "modality": "mri"}
    half = calibrated(Faint(), record, [trial])
    assert 0.1 < half <= 0.3


def test_a_second_round_goes_on_from_the_first(brains, tmp_path):
    first = teach(brains, tmp_path / "first", shots=1)
    weights = str(tmp_path / "first" / "self_taught.safetensors")
    second = teach(brains, tmp_path / "second", earlier=weights, seed=1, shots=2)
    assert second["earlier"] == first["sha256"] != second["sha256"]
    assert second["self_labelled"] == round(0.3 * 8)
    assert set(first["shot_ids"]) <= set(second["shot_ids"])
    assert second["shots"] == len(second["shot_ids"])


def test_the_next_command_can_be_pasted():
    words = shlex.split(localize_command("configs", "my scans", "O", "self_taught", "brain tumor"))
    given = dict(zip(words[5::2], words[6::2], strict=True))
    assert given["--dataset_dir"] == "my scans"
    assert re.fullmatch(r"\{'weights': 'O.self_taught\.safetensors'\}", given["--localizer_options"])
