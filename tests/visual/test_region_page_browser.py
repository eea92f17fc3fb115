# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: Chromium without a window, driven by its DevTools protocol through two pipes."""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from custom.gate import GateRecord, PromptGate
from custom.regions.report import flag_rows, percent, region_row, summarize
from custom.workflows.localize_report import LocalizationReport, Subject

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="a browser: install chromium")

PROMPT = """<b onclick="hack()">"tumor" & 'edema'</b>"""
HOSTILE = """case/<script>window.hacked = 1</script>"><img src=x onerror="window.hacked=1">&amp;'.png"""


class Browser:
    """One page of a browser."""

    def __init__(self, profile: Path) -> None:
        their_input, self._input = os.pipe()
        self._output, their_output = os.pipe()
        # The protocol's pipes must be descriptors 3 and 4.
        command = f"exec '{CHROMIUM}' \"$@\" 3<&{their_input} 4>&{their_output}"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", *options, "about:blank"],
            pass_fds=(their_input, their_output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_input)
        os.close(their_output)
        self._numbers, self._unread, self._session = itertools.count(1), b"", None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._input, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path, width: int = 1200, height: int = 900) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def value(self, expression: str) -> Any:
        """What JavaScript gives, promises awaited, after the page has drawn itself."""
        drawn = "await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        answer = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {drawn}; return ({expression}); }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        deadline = time.monotonic() + 20
        while not self.value(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)

    def key(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def complaints(self) -> list[dict]:
        """Errors, warnings and anything written to the console since the page was opened."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in kinds]

    def requested(self) -> list[str]:
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._input)
        os.close(self._output)

    def _read(self) -> dict:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._output], [], [], 60)
            part = os.read(self._output, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self._unread += part
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)


def two_levels(side: int = 40) -> torch.Tensor:
    """0.6 in the left quarter of the picture, 0.9 in the upper part of that: 25 % at 0.5, 10 % at 0.7."""
    region = torch.zeros(side, side)
    region[: side // 4] = 153 / 255
    region[: side // 4, : 2 * side // 5] = 230 / 255
    return region


def maps() -> dict[str, torch.Tensor]:
    found = {f"case/usual_{index:02}.png": two_levels() for index in range(30)}
    everything = torch.full((40, 40), 0.8)
    return {**found, "case/large.png": everything, "case/void.png": torch.zeros(40, 40), HOSTILE: two_levels()}


def write_report(
    folder: Path, regions: dict[str, torch.Tensor], stopped: str = "", **options: Any
) -> LocalizationReport:
    subject = Subject("D <i>", {"name": "half", "level": 0.7}, [PROMPT, "b"], 0.5, len(regions))
    report = LocalizationReport(folder, subject, gate_help="Make one with gate.yaml.", **options)
    for index, (scan_id, region) in enumerate(regions.items()):
        image = torch.rand(1, *region.shape, generator=torch.Generator().manual_seed(index))
        made = {PROMPT: (0.25, f"maps/{index}.png"), "b": (0.5, "maps/b.png")}
        report.add(index, scan_id, image, torch.stack([region, two_levels()]), made)
    report.write(stopped)
    return report


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, maps())
    return folder / "report.html"


@pytest.fixture
def page(browser, report) -> Iterator[Browser]:
    """The report, just opened; whatever a test does with it, it asks for nothing and complains of nothing."""
    browser.open(report)
    yield browser
    assert browser.complaints() == []
    assert {url.split(":")[0] for url in browser.requested()} <= {"file", "data"}
    assert [url for url in browser.requested() if url.startswith("file")] == [report.as_uri()]


SHOWN = "[...document.querySelectorAll('#cards > li')].filter((card) => !card.hidden)"
NAMES = SHOWN + ".map((card) => card.querySelector('h3').textContent)"


def slide(page: Browser, threshold: float) -> None:
    stop = page.value(f"JSON.parse(document.getElementById('data').textContent).thresholds.indexOf({threshold})")
    page.value(
        f"(() => {{ const slider = document.getElementById('threshold'); slider.value = {stop};"
        " for (const name of ['input', 'change']) slider.dispatchEvent(new Event(name)); })()"
    )


def choose(page: Browser, state: str) -> None:
    page.value(f"document.getElementById('states-{state}').click()")


def test_suspicious_scans_come_first(page):
    names = page.value(NAMES)
    assert len(names) == 66
    assert names[0] == "case/void.png"
    assert names[1] == "case/large.png"
    states = page.value(SHOWN + ".map((card) => card.dataset.state)")
    assert states == ["empty", "suspicious"] + ["fine"] * 64
    reasons = page.value(SHOWN + "[1].querySelector('.reasons').textContent")
    assert "covers 100 % of the scan, more than 60 %" in reasons


def test_hostile_names_are_text(page):
    assert HOSTILE in page.value(NAMES)
    assert page.value("typeof window.hacked") == "undefined"
    assert page.value("document.querySelectorAll('main b[onclick], main img[onerror], main script').length") == 0
    assert PROMPT in page.value("[...document.querySelectorAll('#overview h3')].map((title) => title.textContent)")
    assert page.value("[...document.querySelectorAll('#prompt option')].map((each) => each.value)") == ["", PROMPT, "b"]
    assert "D <i>" in page.value("document.getElementById('subtitle').textContent")


def test_the_slider_gives_the_coverage_of_the_full_map(page):
    covered = SHOWN + ".find((card) => card.textContent.includes('usual_07')).querySelector('.covered').textContent"
    assert page.value(covered) == "25 %"
    slide(page, 0.7)
    assert page.value(covered) == "10 %"
    assert page.value("document.getElementById('threshold-value').textContent") == "0.70"
    assert page.value("document.getElementById('threshold').getAttribute('aria-valuetext')") == "0.70"
    slide(page, 0.95)
    assert page.value(covered) == "0 %"
    assert page.value("document.getElementById('states-empty-label').textContent") == "Nothing found 66"
    page.value("document.getElementById('reset').click()")
    assert page.value(covered) == "25 %"
    assert page.value(NAMES)[0] == "case/void.png"


def test_the_slider_moves_by_keyboard(page):
    page.value("document.getElementById('threshold').focus()")
    page.key("ArrowRight", 39)
    assert page.value("document.getElementById('threshold-value').textContent") == "0.55"


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.85])
def test_figures_and_flags_are_those_of_python(page, threshold):
    slide(page, threshold)
    rows = flag_rows([region_row(name, PROMPT, region, threshold, 0) for name, region in maps().items()], threshold)
    figures = summarize(rows, threshold)["prompts"][PROMPT]
    panel = "document.querySelector('#overview .panel')"
    pairs = f"[...{panel}.querySelectorAll('dl div')].map((each) => [...each.children].map((part) => part.textContent))"
    shown = dict(page.value(pairs))
    nothing = sum(bool({"empty", "below threshold"} & set(row.flags)) for row in rows)
    assert shown == {
        "Maps": "33",
        "Median coverage": percent(figures["median_coverage"]),
        "Nothing found": str(nothing),
        "Suspicious": str(sum(bool(row.flags) for row in rows) - nothing),
    }
    counted = page.value(f"[...{panel}.querySelectorAll('.counts li')].map((each) => each.textContent)")
    assert counted == [f"{flag}: {count}" for flag, count in figures["flags"].items() if count]
    is_it = f"card.textContent.includes('large') && card.textContent.includes({json.dumps(PROMPT)})"
    reasons = page.value(f"{SHOWN}.find((card) => {is_it}).querySelector('.reasons').textContent")
    (large,) = [row for row in rows if row.scan_id == "case/large.png"]
    assert reasons == "".join(flag + reason for flag, reason in zip(large.flags, large.reasons, strict=True))


def test_the_histogram_holds_all_scans(page):
    titles = "[...document.querySelectorAll('#overview .panel:first-child rect title')].map((each) => each.textContent)"
    bars = page.value(titles)
    assert bars[0] == "nothing found: 1 scan"
    assert sum(int(bar.split(": ")[1].split()[0]) for bar in bars) == 33
    assert [bar for bar in bars[1:] if not bar.endswith(" 0 scans")] == [
        "24 % to 28 %: 31 scans",
        "96 % to 100 %: 1 scan",
    ]
    slide(page, 0.85)
    assert page.value(titles)[0] == "nothing found: 2 scans"


def test_filters(page):
    choose(page, "empty")
    assert page.value(NAMES) == ["case/void.png"]
    choose(page, "suspicious")
    assert page.value(NAMES) == ["case/large.png"]
    choose(page, "fine")
    assert len(page.value(NAMES)) == 64
    choose(page, "all")
    page.value(
        "(() => { const search = document.getElementById('search'); search.value = 'USUAL_1';"
        " search.dispatchEvent(new Event('input')); })()"
    )
    assert set(page.value(NAMES)) == {f"case/usual_{index}.png" for index in range(10, 20)}
    assert page.value("document.getElementById('states-fine-label').textContent") == "Fine 20"
    page.value(
        "(() => { const prompt = document.getElementById('prompt'); prompt.value = 'b';"
        " prompt.dispatchEvent(new Event('change')); })()"
    )
    assert len(page.value(NAMES)) == 10
    assert page.value("document.getElementById('matching').textContent").startswith("10 cards")


def test_the_overlay_is_where_the_region_is(page):
    card = SHOWN + ".find((card) => card.textContent.includes('usual_00'))"
    page.until(f"{card}.querySelector('canvas').width > 300")
    alpha = (
        f"(() => {{ const canvas = {card}.querySelector('canvas'); const at = (x, y) => canvas.getContext('2d')"
        ".getImageData(x * canvas.width, y * canvas.height, 1, 1).data[3];"
        " return [at(0.1, 0.2), at(0.1, 0.8), at(0.6, 0.2)]; })()"
    )
    page.until(f"{alpha}[0] > 0")
    assert page.value(alpha) == [92, 92, 0]
    slide(page, 0.7)
    assert page.value(alpha) == [92, 0, 0]
    page.value("document.getElementById('overlays-none').click()")
    assert page.value(alpha) == [0, 0, 0]
    page.value("document.getElementById('overlays-probability').click()")
    high, low, none = page.value(alpha)
    assert high > low > none == 0


def test_pictures_are_made_when_they_come_into_view(page):
    drawn = "document.querySelectorAll('#cards img[src]').length"
    page.until(f"{drawn} > 0")
    assert page.value(drawn) < 60
    page.value("document.querySelector('#cards > li:last-child').scrollIntoView()")
    page.until("document.querySelector('#cards > li:last-child img').src.startsWith('data:')")


def test_a_card_opens_large_and_leads_to_the_next(page):
    page.value("document.querySelector('#cards button').focus()")
    page.key("Enter", 13)
    page.value("document.querySelector('#cards button').click()")
    title = "document.getElementById('large-title').textContent"
    assert page.value("document.getElementById('large').open")
    assert page.value(title).startswith("case/void.png")
    page.key("ArrowRight", 39)
    assert page.value(title).startswith("case/large.png")
    assert page.value("document.getElementById('position').textContent") == "2 of 66"
    assert "maps/30.png" in page.value("document.getElementById('large-text').textContent")
    page.key("Escape", 27)
    assert not page.value("document.getElementById('large').open")


def test_every_control_has_a_name(page):
    nameless = (
        "[...document.querySelectorAll('input, select, button')].filter((each) => !each.textContent.trim()"
        " && !each.getAttribute('aria-label') && !each.labels?.length).length"
    )
    assert page.value(nameless) == 0
    assert page.value("document.documentElement.lang") == "en"


def test_it_fits_on_a_phone(page, report):
    page.open(report, width=360, height=700)
    assert page.value("document.documentElement.scrollWidth") <= 360


def test_without_a_gate_it_says_how_to_make_one(page):
    assert page.value("document.getElementById('gate').textContent") == "Make one with gate.yaml."


def test_a_run_that_stopped_says_so(browser, tmp_path):
    write_report(tmp_path, dict(itertools.islice(maps().items(), 3)), stopped="scan <4> is broken.")
    browser.open(tmp_path / "report.html")
    said = browser.value("document.getElementById('stopped').textContent")
    assert "after 3 of 3 scans: scan <4> is broken. " in said
    assert browser.complaints() == []


def test_more_maps_than_cards(browser, tmp_path):
    report = write_report(tmp_path, maps(), cards=20)
    browser.open(tmp_path / "report.html")
    assert len(report.rows) == 66
    assert browser.value("document.getElementById('shown').textContent").startswith("20 of 66 maps are shown here")
    names = browser.value(NAMES)
    assert len(names) == 20
    assert names[:2] == ["case/void.png", "case/large.png"]
    # Spread over the dataset, both ends included.
    assert "case/usual_00.png" in names[2:4]
    assert HOSTILE in names[-2:]
    assert browser.value("document.querySelector('#overview dd').textContent") == "33"
    assert browser.complaints() == []


def test_the_gate_is_shown(browser, tmp_path):
    phrasings = [
        {
            "text": "<u>growth</u>",
            "kind": "synonym",
            "similarity": 0.75,
            "coverage": 0.1,
            "score": 0.9,
            "refused": False,
        },
        {"text": "chair", "kind": "absent concept", "similarity": None, "coverage": 0, "score": 0, "refused": True},
    ]
    measures = {
        "sensitivity": 0.5,
        "presence": None,
        "agreement": {"body": 0.25},
        "intervals": {"sensitivity": [0.4, 0.6]},
        "not_a_number": float("nan"),
    }
    gate = PromptGate("do not use", ["it ignores <the> prompt"], measures, phrasings)
    GateRecord({"name": "half", "level": 0.9}, "D", 8, 0.5, {PROMPT: gate}, {}).save(tmp_path)
    write_report(tmp_path, dict(itertools.islice(maps().items(), 3)))
    browser.open(tmp_path / "report.html")
    text = browser.value("document.getElementById('gate').innerText")
    for part in ("do not use", "it ignores <the> prompt", "<u>growth</u>", "0.75", "refused", "on 8 scans of D"):
        assert part in text
    assert "another localizer, or other settings" in text
    assert browser.value("document.querySelector('#gate .fill').style.width") == "75%"
    assert browser.value("document.querySelector('#overview .verdict').textContent").endswith("do not use")
    lines = browser.value(
        "[...document.querySelectorAll('#gate tr')].map((line) => line.innerText.split('\\t').join(' '))"
    )
    assert lines == ["sensitivity 0.5 (0.4 to 0.6)", "presence –", "agreement ", "body 0.25", "not a number –"]
    assert browser.complaints() == []
