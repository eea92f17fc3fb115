# SPDX-License-Identifier: Apache-2.0
"""The localization workflow without a config: whose fault an error is, what is kept, what the report holds."""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from custom.files import temporary_file
from custom.gate import GateRecord, PromptGate
from custom.localizers.base import UnknownPromptError
from custom.regions import LocalizeRegiond, RegionStore
from custom.workflows.localize import RegionLocalization
from datasets.errors import ScanError

SIDE = 20


class Ruled:
    """Finds the left part of a scan, as wide as the scan's first voxel says; raises ``error`` at the value 99."""

    native_dims = (2, 3)

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls = 0

    def describe(self) -> dict:
        return {"name": "ruled"}

    def localize(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        self.calls += 1
        width = int(image.reshape(-1)[0])
        if width == 99 and self.error:
            raise self.error
        found = torch.zeros(len(prompts), *image.shape[1:])
        found[:, :width] = 0.8
        return found


def scans(widths: Sequence[int], **extra: object) -> list[dict]:
    return [{"image": width, "scan_id": f"scan_{index:03}.png", **extra} for index, width in enumerate(widths)]


def load(item: dict) -> dict:
    if item["image"] is None:
        raise ScanError(item["scan_id"], "cannot be read")
    return {**item, "image": torch.full((1, SIDE, SIDE), float(item["image"]))}


@pytest.fixture
def localization(tmp_path) -> Callable[..., RegionLocalization]:
    def make(items: Sequence[dict], localizer: Ruled | None = None, prompts=("p",), **options) -> RegionLocalization:
        localize = LocalizeRegiond(localizer=localizer or Ruled(), prompts=prompts, store=RegionStore(tmp_path))
        return RegionLocalization(items, load, localize, tmp_path, progress=False, **options)

    return make


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def page(folder: Path) -> dict:
    text = (folder / "report.html").read_text()
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def test_all_files_are_written_and_no_others(localization, tmp_path):
    localization(scans([6, 8, 0]), dataset="D").run()
    assert {path.name for path in tmp_path.iterdir()} == {
        "maps",
        "report.html",
        "contact_sheet.png",
        "summary.json",
        "summary.csv",
    }
    content = page(tmp_path)
    assert (content["dataset"], content["scans"], content["localizer"]) == ("D", 3, {"name": "ruled"})
    assert content["cards"][0]["file"] == "maps/scan_002.png/p.png"
    assert "gate.yaml" in content["gate_help"]
    assert content["gate"] is None


def test_a_scan_that_cannot_be_localized_is_left_out_if_asked(localization, tmp_path):
    items = scans([2, 99, None, 4])
    localization(items, Ruled(ValueError("The scan holds NaN")), skip_bad=True).run()
    left_out = summary(tmp_path)["skipped"]
    assert [each["scan_id"] for each in left_out] == ["scan_001.png", "scan_002.png"]
    assert "NaN" in left_out[0]["message"]
    assert summary(tmp_path)["scans"] == 2
    assert page(tmp_path)["skipped"] == left_out


@pytest.mark.parametrize("error", [UnknownPromptError("p", ["q"]), OSError(28, "No space left"), RuntimeError("bug")])
def test_what_is_not_the_scans_fault_stops_the_run(localization, error):
    with pytest.raises(type(error)):
        localization(scans([2, 99, 4]), Ruled(error), skip_bad=True).run()


def test_none_that_can_be_used(localization, tmp_path):
    with pytest.raises(ScanError, match=r"scan_000.*none of 2 scans"):
        localization(scans([None, None]), skip_bad=True).run()
    assert not (tmp_path / "report.html").exists()


def test_a_run_that_fails_reports_what_it_has_and_goes_on_from_there(localization, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    items = scans([2, 4, 99, 6])
    with pytest.raises(ValueError, match="strange"):
        localization(items, Ruled(ValueError("strange"))).run()
    assert summary(tmp_path)["stopped"] == "strange"
    assert (summary(tmp_path)["scans"], summary(tmp_path)["planned"]) == (2, 4)
    assert page(tmp_path)["stopped"] == "strange"
    assert "Stopped after 2 of 4 scans" in caplog.text
    localizer = Ruled()
    localization(items, localizer).run()
    assert localizer.calls == 2
    assert "stopped" not in summary(tmp_path)
    assert page(tmp_path)["stopped"] == ""


def test_a_report_that_fails_does_not_hide_why_the_run_failed(localization, monkeypatch, caplog):
    run = localization(scans([2, 99]), Ruled(ValueError("strange")))
    monkeypatch.setattr(run.report, "write", lambda stopped: 1 / 0)
    with pytest.raises(ValueError, match="strange"):
        run.run()
    assert "could not be written" in caplog.text


def test_scans_with_prompts_of_their_own_are_reported_for_those_only(localization, tmp_path):
    items = [*scans([6, 8], prompts=["p"]), {"image": 7, "scan_id": "other.png", "prompts": ["q"]}]
    localization(items, prompts=["p", "q"]).run()
    maps = summary(tmp_path)["maps"]
    assert [(each["scan_id"], each["prompt"]) for each in maps] == [
        ("scan_000.png", "p"),
        ("scan_001.png", "p"),
        ("other.png", "q"),
    ]
    assert not any(each["flags"] for each in maps)


def test_suspicious_maps_are_shown_first_then_an_even_spread(localization, tmp_path):
    widths = [10] * 300
    widths[111], widths[222], widths[33] = 1, 18, 0
    localization(scans(widths), cards=20).run()
    content = page(tmp_path)
    shown = [card["map"] for card in content["cards"]]
    assert shown[:3] == [33, 111, 222]
    assert len(shown) == 20
    assert (shown[3], shown[-1]) == (0, 299)
    assert max(b - a for a, b in itertools.pairwise(shown[3:])) < 30
    assert len(content["maps"]["prompt"]) == 300
    assert summary(tmp_path)["prompts"]["p"]["flags"]["unusual size"] == 2


def test_where_all_is_suspicious_some_room_is_kept_for_the_rest(localization, tmp_path):
    localization(scans([0, 0, 0, 10] * 20), cards=20).run()
    fine = [card["map"] % 4 == 3 for card in page(tmp_path)["cards"]]
    assert (len(fine), sum(fine)) == (20, 5)


def test_one_picture_serves_all_prompts_of_a_scan(localization, tmp_path):
    localization(scans([2, 4]), prompts=["p", "q"]).run()
    content = page(tmp_path)
    assert len(content["cards"]) == 4
    assert len(content["pictures"]) == len({card["picture"] for card in content["cards"]}) <= 2


def test_the_gate_of_the_folder_becomes_part_of_it(localization, tmp_path):
    gate = PromptGate("use", ["heeds it"], {"sensitivity": 0.9}, [])
    GateRecord({"name": "ruled"}, "D", 4, 0.5, {"p": gate}, {}).save(tmp_path)
    localization(scans([2, 4])).run()
    assert page(tmp_path)["gate"]["prompts"]["p"]["verdict"] == "use"
    assert page(tmp_path)["gate_note"] == ""
    GateRecord({"name": "another"}, "D", 4, 0.5, {"p": gate}, {}).save(tmp_path)
    localization(scans([2, 4])).run()
    assert "another localizer" in page(tmp_path)["gate_note"]
    given = {"localizer": {"name": "ruled"}, "prompts": {"p": {"verdict": "do not use"}}}
    localization(scans([2, 4]), gate=given).run()
    assert page(tmp_path)["gate"] == given


@pytest.mark.parametrize("content", ["{", '{"version": 7, "prompts": {}}', "[]"])
def test_a_broken_gate_is_said_and_left_out(localization, tmp_path, content):
    (tmp_path / "gate.json").write_text(content)
    localization(scans([2])).run()
    assert page(tmp_path)["gate"] is None
    assert "gate.json" in page(tmp_path)["gate_note"]


def test_what_killed_reports_left_is_removed_and_nothing_else(localization, tmp_path):
    left, other = tmp_path / ".0123456789ab.report.html", tmp_path / ".report.html.swp"
    for file in (left, other):
        file.write_text("half")
    with temporary_file(tmp_path / "report.html") as living:
        localization(scans([2])).run()
        assert living.exists()
    assert not left.exists()
    assert other.exists()
