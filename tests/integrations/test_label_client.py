# SPDX-License-Identifier: Apache-2.0
"""The client and the starter of MONAI Label, against servers that only pretend."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import nibabel as nib
import numpy as np
import pytest

from integrations.monai_label import serve, walk_through
from integrations.monai_label.client import LabelClient, LabelError, Part, detail_of, multipart
from integrations.monai_label.serve import LabelServer
from integrations.monai_label.walk_through import LabelMap, named, refusals, walk

MODELS = {
    "x_localization": {"labels": {"region": 1}, "config": {"text_prompt": "lungs", "threshold": 0.5}},
    "x_segmentation": {"labels": {"one": 1}, "config": {}},
}


class Pretender(BaseHTTPRequestHandler):
    """Answers as MONAI Label 0.8.5 does; keeps what it was asked."""

    asked: list[tuple[str, str, dict[str, str], Any]]
    scan: bytes
    trainings: list[dict[str, Any]]

    def answer(self) -> None:
        address = urlsplit(self.path)
        query = dict(parse_qsl(address.query))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = self.form(body) if "multipart" in self.headers.get("Content-Type", "") else body
        self.asked.append((self.command, address.path, query, content))
        status, found = self.found(address.path, query, content)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(found if isinstance(found, bytes) else json.dumps(found).encode())

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - names of http.server

    def form(self, body: bytes) -> dict[str, tuple[str | None, bytes]]:
        message = BytesParser().parsebytes(f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + body)
        parts: list[Any] = list(message.get_payload())
        return {
            part.get_param("name", header="content-disposition"): (part.get_filename(), part.get_payload(decode=True))
            for part in parts
        }

    def found(self, path: str, query: dict[str, str], content: Any) -> tuple[int, Any]:
        if path == "/info/":
            return 200, {"models": MODELS, "trainers": {"x_segmentation": {}}}
        if path == "/datastore/":
            return 200, {"objects": {"b": {}, "a": {}}}
        if path == "/datastore/image":
            return 200, self.scan
        if path == "/datastore/label":
            return 200, {"image": query["image"], "label": query["image"]}
        if path.startswith("/train/"):
            if self.command == "GET":
                self.trainings[0] = {**self.trainings[0], **(self.trainings.pop(1) if self.trainings[1:] else {})}
                return 200, [{"id": "old", "status": "ERROR"}, self.trainings[0]]
            return 200, self.trainings[0]
        params = json.loads(content["params"][1])
        if path.endswith("/no_such_model") or query["image"] != "a":
            return 404, {"detail": "no such thing"}
        if params.get("text_prompt") in ("zebra crossing", "") or params.get("threshold") == "many":
            return 400, {"detail": "the request is wrong"}
        return 200, self.scan

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def pretender(tmp_path: Path) -> type[Pretender]:
    voxels = np.zeros((3, 4, 5), dtype=np.uint8)
    voxels[1, 1:3] = 1
    affine = np.array([[0, 2.0, 0.3, 5], [1.5, 0, 0, -7], [0, 0, 4, 1], [0, 0, 0, 1]])  # permuted, sheared
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")

    class Mine(Pretender):
        asked: list[tuple[str, str, dict[str, str], Any]] = []  # noqa: RUF012 - one server, one list
        scan = (tmp_path / "a.nii.gz").read_bytes()
        trainings: list[dict[str, Any]] = [{"id": "1", "status": "SUBMITTED"}]  # noqa: RUF012

    return Mine


@pytest.fixture
def client(pretender: type[Pretender]) -> Iterator[LabelClient]:
    with ThreadingHTTPServer(("127.0.0.1", 0), pretender) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield LabelClient(f"http://127.0.0.1:{server.server_port}/", timeout=10)
        server.shutdown()


def test_what_a_viewer_asks_for(client: LabelClient, pretender: type[Pretender], tmp_path: Path) -> None:
    assert client.info()["models"] == MODELS
    assert client.images() == ["a", "b"]
    assert client.infer("x_localization", "a", {"text_prompt": "left lung"}) == pretender.scan
    method, path, query, form = pretender.asked[-1]
    assert (method, path, query) == ("POST", "/infer/x_localization", {"image": "a", "output": "image"})
    told = json.loads(form["params"][1])
    assert told == {"text_prompt": "left lung", "result_extension": ".nii.gz", "result_dtype": "uint8"}
    label = tmp_path / "mine.nii.gz"
    label.write_bytes(b"\x00\r\n--binary\r\n\xff")
    assert client.save_label("a", label) == "a"
    method, path, query, form = pretender.asked[-1]
    assert (method, path, query) == ("PUT", "/datastore/label", {"image": "a", "tag": "final"})
    assert form["label"] == ("mine.nii.gz", label.read_bytes())


def test_training_is_waited_for(client: LabelClient, pretender: type[Pretender]) -> None:
    pretender.trainings += [{"status": "RUNNING"}, {"status": "DONE", "details": ["Best epoch: 3"]}]
    assert client.train("x_segmentation", {"max_epochs": 3})["details"] == ["Best epoch: 3"]
    assert ("POST", "/train/x_segmentation", {}, b'{"max_epochs": 3}') in pretender.asked


def test_a_failed_training_tells_why(client: LabelClient, pretender: type[Pretender]) -> None:
    lines = ["Traceback", "What went wrong: dataset: no scans to read.", "more"]
    pretender.trainings.append({"status": "ERROR", "details": lines})
    with pytest.raises(LabelError, match=r"ended with ERROR. What went wrong: dataset: no scans to read.$"):
        client.train("x_segmentation")


def test_a_training_without_end_is_stopped(client: LabelClient, pretender: type[Pretender]) -> None:
    with pytest.raises(LabelError, match="took more than 0 seconds"):
        client.train("x_segmentation", patience=0)
    assert pretender.asked[-1][:2] == ("DELETE", "/train/")


def test_refusals_bring_status_and_text(client: LabelClient) -> None:
    with pytest.raises(LabelError, match="HTTP 404: no such thing") as caught:
        client.infer("x_localization", "elsewhere")
    assert (caught.value.status, caught.value.detail) == (404, "no such thing")
    found = {wrong: error.status for wrong, error in refusals(client, "a").items()}
    assert found == {
        "unknown model": 404,
        "unknown image": 404,
        "unknown prompt": 400,
        "empty prompt": 400,
        "bad threshold": 400,
    }
    assert detail_of(b"Internal Server Error") == "Internal Server Error"
    assert detail_of(b'{"detail": [{"loc": "x"}]}') == '[{"loc": "x"}]'
    assert detail_of(b"[]") == "[]"


def test_nobody_listens() -> None:
    with pytest.raises(OSError, match="refused"):
        LabelClient("http://127.0.0.1:9", timeout=5).info()


def test_the_walk(client: LabelClient, pretender: type[Pretender], tmp_path: Path) -> None:
    pretender.trainings.append({"status": "DONE", "start_ts": "1", "end_ts": "2", "details": ["x Best epoch: 1"]})
    walked = walk(client, "a", ["left lung", "right lung"], epochs=2)
    assert list(walked.regions) == ["left lung", "right lung"]
    assert walked.before.sizes == {1: 10}
    assert walked.before.lies_on(LabelMap.of(pretender.scan))
    steps = [(method, path) for method, path, *_ in pretender.asked]
    assert steps[-5:-2] == [
        ("POST", "/infer/x_segmentation"),
        ("PUT", "/datastore/label"),
        ("POST", "/train/x_segmentation"),
    ]
    assert steps[-1] == ("POST", "/infer/x_segmentation")
    with pytest.raises(ValueError, match="ends in _detection: x_localization, x_segmentation"):
        named(walked.info, "_detection")


@pytest.mark.parametrize("command", [walk_through.main, serve.main])
def test_the_commands(client: LabelClient, pretender: type[Pretender], monkeypatch, caplog, command: Any) -> None:
    """As the README gives them; the server is a pretender."""
    pretender.trainings.append({"status": "DONE", "start_ts": "1", "end_ts": "2", "details": ["x Best epoch: 1"]})
    given: list[argparse.Namespace] = []

    def server_of(options: argparse.Namespace) -> Any:
        given.append(options)
        running = SimpleNamespace(url=client.url, log="server.log", process=SimpleNamespace(wait=lambda: None))
        return contextlib.nullcontext(running)

    own = (
        ["--image", "a", "--prompts", "left lung", "right lung"] if command is walk_through.main else ["--port", "8000"]
    )
    arguments = ["--venv", "V", "--studies", "S", "--bundles", "A", "B", *own]
    monkeypatch.setattr(sys.modules[command.__module__], "server_of", server_of)
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with caplog.at_level(logging.INFO):
        command()
    assert (given[0].venv, given[0].studies, given[0].bundles) == ("V", "S", ["A", "B"])
    said = [
        "'left lung': voxels of each label {1: 10}, on the scan's voxels.",
        "Best epoch: 1",
        "bad threshold: HTTP 400",
    ]
    for words in said if command is walk_through.main else [f"MONAI Label at {client.url}"]:
        assert words in caplog.text


def test_a_label_map_that_lies_elsewhere(pretender: type[Pretender]) -> None:
    scan = LabelMap.of(pretender.scan)
    moved = scan.affine.copy()
    moved[0, 3] += 0.01
    assert not LabelMap(scan.voxels, moved).lies_on(scan)
    assert not LabelMap(scan.voxels[:2], scan.affine).lies_on(scan)


def test_files_in_forms_stay_what_they_are() -> None:
    body, kind = multipart({"label": Part(b"\r\n\x00", "a.nii.gz"), "params": Part(b"{}")})
    boundary = kind.split("boundary=")[1].encode()
    assert body.count(boundary) == 3
    assert b'name="label"; filename="a.nii.gz"\r\n\r\n\r\n\x00\r\n--' in body


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A Python that copies the app when told to, and serves nothing."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    script = '#!/bin/sh\nif [ "$3" = apps ]; then mkdir -p "$8/monaibundle/model"; touch "$8/monaibundle/main.py"\n'
    python.write_text(script + 'else echo "no such thing as $5"; echo "path $PYTHONPATH"; exit 3; fi\n')
    python.chmod(0o755)
    return tmp_path / "venv"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "x_segmentation"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.yaml").write_text("{}")
    return folder


def test_a_server_that_ends_says_why(environment: Path, bundle: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "of this process")
    server = LabelServer(environment, [bundle], tmp_path, tmp_path / "app")
    with (
        pytest.raises(RuntimeError, match=r"ended with 3:\nno such thing as .*app/monaibundle\npath .*server$"),
        server,
    ):
        pass
    assert (server.app / "model" / "x_segmentation" / "configs" / "inference.yaml").is_file()


def test_what_a_served_bundle_has_learnt_is_kept(environment: Path, bundle: Path, tmp_path: Path) -> None:
    for _ in range(2):
        server = LabelServer(environment, [bundle], tmp_path, tmp_path / "work")
        with pytest.raises(RuntimeError), server:
            pass
        (server.app / "model" / "x_segmentation" / "learnt").touch()
    assert (server.app / "model" / "x_segmentation" / "learnt").exists()


def test_the_labels_that_are_learnt_come_first(environment: Path, bundle: Path, tmp_path: Path) -> None:
    localizer = shutil.copytree(bundle, tmp_path / "x_localization")
    assert [each.name for each in LabelServer(environment, [localizer, bundle], tmp_path, tmp_path).bundles] == [
        "x_segmentation",
        "x_localization",
    ]


def test_missing_folders_are_named(environment: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere/bin/python"):
        LabelServer(tmp_path / "nowhere", [bundle], tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"other/configs/inference\.yaml"):
        LabelServer(environment, [tmp_path / "other"], tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match="scans"):
        LabelServer(environment, [bundle], tmp_path / "scans", tmp_path)
