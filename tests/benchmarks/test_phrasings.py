# SPDX-License-Identifier: Apache-2.0
"""The robustness study: its phrases, and its figures for localizers whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import phrasings
from benchmarks.phrasings import Question, answer, ask, kind_rows, phrase_rows, read_questions, soft_iou
from custom.localizers import UnknownPromptError


class Listener:
    """Finds the left half for "half", all for "all", and refuses anything else."""

    native_dims = (2,)

    def localize(self, image, prompts):
        maps = torch.zeros(len(prompts), *image.shape[1:])
        for each, prompt in zip(maps, prompts, strict=True):
            if prompt not in ("half", "all"):
                raise UnknownPromptError(prompt, ["half", "all"])
            each[: image.shape[1] // 2 if prompt == "half" else None] = 1
        return maps


class Deaf(Listener):
    def localize(self, image, prompts):
        return super().localize(image, ["half"] * len(prompts))


QUESTION = Question(
    phrasings.TASKS[0],
    "xray",
    (("half", "target"), ("all", "synonym"), ("hlaf", "synonym"), ("zebra", "absent concept")),
)


def cases():
    target = np.zeros((8, 6), dtype=bool)
    target[:4] = True
    return [(torch.rand(1, 8, 6), target)] * 3


def test_every_target_has_thirty_phrasings_of_the_known_kinds():
    questions = read_questions(phrasings.PHRASINGS)
    assert {each.task.dataset for each in questions} == {"brain_mri_cheng", "cxr_lungs", "ct_lidc_nodules"}
    for question in questions:
        texts = [text for text, _ in question.phrases]
        assert len(set(texts)) == len(texts) >= 30
        assert question.phrases[0] == (question.task.prompt, "target")


def test_mistakes_in_the_file_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("[{dataset: cxr_lungs, target: lungs, modality: xray, phrasings: {rhyme: [tongues]}}]")
    with pytest.raises(ValueError, match=r"mine\.yaml.*'lungs'.*'rhyme'.*synonym"):
        read_questions(path)
    path.write_text("[{dataset: cxr_lungs, target: knee, modality: xray, phrasings: {}}]")
    with pytest.raises(ValueError, match="no target 'knee'"):
        read_questions(path)


def test_what_is_refused_is_left_out():
    found = answer(Listener(), torch.rand(1, 8, 6), ["x", "half", "y", "all"])
    assert list(found) == ["half", "all"]
    assert answer(Listener(), torch.rand(1, 8, 6), ["x"]) == {}


def test_figures_by_kind_and_by_phrase():
    answers = ask(QUESTION, Listener(), cases())
    target, synonym, absent = kind_rows(QUESTION, "listener", answers)
    assert (target["dice"], target["same"], target["understood"]) == ("1.00 [1.00, 1.00]", "1.00 [1.00, 1.00]", "1.00")
    assert synonym["dice"] == "0.33 [0.33, 0.33]; 0.00 to 0.67", "a refused phrase counts as an empty map"
    assert (synonym["phrases"], synonym["understood"]) == ("2", "0.50")
    assert synonym["same"] == "0.25 [0.25, 0.25]; 0.00 to 0.50"
    assert (absent["understood"], absent["coverage"]) == ("0.00", "0.00 [0.00, 0.00]")
    assert [row["phrase"] for row in phrase_rows(QUESTION, "listener", answers)] == ["half", "all", "hlaf", "zebra"]


def test_a_localizer_that_does_not_listen_has_one_row():
    (row,) = kind_rows(QUESTION, "deaf", ask(QUESTION, Deaf(), cases()))
    assert (row["kind"], row["dice"]) == ("any words", "1.00 [1.00, 1.00]")


def test_soft_iou():
    half = np.array([0.5, 0.5, 0.0], dtype=np.float32)
    assert soft_iou(half, half) == soft_iou(half * 0, half * 0) == 1
    assert soft_iou(half, half * 0) == 0
    assert soft_iou(half, np.array([1.0, 0.0, 0.0], dtype=np.float32)) == pytest.approx(1 / 3)
