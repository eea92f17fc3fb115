# SPDX-License-Identifier: Apache-2.0
"""What a viewer says to a MONAI Label server, over HTTP; nothing but the standard library."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class LabelError(Exception):
    """The server refused a request, or a training failed.

    Args:
        status: of the HTTP answer; 0 for a training that failed.
        detail: what the server said.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"HTTP {status}: {detail}" if status else detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Part:
    """A field of a form: a text, or a file with its name."""

    content: bytes
    filename: str | None = None


class LabelClient:
    """Calls to one server.

    Args:
        url: its address.
        timeout: seconds to wait for an answer.

    Raises:
        LabelError: by the methods, for every answer that is an error.
        OSError: by the methods, if the server cannot be reached.
    """

    def __init__(self, url: str, timeout: float = 300.0) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # the server is near

    def info(self) -> dict[str, Any]:
        """Return what is served: ``models`` with labels and options, ``trainers``, state of the labels."""
        return self._json("GET", "/info/")

    def images(self) -> list[str]:
        """Return the names of the scans."""
        return sorted(self._json("GET", "/datastore/", output="all")["objects"])

    def image(self, image: str) -> bytes:
        """Return the file of a scan."""
        return self.call("GET", "/datastore/image", image=image)

    def infer(self, model: str, image: str, params: Mapping[str, Any] | None = None, kind: str = ".nii.gz") -> bytes:
        """Return the label map of a scan, as a file.

        Args:
            model: one of :meth:`info`.
            image: one of :meth:`images`.
            params: options of the model, such as ``{"text_prompt": "left lung"}``.
            kind: of file: ``.nii.gz``, ``.nrrd``, for pictures also ``.png``. A server that is not told takes the
                scan's own, and fails for JPEG, which cannot hold label maps.
        """
        options = {"result_extension": kind, "result_dtype": "uint8", **(params or {})}
        form = {"params": Part(json.dumps(options).encode())}
        return self.call("POST", f"/infer/{urllib.parse.quote(model)}", form, image=image, output="image")

    def save_label(self, image: str, label: str | Path, tag: str = "final") -> str:
        """Hand in a label map; labels tagged ``final`` are what training learns from. Return its name."""
        file = Path(label)
        form = {"label": Part(file.read_bytes(), file.name), "params": Part(b"{}")}
        return str(self._json("PUT", "/datastore/label", form, image=image, tag=tag)["label"])

    def train(self, model: str, params: Mapping[str, Any] | None = None, patience: float = 3600.0) -> dict[str, Any]:
        """Train on the labels handed in so far, and wait for the end.

        Args:
            model: one of the ``trainers`` of :meth:`info`.
            params: ``max_epochs``, ``val_split``, ...
            patience: seconds after which the training is stopped.

        Returns:
            What the server says of the training, with the last lines of its log as ``details``.
        """
        body = json.dumps(dict(params or {})).encode()
        task = json.loads(self.call("POST", f"/train/{urllib.parse.quote(model)}", body))
        deadline = time.monotonic() + patience
        while task["status"] in ("SUBMITTED", "RUNNING"):
            if time.monotonic() > deadline:
                self.stop_training()
                raise LabelError(0, f"The training of {model} took more than {patience:.0f} seconds and was stopped.")
            time.sleep(0.5)
            known = self._json("GET", "/train/", all="true")
            task = next(each for each in known if each["id"] == task["id"])
        if task["status"] != "DONE":
            lines = list(task.get("details", ["no details"]))
            cause = next((line for line in reversed(lines) if line.startswith("What went wrong:")), lines[-1])
            raise LabelError(0, f"The training of {model} ended with {task['status']}. {cause}")
        return dict(task)

    def stop_training(self) -> None:
        """End a training, if there is one."""
        self.call("DELETE", "/train/")

    def _json(self, method: str, path: str, body: Mapping[str, Part] | bytes | None = None, **query: str) -> Any:
        return json.loads(self.call(method, path, body, **query))

    def call(self, method: str, path: str, body: Mapping[str, Part] | bytes | None = None, **query: str) -> bytes:
        """Make any request: a form, or JSON in bytes, or nothing as its body. Return the answer's body."""
        address = f"{self.url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        data, kind = (body, "application/json") if isinstance(body, bytes | None) else multipart(body)
        request = urllib.request.Request(
            address, data, {"Content-Type": kind} if data is not None else {}, method=method
        )
        try:
            with self._open(request, timeout=self.timeout) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise LabelError(error.code, detail_of(error.read())) from error


def multipart(form: Mapping[str, Part]) -> tuple[bytes, str]:
    """Return a form as the body of a request, and its content type."""
    boundary = uuid.uuid4().hex
    body = b""
    for name, part in form.items():
        file = f'; filename="{part.filename}"' if part.filename else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + part.content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def detail_of(body: bytes) -> str:
    """Return the text of an error's answer: FastAPI's ``{"detail": ...}``, or the answer as it is."""
    text = body.decode(errors="replace")
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        return text
    return detail if isinstance(detail, str) else json.dumps(detail)
