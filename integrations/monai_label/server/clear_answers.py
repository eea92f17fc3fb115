# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's web application with answers that say what was wrong with a request, and label maps that lie right.

It runs no expression that a client sends: see ``plain_requests.py``.

As it comes, every error that the server did not expect becomes "Internal Server Error", a misspelt name of a model or
an image among them; and label maps of scans with sheared axes (tilted gantries) lose the shear, since ITK's NIfTI does
not know it, and those of NIfTI without a form lie elsewhere than the scan in some viewers: here nibabel writes NIfTI,
with the forms of the scan. Given to MONAI Label as ``--uvicorn_app clear_answers:app``; runs in its
environment.
"""

from __future__ import annotations

import json
import traceback
from functools import partial
from typing import Any

import nibabel as nib
import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.tasks.infer import basic_infer
from monailabel.transform import writer
from monailabel.utils.async_tasks.task import AsyncTask
from plain_requests import ExpressionError, looked_at

__all__ = ["app"]

_PLACE = (  # what a NIfTI header says of where its voxels lie, beside their size
    *("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def write_nifti(data: Any, filename: str, affine: Any = None, output_dtype: Any = None) -> None:
    """Write a label map ``[X, Y, Z]``, one axis of which may be 1, with the affine as it is."""
    values = np.asarray(data).astype(output_dtype or np.uint8)
    nib.save(nib.Nifti1Image(values, None if affine is None else np.asarray(affine)), filename)


class Writer(writer.Writer):
    """Writes label maps whose headers say of their place what that of the scan says, for viewers follow either form."""

    def __call__(self, data: Any) -> tuple[Any, Any]:
        """Return the file and what is told beside it."""
        file, told = super().__call__(data)
        if all(str(each).endswith((".nii", ".nii.gz")) for each in (file, data.get("image_path"))):
            _take_forms(file, data["image_path"])
        return file, told


def _take_forms(file: str, scan: str) -> None:
    written, given = nib.load(file), nib.load(scan)
    if written.shape[:3] == given.shape[:3] and np.allclose(written.affine, given.affine, atol=1e-3):
        image = nib.Nifti1Image(np.array(written.dataobj), None, written.header)  # a copy: the file is replaced
        for field in _PLACE:
            image.header[field] = given.header[field]
        image.header["pixdim"][:4] = given.header["pixdim"][:4]
        nib.save(image, file)


writer.write_nifti = write_nifti
basic_infer.Writer = partial(Writer, nibabel=True)
MONAILabelApp.infer = looked_at(MONAILabelApp.infer)
AsyncTask.run = staticmethod(looked_at(AsyncTask.run))  # training and the like, in processes of their own


@app.exception_handler(Exception)
def answer(request: Request, error: Exception) -> JSONResponse:
    """Return the status and ``{"detail": text}`` for an error; the server's log has its traceback."""
    status, detail = _unknown_name(request) or _told(error)
    return JSONResponse({"detail": detail}, status_code=status)


def _unknown_name(request: Request) -> tuple[int, str] | None:
    """What to say if the request names a model or an image that is not there."""
    model, image = request.path_params.get("model"), request.query_params.get("image")
    served = app_instance().info()
    tasks = served["trainers" if request.url.path.startswith("/train") else "models"]
    if model and model not in tasks:
        return 404, f"There is no model {model!r}; known: {', '.join(tasks) or 'none'}."
    images = app_instance().datastore().list_images()
    if image and image not in images:
        some = ", ".join(sorted(images)[:5])
        return 404, f"There is no image {image!r} in the folder of scans; there are {len(images)}: {some}, ..."
    return None


def _told(error: Exception) -> tuple[int, str]:
    if isinstance(error, MONAILabelException):
        return 400, error.msg
    if isinstance(error, ExpressionError):
        return 400, str(error)
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, (json.JSONDecodeError, TypeError, ValueError)) and _at_the_door(files):
        return 400, f"params must be a JSON object such as {{}}: {error}."
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return (400, str(cause)) if isinstance(cause, ValueError) else (500, f"{type(cause).__name__}: {cause}")


def _at_the_door(files: list[str]) -> bool:
    """Whether the request was being read: the application that answers it had not been asked yet."""
    places = [file.replace("\\", "/") for file in files]
    read = any("/monailabel/endpoints/" in place for place in places)
    return read and not any("/monailabel/interfaces/" in place for place in places)
