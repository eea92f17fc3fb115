# SPDX-License-Identifier: Apache-2.0
"""What clients of the MONAI Label server send is never evaluated; what they get lies as the scan does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

SERVER = Path("integrations/monai_label/server").resolve()


class App:
    """In the place of MONAI Label's application."""

    asked: list[Any] = []  # noqa: RUF012 - emptied by the fixture

    def infer(self, request: dict[str, Any], datastore: Any = None) -> str:
        self.asked.append(request)
        return "label"

    @staticmethod
    def run(method: str, request: Any = None, params: Any = None, enqueue: bool = False) -> str:
        App.asked.append((method, request, params))
        return "task"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`clear_answers`, loaded with modules that only pretend to be MONAI Label's and FastAPI's."""
    tasks = type("AsyncTask", (), {"run": staticmethod(App.run)})
    application = type("MONAILabelApp", (), {"infer": App.infer, "asked": App.asked})
    route = SimpleNamespace(exception_handler=lambda kind: lambda answer: answer)
    modules: dict[str, dict[str, Any]] = {
        "fastapi": {"Request": object},
        "fastapi.responses": {"JSONResponse": dict},
        "monailabel": {},
        "monailabel.app": {"app": route},
        "monailabel.interfaces": {},
        "monailabel.interfaces.app": {"MONAILabelApp": application},
        "monailabel.interfaces.exception": {"MONAILabelException": type("MONAILabelException", (Exception,), {})},
        "monailabel.interfaces.utils": {},
        "monailabel.interfaces.utils.app": {"app_instance": lambda: None},
        "monailabel.tasks": {},
        "monailabel.tasks.infer": {"basic_infer": SimpleNamespace()},
        "monailabel.transform": {"writer": SimpleNamespace(Writer=dict)},
        "monailabel.utils": {},
        "monailabel.utils.async_tasks": {},
        "monailabel.utils.async_tasks.task": {"AsyncTask": tasks},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(SERVER))
    for name in ("clear_answers", "plain_requests"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    App.asked.clear()
    loaded = importlib.import_module("clear_answers")
    yield loaded
    for name in ("clear_answers", "plain_requests"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("qform", "sform"), [(0, 0), (1, 0), (0, 2), (1, 4)])
def test_label_maps_have_the_forms_of_the_scan(server: ModuleType, tmp_path: Path, qform: int, sform: int) -> None:
    scan, answer = tmp_path / "scan.nii", tmp_path / "answer.nii.gz"
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([-1.0, 2.0, 3.0, 1.0]))
    image.set_qform(None if not qform else image.affine, qform)
    image.set_sform(None if not sform else image.affine, sform)
    nibabel.save(image, scan)
    given = nibabel.load(scan)
    values = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    server.write_nifti(values, str(answer), given.affine)
    server._take_forms(str(answer), str(scan))
    written = nibabel.load(answer)
    assert np.array_equal(written.dataobj, values)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (qform, sform)
    np.testing.assert_array_equal(written.header["pixdim"][:4], given.header["pixdim"][:4])
    np.testing.assert_allclose(written.affine, given.affine)


@pytest.mark.parametrize(
    "value", ["$1", "@device", "%file.json", {"_target_": "os.system"}, [{"a": ["$1"]}], {"$a": 1}]
)
def test_expressions_are_refused_before_anything_is_done(server: ModuleType, value: Any) -> None:
    with pytest.raises(server.ExpressionError, match="would be an expression"):
        server.MONAILabelApp().infer({"model": "m", "image": "i", "text_prompt": value})
    for asked in ({"request": {"max_epochs": value}}, {"params": {"max_epochs": value}}):
        with pytest.raises(server.ExpressionError, match="would be an expression"):
            server.AsyncTask.run("train", **asked)
    assert not App.asked


def test_the_client_is_told(server: ModuleType) -> None:
    assert server._told(server.ExpressionError("no")) == (400, "no")


def test_values_pass(server: ModuleType) -> None:
    request = {
        "model": "m",
        "text_prompt": "left lung, 5 % of it",
        "threshold": 0.5,
        "sizes": [1, None],
        "more": {"a": True},
    }
    assert server.MONAILabelApp().infer(request, datastore=object()) == "label"
    assert server.AsyncTask.run("train", request=request, enqueue=True) == "task"
    assert App.asked == [request, ("train", request, None)]
