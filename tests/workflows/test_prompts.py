# SPDX-License-Identifier: Apache-2.0
"""Prompts of a run: given, looked up in the library, or from the scans' DICOM tags."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from custom.prompts import LabelLeakWarning, NoPromptError
from custom.workflows.prompts import is_looked_up, named_prompts, with_prompts
from datasets import ScanError, load_datalist


def write_dicom(path, uid: str, **tags: str):
    itk = pytest.importorskip("itk")
    path.parent.mkdir(parents=True, exist_ok=True)
    image = itk.image_from_array(np.arange(30, dtype=np.int16).reshape(1, 5, 6))
    numbers = {"modality": "0008|0060", "part": "0018|0015", "study": "0008|1030", "series": "0008|103e"}
    io = itk.GDCMImageIO.New()
    io.KeepOriginalUIDOn()
    for tag, value in {"0020|000d": "1.2.3", "0020|000e": uid, "0008|0018": f"{uid}.1"}.items():
        image.GetMetaDataDictionary()[tag] = value
    for name, value in tags.items():
        image.GetMetaDataDictionary()[numbers[name]] = value
    itk.imwrite(image, str(path), imageio=io)
    return path


@pytest.fixture
def library(configs):
    return configs / "prompts"


@pytest.fixture
def dicoms(tmp_path):
    """Two classes in folders that are named after diagnoses, and one scan without tags."""
    write_dicom(tmp_path / "glioma" / "a.dcm", "1.2.826.1", modality="MR", part="BRAIN")
    write_dicom(tmp_path / "glioma" / "b.dcm", "1.2.826.2", modality="MR", study="MRI brain glioma")
    write_dicom(tmp_path / "tumor" / "c.dcm", "1.2.826.3", modality="CT", study="CT chest abdomen")
    return tmp_path


def by_scan(datalist):
    return {item["scan_id"]: item["prompts"] for item in datalist.items}


def test_auto_takes_prompts_from_tags_scan_by_scan_never_from_folders(dicoms, library):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = with_prompts(load_datalist(dicoms), "auto", library)
    assert by_scan(found) == {
        "glioma/a.dcm": ["brain tumor"],
        "glioma/b.dcm": ["brain tumor"],
        "tumor/c.dcm": ["lung nodule", "liver tumor"],
    }
    assert named_prompts("auto", found.items) == ["brain tumor", "lung nodule", "liver tumor"]


def test_scans_that_say_nothing_stop_the_run_or_are_left_out(dicoms, library, caplog):
    write_dicom(dicoms / "tumor" / "d.dcm", "1.2.826.4", modality="OT")
    datalist = load_datalist(dicoms)
    with pytest.raises(ScanError, match=r"d\.dcm: --prompt auto: .*modality 'OT'.*Give --prompt"):
        with_prompts(datalist, "auto", library)
    assert len(with_prompts(datalist, "auto", library, skip_bad=True).items) == 3
    assert "d.dcm" in caplog.text
    shutil.rmtree(dicoms / "glioma")
    (dicoms / "tumor" / "c.dcm").unlink()
    with pytest.raises(ScanError, match="for none of its scans"):
        with_prompts(load_datalist(dicoms), "auto", library, skip_bad=True)


def test_pictures_have_no_tags(tmp_path, library):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ScanError, match=r"a\.png: --prompt auto: no DICOM tag says.*Give --prompt"):
        with_prompts(load_datalist(tmp_path), "auto", library)


def test_library_prompts_are_the_same_for_all_scans(tmp_path, library):
    for name in "ab":
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
    datalist = load_datalist(tmp_path)
    found = with_prompts(datalist, "library:xray/chest", library)
    assert by_scan(found) == {"a.png": ["lungs"], "b.png": ["lungs"]}
    assert "prompts" not in datalist.items[0]
    with pytest.raises(NoPromptError, match="xray/chest"):
        with_prompts(datalist, "library:xray/nose", library)


def test_a_prompt_that_names_a_class_is_warned_of(tmp_path, library):
    for name in ("glioma", "meningioma"):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name / f"{index}.png")
    datalist = load_datalist(tmp_path)
    with pytest.warns(LabelLeakWarning, match="'glioma tumor' names 'glioma'"):
        assert with_prompts(datalist, "glioma tumor", library) is datalist
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_prompts(datalist, "brain tumor", library)
        with_prompts(datalist, None, library)


def test_given_prompts_and_those_of_phantoms():
    items = [{"prompt": "brain tumor"}, {"prompt": "brain tumor"}, {}]
    assert named_prompts(None, items) == ["brain tumor"]
    assert named_prompts(("tumor", "edema"), items) == ["tumor, edema"]
    assert named_prompts(["a", "b", "a"], items) == ["a", "b"]
    assert named_prompts(None, []) == []
    assert not is_looked_up("automatic")
    with pytest.raises(ValueError, match="bring no prompts"):
        named_prompts("auto", items)


def test_the_next_command_looks_prompts_up_again():
    from custom.workflows.localize import pretrain_command

    assert "--prompt auto " in pretrain_command("c", "D", "O", ["brain tumor", "liver"], "auto")
    assert '--prompt "brain tumor" ' in pretrain_command("c", "D", "O", ["brain tumor"], "brain tumor")
