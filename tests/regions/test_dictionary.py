# SPDX-License-Identifier: Apache-2.0
"""LocalizeRegiond alone, in MONAI's datasets, and with a store."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, Flipd
from PIL import Image

from custom.regions import LocalizeRegiond, RegionStore
from datasets import ScanDataset, ScanError


def _load(path: Path):
    import sys

    spec = importlib.util.spec_from_file_location("region_standin", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


HalfLocalizer = _load(Path(__file__).with_name("standin.py")).HalfLocalizer
AFFINE = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))


def scan(*shape: int, scan_id: str = "a.png") -> dict:
    image = torch.arange(float(torch.tensor(shape).prod())).reshape(1, *shape)
    return {"image": MetaTensor(image, affine=AFFINE), "scan_id": scan_id}


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 4)])
@pytest.mark.parametrize("with_store", [True, False])
def test_adds_a_map_for_each_prompt(tmp_path, shape, with_store):
    store = RegionStore(tmp_path) if with_store else None
    region = LocalizeRegiond(localizer=HalfLocalizer(), prompts=["x", "nothing", "y"], store=store)(scan(*shape))[
        "region"
    ]
    assert isinstance(region, MetaTensor)
    assert region.dtype == torch.float32
    assert region.shape == (3, *shape)
    assert torch.equal(region.affine, AFFINE)
    half = torch.zeros(shape)
    half[:4] = round(0.7 * 255) / 255
    assert torch.equal(region[0].as_tensor(), half)
    assert not region[1].any()
    assert region[2].as_tensor()[:, :3].all()


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 4)])
def test_read_and_made_maps_are_the_same(tmp_path, shape):
    localizer = HalfLocalizer(level=0.123456)
    localize = LocalizeRegiond(localizer=localizer, prompts=["x", "y"], store=RegionStore(tmp_path))
    made, read = (localize(scan(*shape))["region"] for _ in range(2))
    assert torch.equal(made, read)
    assert localizer.calls == [["x", "y"]]
    given = LocalizeRegiond(prompts=["y", "x"], store=RegionStore(tmp_path, read_only=True))
    assert torch.equal(given(scan(*shape))["region"], made.flip(0))


def test_only_what_is_missing_is_made_in_one_call(tmp_path):
    localizer, store = HalfLocalizer(), RegionStore(tmp_path)
    LocalizeRegiond(localizer=localizer, prompts="y", store=store)(scan(8, 6))
    LocalizeRegiond(localizer=localizer, prompts=["x", "y", "nothing"], store=store)(scan(8, 6))
    assert localizer.calls == [["y"], ["x", "nothing"]]


def test_another_localizer_or_another_scan_of_that_name_is_localized_anew(tmp_path):
    store = RegionStore(tmp_path)
    LocalizeRegiond(localizer=HalfLocalizer(0.7), prompts="x", store=store)(scan(8, 6))
    second = HalfLocalizer(0.2)
    localize = LocalizeRegiond(localizer=second, prompts="x", store=store)
    assert localize(scan(8, 6))["region"].max() == pytest.approx(0.2)
    changed = scan(8, 6)
    changed["image"] = changed["image"] + 1
    localize(changed)
    assert len(second.calls) == 2


def test_a_phrase_with_commas_is_one_prompt():
    localizer = HalfLocalizer()
    region = LocalizeRegiond(localizer=localizer, prompts="tumor, edema, x")(scan(8, 6))["region"]
    assert region.shape == (1, 8, 6)
    assert localizer.calls == [["tumor, edema, x"]]


def test_the_record_measures_the_map(tmp_path):
    store = RegionStore(tmp_path)
    LocalizeRegiond(localizer=HalfLocalizer(), prompts="x", store=store, threshold=0.6)(scan(8, 6))
    record = store.record("a.png", "x")
    assert (record.coverage, record.threshold) == (0.5, 0.6)
    assert record.score == pytest.approx(0.7, abs=0.002)
    assert record.seconds >= 0


def test_in_cache_dataset_and_workers(tmp_path):
    localizer = HalfLocalizer()
    transform = Compose(
        [
            LocalizeRegiond(localizer=localizer, prompts=["x", "y"], store=RegionStore(tmp_path)),
            Flipd(["image", "region"], spatial_axis=0),
        ]
    )
    data = [scan(8, 6, scan_id=f"case/{index}.png") for index in range(4)]
    cached = CacheDataset(data, transform, progress=False)
    assert len(localizer.calls) == 4
    batches = list(DataLoader(Dataset(data, pickle.loads(pickle.dumps(transform))), batch_size=2, num_workers=2))
    assert len(batches) == 2
    assert batches[0]["region"].shape == (2, 2, 8, 6)
    assert torch.equal(batches[1]["region"][1], cached[3]["region"].as_tensor())
    assert bool((cached[0]["region"][0, 4:] > 0).all())  # flipped with the image


def test_the_file_name_stands_in_for_a_missing_scan_id(tmp_path):
    named = scan(8, 6)
    del named["scan_id"]
    with pytest.raises(ValueError, match="scan_id"):
        LocalizeRegiond(localizer=HalfLocalizer(), prompts="x")(named)
    named["image"].meta["filename_or_obj"] = "/data/b.png"
    LocalizeRegiond(localizer=HalfLocalizer(), prompts="x", store=RegionStore(tmp_path))(named)
    assert (tmp_path / "maps" / "data" / "b.png" / "x.png").is_file()


def test_a_scan_is_asked_for_its_own_prompts_only(tmp_path):
    localizer = HalfLocalizer()
    localize = LocalizeRegiond(localizer=localizer, prompts=["x", "y", "nothing"], store=RegionStore(tmp_path))
    region = localize(scan(8, 6) | {"prompts": ["y"]})["region"]
    assert region.shape == (3, 8, 6)
    assert not region[0].any()
    assert region[1, :, :3].all()
    assert localizer.calls == [["y"]]
    assert [file.name for file in (tmp_path / "maps" / "a.png").glob("*.png")] == ["y.png"]
    assert localize(scan(8, 6) | {"prompts": []})["region"][0].any(), "none of its own: the run's"
    with pytest.raises(ValueError, match=r"a\.png.*'z'.*x, y, nothing"):
        localize(scan(8, 6) | {"prompts": ["z"]})


def test_union_is_one_map_whatever_was_asked():
    both = LocalizeRegiond(localizer=HalfLocalizer(), prompts=["x", "y"], union=True)
    region = both(scan(8, 6))["region"]
    assert region.shape == (1, 8, 6)
    assert isinstance(region, MetaTensor)
    assert torch.equal(region.affine, AFFINE)
    each = LocalizeRegiond(localizer=HalfLocalizer(), prompts=["x", "y"])(scan(8, 6))["region"]
    assert torch.equal(region[0], each.amax(dim=0))
    one = both(scan(8, 6) | {"prompts": ["y"]})["region"]
    assert torch.equal(one[0], each[1])


class Wrong(HalfLocalizer):
    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer

    def localize(self, image, prompts):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(8, 6), r"a\.png: Wrong.*\(1, 8, 6\)"),
        (torch.zeros(2, 8, 6), r"a\.png: Wrong.*\(1, 8, 6\)"),
        (None, r"a\.png: Wrong.*NoneType"),
        (torch.full((1, 8, 6), 1.5), r"a\.png: Wrong.*1\.5"),
        (torch.full((1, 8, 6), -0.5), r"a\.png: Wrong.*-0\.5"),
        (torch.full((1, 8, 6), torch.nan), r"a\.png: Wrong.*nan"),
    ],
)
def test_a_wrong_answer_names_scan_and_localizer(tmp_path, answer, message):
    with pytest.raises(ValueError, match=message):
        LocalizeRegiond(localizer=Wrong(answer), prompts="x", store=RegionStore(tmp_path))(scan(8, 6))
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_localizer_says_in_which_scan():
    with pytest.raises(ZeroDivisionError) as raised:
        LocalizeRegiond(localizer=Wrong(ZeroDivisionError()), prompts="x")(scan(8, 6))
    assert "a.png" in raised.value.__notes__[0]


def test_a_map_of_another_size_is_refused(tmp_path):
    LocalizeRegiond(localizer=HalfLocalizer(), prompts="x", store=RegionStore(tmp_path))(scan(8, 6))
    with pytest.raises(ValueError, match=r"a\.png.*\(8, 6\).*\(6, 8\).*spacing"):
        LocalizeRegiond(prompts="x", store=RegionStore(tmp_path, read_only=True))(scan(6, 8))


def given(folder: Path) -> LocalizeRegiond:
    return LocalizeRegiond(prompts="x", store=RegionStore(folder, read_only=True))


def other(data: dict) -> dict:
    return {**data, "image": data["image"] + 1}


def test_given_maps_of_other_scans_of_the_same_names_are_refused_and_counted(tmp_path):
    scans = [scan(8, 6, scan_id=name) for name in ("a.png", "b.png", "c.png")]
    for each in scans:
        LocalizeRegiond(localizer=HalfLocalizer(), prompts="x", store=RegionStore(tmp_path))(each)
    localize = given(tmp_path)
    localize(scans[0])
    for number, each in enumerate(scans[1:], 1):
        with pytest.raises(
            ScanError, match=rf"{each['scan_id']}: .*made from another scan.*\({number} of {number + 1} maps"
        ):
            localize(other(each))
    assert localize.store.compared == {"same": 1, "other": 2}
    # A bad scan like others: left out if that was asked for, and an error where none is left.
    with pytest.raises(ScanError, match=r"2 scans: none of them can be used"):
        ScanDataset([other(each) for each in scans[:2]], given(tmp_path), skip_bad=True, progress=False)
    kept = ScanDataset([scans[0], other(scans[1])], given(tmp_path), skip_bad=True, progress=False)
    assert [name for name, _ in kept.skipped] == ["b.png"]
    assert len(kept) == 1


def test_given_maps_edited_by_hand_are_still_those_of_their_scans(tmp_path):
    made = LocalizeRegiond(localizer=HalfLocalizer(), prompts="x", store=RegionStore(tmp_path))
    made(scan(8, 6))
    Image.fromarray(np.full((6, 8), 255, dtype=np.uint8)).save(tmp_path / "maps/a.png/x.png")
    assert given(tmp_path)(scan(8, 6))["region"].min() == 1


@pytest.mark.parametrize(("made_with", "read_with"), [(1, 3), (3, 1)])
def test_grey_scans_are_known_again_in_other_channels(tmp_path, made_with, read_with):
    grey = scan(8, 6)
    in_channels = {count: {**grey, "image": grey["image"].repeat(count, 1, 1)} for count in (1, 3)}
    LocalizeRegiond(localizer=HalfLocalizer(), prompts="x", store=RegionStore(tmp_path))(in_channels[made_with])
    localize = given(tmp_path)
    localize(in_channels[read_with])
    assert localize.store.compared == {"same": 1}


def test_what_cannot_be_compared_is_counted_and_said(tmp_path, caplog):
    names = [f"{index}.png" for index in range(11)]
    made = LocalizeRegiond(localizer=HalfLocalizer(), prompts="x", store=RegionStore(tmp_path))
    for name in names:
        made(scan(8, 6, scan_id=name))
        record = tmp_path / "maps" / name / "x.json"
        if name == "0.png":
            record.unlink()  # a map from elsewhere
        else:
            record.write_text(json.dumps({**json.loads(record.read_text()), "image_digest": ""}))
    localize = given(tmp_path)
    for name in names:
        localize(other(scan(8, 6, scan_id=name)))
    assert localize.store.compared == {"unknown": 11}
    assert "1 region maps so far do not tell of which scans" in caplog.text
    assert "10 region maps so far" in caplog.text
    colour = scan(8, 6, scan_id="colour.png")
    colour["image"] = torch.stack([colour["image"][0], colour["image"][0] * 2, colour["image"][0] * 3])
    made(colour)
    localize({**colour, "image": colour["image"].mean(dim=0, keepdim=True)})  # read as grey
    assert localize.store.compared["unknown"] == 12


@pytest.mark.parametrize("prompts", ["", [], ["x", " "]])
def test_needs_a_prompt(prompts):
    with pytest.raises(ValueError, match="brain tumor"):
        LocalizeRegiond(localizer=HalfLocalizer(), prompts=prompts)


def test_needs_a_localizer_or_maps(tmp_path):
    with pytest.raises(ValueError, match="localizer"):
        LocalizeRegiond(prompts="x", store=RegionStore(tmp_path))
