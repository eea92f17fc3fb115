# SPDX-License-Identifier: Apache-2.0
"""The gate on localizers whose obedience is known."""

from __future__ import annotations

import csv
import json
import logging
import zlib
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import ndimage

from custom.gate import DO_NOT_USE, USE, USE_WITH_CARE, GateRecord
from custom.localizers import BodyOnly, CentredDisc, ConceptLocalizer, UnknownPromptError
from custom.localizers.ensembles import PromptEnsemble
from custom.localizers.pictures import PictureLocalizer
from custom.localizers.windows import PictureWindow
from custom.metrics.localization import in_boxes
from custom.workflows.gate import GateRun
from custom.workflows.gate_setup import gate_rules, in_values, other_loaders, phrases_of, scan_loaders
from datasets.datalist import load_datalist
from datasets.errors import ScanError
from datasets.loading import LoadScand


class Oracle:
    """Knows the truth of the scan that was read last, and the words that name it."""

    native_dims = (2, 3)

    def __init__(self, words):
        self.words, self.truth = words, None

    def describe(self):
        return {"name": "oracle"}

    def localize(self, image, prompts):
        here = self.truth is not None and self.truth.shape == tuple(image.shape[1:])
        named = [any(word in prompt.lower() for word in self.words) for prompt in prompts]
        zero = torch.zeros(image.shape[1:])
        return torch.stack([torch.from_numpy(self.truth).float() if here and name else zero for name in named])


class Constant(Oracle):
    def describe(self):
        return {"name": "constant"}

    def localize(self, image, prompts):
        return torch.full((len(prompts), *image.shape[1:]), 0.8)


class ImageOnly(Constant):
    """Saliency that only looks: edges."""

    def describe(self):
        return {"name": "image only"}

    def localize(self, image, prompts):
        edges = ndimage.gaussian_gradient_magnitude(np.asarray(image[0]), 2)
        found = np.clip(edges / np.percentile(edges, 97), 0, 1).astype(np.float32)
        return torch.from_numpy(found).expand(len(prompts), *found.shape)


class AnyWord(Constant):
    """A different place for every string: it listens without understanding."""

    def describe(self):
        return {"name": "any word"}

    def localize(self, image, prompts):
        maps = []
        for prompt in prompts:
            noise = np.random.default_rng(zlib.crc32(prompt.encode())).standard_normal(image.shape[1:])
            smooth = ndimage.gaussian_filter(noise, 8)
            maps.append(torch.from_numpy(smooth > np.percentile(smooth, 85)).float())
        return torch.stack(maps)


SETS = {
    "brain_mri_cheng": ("brain tumor", ("tumor", "tumour", "mass", "lesion", "neoplasm", "cancer"), None),
    "cxr_lungs": ("left lung", ("left",), [2]),
    "hippocampus3d": ("hippocampus", ("hip", "temporal", "ammonis"), None),
}
IGNORING = (Constant(()), CentredDisc(), BodyOnly(), ImageOnly(()), AnyWord(()))


def gate(localizer, dataset, data_root, configs, output_dir, scans=4, per_kind=2, **more):
    prompt, _, values = SETS[dataset]
    datalist = load_datalist(data_root / dataset)
    load = LoadScand("image", datalist.spatial_dims, label_keys="mask", allow_missing_keys=True)
    target = in_values(values)

    def and_tell(loader):
        def read():
            scan = loader()
            if isinstance(localizer, Oracle):
                shape = tuple(scan["image"].shape[1:])
                masked = "mask" in scan
                localizer.truth = target(np.asarray(scan["mask"][0])) if masked else in_boxes(scan["boxes"], shape)
            return scan

        return read

    loaders = [and_tell(each) for each in scan_loaders(datalist.split("val"), load, scans)]
    phrases = phrases_of([prompt], configs / "prompts", per_kind)
    record = GateRun(
        localizer, [prompt], phrases, loaders, output_dir, dataset=dataset, target=target,
        elsewhere=elsewhere(datalist.spatial_dims), **more,
    ).run()  # fmt: skip
    return record.prompts[prompt]


def elsewhere(dims):
    """Scans of no part of the body."""
    generator = np.random.default_rng(0)
    shape = (1, *[40] * dims)
    return [lambda: {"image": torch.from_numpy(generator.random(shape).astype(np.float32))}] * 3


@pytest.mark.parametrize("dataset", SETS)
def test_real_scans_separate_who_heeds_from_who_does_not(dataset, data_root, configs, tmp_path):
    oracle = gate(Oracle(SETS[dataset][1]), dataset, data_root, configs, tmp_path / "oracle")
    assert oracle.verdict == USE
    assert oracle.measures["truth"]["dice"] == 1
    assert oracle.measures["presence"] == 1
    concept = ConceptLocalizer(configs / "localizers" / "vocabulary.yaml")
    assert gate(concept, dataset, data_root, configs, tmp_path / "concept", scans=2).verdict in (USE, USE_WITH_CARE)
    for localizer in IGNORING:
        name = localizer.describe()["name"]
        assert gate(localizer, dataset, data_root, configs, tmp_path / name).verdict == DO_NOT_USE, name


def random_models(folder):
    """Vision-language models that have learned nothing, by name."""
    import tiny_models
    import tiny_open_clip

    from custom.localizers.vision_language.biomedclip import BiomedClipBottleneck, BiomedClipGradient
    from custom.localizers.vision_language.clipseg import ClipSegLocalizer

    clip = tiny_open_clip.save_tiny_model(folder / "clip")
    yield "CLIPSeg", ClipSegLocalizer(tiny_models.tiny_clipseg(folder / "clipseg"))
    # Stretched as published: on the scale of evidence, these find nothing.
    yield "M2IB", BiomedClipBottleneck(clip, layer=3, steps=4, draws=4, scale="minmax")
    yield "gradient", BiomedClipGradient(clip, layer=3, scale="minmax")


def test_models_that_have_learned_nothing_are_found_out(data_root, configs, tmp_path, monkeypatch, repository):
    monkeypatch.syspath_prepend(str(repository / "tests" / "localizers"))
    monkeypatch.syspath_prepend(str(repository / "tests" / "localizers" / "vision_language"))
    for name, localizer in random_models(tmp_path):
        verdict = gate(localizer, "brain_mri_cheng", data_root, configs, tmp_path / name, per_kind=3).verdict
        assert verdict == DO_NOT_USE, name


def scan(value=1.0, size=24):
    image = torch.zeros(1, size, size)
    image[:, 4:10, 4:10] = value
    return {"image": image, "scan_id": f"scan{value}"}


class Named(Oracle):
    """Finds the bright square for the words it knows; refuses others if told to."""

    native_dims: ClassVar = (2,)

    def __init__(self, words, refuse=False):
        super().__init__(words)
        self.refuse, self.asked = refuse, []

    def localize(self, image, prompts):
        self.asked.append(tuple(prompts))
        maps = []
        for prompt in prompts:
            known = any(word in prompt for word in self.words)
            if not known and self.refuse:
                raise UnknownPromptError(prompt, self.words)
            maps.append((image[0] > 0.5).float() * known)
        return torch.stack(maps)


def run(localizer, folder, configs, loaders=None, prompts=("square",), **more):
    phrases = phrases_of(list(prompts), configs / "prompts", 2)
    loaders = [scan, lambda: scan(0.9), lambda: scan(0.8)] if loaders is None else loaders
    return GateRun(localizer, list(prompts), phrases, loaders, folder, **more)


def test_what_is_written(configs, tmp_path):
    record = run(Named(("square", "squ", "sqa", "sqr")), tmp_path, configs, dataset="squares").run()
    assert GateRecord.load(tmp_path).prompts["square"].verdict == record.prompts["square"].verdict
    assert (tmp_path / "gate.png").stat().st_size > 1000
    with open(tmp_path / "gate.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["kind"] for row in rows} >= {"paraphrase", "misspelling", "other organ", "absent concept", "nonsense"}
    assert "target" not in {row["kind"] for row in rows}
    content = json.loads((tmp_path / "gate.json").read_text())
    assert content["scans"] == 3
    assert content["dataset"] == "squares"


@pytest.mark.parametrize("asked", [(), ("nonsense",), ("misspelling", "paraphrase")])
def test_where_nothing_was_asked_nothing_is_praised(asked, configs, tmp_path, caplog):
    """A localizer that finds the square whatever the words, and one that heeds them: nobody can tell them apart."""
    phrases = {
        "square": [each for each in phrases_of(["square"], configs / "prompts", 2)["square"] if each.kind in asked]
    }
    loaders = [scan, lambda: scan(0.9), lambda: scan(0.8)]
    found = GateRun(Named(("squ", "sqa", "sqr")), ["square"], phrases, loaders, tmp_path).run().prompts["square"]
    assert found.verdict == USE_WITH_CARE
    assert "not measured whether" in found.reasons[0]
    assert "USE WITH CARE" in caplog.text
    assert GateRecord.load(tmp_path).verdict("square") == USE_WITH_CARE
    assert (tmp_path / "gate.png").exists()


def test_refusing_a_foreign_phrase_is_right_and_a_synonym_wrong(configs, tmp_path):
    found = run(Named(("square",), refuse=True), tmp_path, configs).run().prompts["square"]
    by_kind = {}
    for row in found.phrasings:
        by_kind.setdefault(row["kind"], []).append(row)
    assert all(row["refused"] and row["similarity"] == 0 for row in by_kind["nonsense"])
    assert all(not row["refused"] and row["similarity"] == 1 for row in by_kind["paraphrase"])
    assert all(row["refused"] for row in by_kind["misspelling"])
    assert found.measures["sensitivity"] == 1
    assert 0 < found.measures["stability"] < 1


def test_refused_phrases_are_asked_alone_from_then_on(configs, tmp_path):
    localizer = Named(("square",), refuse=True)
    run(localizer, tmp_path, configs).run()
    together = [asked for asked in localizer.asked if len(asked) > 1]
    assert all("square" in phrase for phrase in together[-1])
    assert together[-1] == together[-2]


def test_a_prompt_that_is_not_known_is_an_error(configs, tmp_path):
    with pytest.raises(UnknownPromptError, match="circle"):
        run(Named(("square",), refuse=True), tmp_path, configs, prompts=("circle",)).run()


def test_not_to_know_the_prompt_elsewhere_is_a_right_answer(configs, tmp_path):
    class OnlyHere(Named):
        def localize(self, image, prompts):
            if image.shape[-1] != 24:
                raise UnknownPromptError(prompts[0], self.words)
            return super().localize(image, prompts)

    other = [lambda: scan(size=30)] * 2
    found = run(OnlyHere(("squ",)), tmp_path, configs, elsewhere=other).run().prompts["square"]
    assert found.measures["presence"] == 1


def test_a_gate_made_in_the_same_way_is_not_made_again(configs, tmp_path):
    run(Named(("square",)), tmp_path, configs).run()
    second = Named(("square",))
    run(second, tmp_path, configs).run()
    assert not second.asked
    run(second, tmp_path, configs, threshold=0.4).run()
    assert second.asked


def test_a_broken_gate_is_made_again(configs, tmp_path, caplog):
    (tmp_path / "gate.json").write_text("{")
    run(Named(("square",)), tmp_path, configs).run()
    assert "is replaced" in caplog.text
    assert GateRecord.load(tmp_path) is not None


def test_scans_that_cannot_be_read(configs, tmp_path):
    def broken():
        raise ScanError("bad.png", "is broken", "Mend it")

    with pytest.raises(ScanError, match=r"bad\.png"):
        run(Named(("square",)), tmp_path, configs, [broken, scan]).run()
    assert run(Named(("square",)), tmp_path, configs, [broken, scan], skip_bad=True).run().scans == 1
    with pytest.raises(ScanError, match="none of the 1 scans"):
        run(Named(("square",)), tmp_path / "2", configs, [broken], skip_bad=True).run()
    with pytest.raises(ScanError, match="no scans"):
        run(Named(("square",)), tmp_path, configs, []).run()


def test_others_stand_in_for_scans_that_cannot_be_read(configs, tmp_path):
    def broken():
        raise ScanError("bad.png", "is broken", "Mend it")

    loaders = [broken, broken, scan, lambda: scan(0.9), lambda: scan(0.8)]
    assert run(Named(("square",)), tmp_path, configs, loaders, skip_bad=True, most=2).run().scans == 2
    with pytest.raises(ScanError, match=r"^/of/mine: none of the 1 scans.*--gate_scans 0"):
        run(Named(("square",)), tmp_path / "2", configs, [broken], skip_bad=True, dataset="/of/mine").run()


@pytest.mark.parametrize("prompts", [("circle",), ("square", "circle")])
def test_other_body_parts_are_not_sought_for_a_prompt_that_is_not_known(prompts, configs, tmp_path):
    def seek():
        pytest.fail("sought")

    gate = run(Named(("square",), refuse=True), tmp_path, configs, prompts=prompts, elsewhere=seek)
    with pytest.raises(UnknownPromptError):
        gate.run()


def test_scans_with_prompts_of_their_own_are_asked_for_those(configs, tmp_path, caplog):
    loaders = [lambda: {**scan(), "prompts": ["square"]}, lambda: {**scan(0.9), "prompts": ["square"]}]
    localizer = Named(("squ", "circle"))
    record = run(localizer, tmp_path, configs, loaders, prompts=("square", "circle")).run()
    assert set(record.prompts) == {"square"}
    assert ("circle",) not in localizer.asked
    assert "No scan drawn for the gate is to be asked for 'circle'" in caplog.text


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for the stand-in, which takes ten seconds a call."""
    now = [0.0]

    class Slow(Named):
        def localize(self, image, prompts):
            now[0] += 10 * len(prompts)
            return super().localize(image, prompts)

    monkeypatch.setattr("custom.workflows.gate.time.monotonic", lambda: now[0])
    return Slow


def test_more_scans_only_while_there_is_time(clock, configs, tmp_path, caplog):
    """Two phrases of five kinds and the prompt: 110 seconds a scan."""
    record = run(clock(("squ",)), tmp_path, configs, max_minutes=4.5).run()
    assert len(record.prompts["square"].phrasings) == 10
    assert record.scans == 2
    assert "2 of 3 scans" in caplog.text


def test_a_slow_localizer_is_asked_less(clock, configs, tmp_path, caplog):
    """One phrase of five kinds and the prompt on two scans: 120 seconds; two of each would take 220."""
    record = run(clock(("squ",)), tmp_path, configs, max_minutes=3).run()
    kinds = [each["kind"] for each in record.prompts["square"].phrasings]
    assert len(kinds) == len(set(kinds)) == 5
    assert "asks 1 of each kind, not 2" in caplog.text
    again = clock(("squ",))
    run(again, tmp_path, configs, max_minutes=3).run()
    assert not again.asked  # the same gate, though it was asked less than it was offered


def test_what_would_take_too_long_is_not_begun(clock, configs, tmp_path, caplog):
    localizer = clock(("squ",))
    assert run(localizer, tmp_path, configs, max_minutes=1).run() is None
    assert not list(tmp_path.iterdir())
    assert len(localizer.asked) == 2
    assert "would take about 2 minutes. Allow it with --gate_minutes" in caplog.text


def test_the_verdict_is_logged(configs, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run(CentredDisc(), tmp_path, configs).run()
    assert "DO NOT USE" in caplog.text


def test_other_localizers_are_compared(configs, tmp_path):
    found = run(Named(("squ",)), tmp_path, configs, others={"same": Named(("squ",)), "deaf": Named((), refuse=True)})
    assert found.run().prompts["square"].measures["agreement"] == {"same": 1.0}


def test_generated_scans_of_other_parts(configs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def fake(folder):
        asked.append(folder)
        return type("L", (), {"items": [{"image": "a"}, {"image": "b"}, {"image": "c"}]})

    monkeypatch.setattr("custom.workflows.gate_setup.load_datalist", fake)
    assert len(other_loaders(["brain tumor"], configs / "prompts", 2, 2)) == 4
    assert asked == ["phantom:chest_ct_2d", "phantom:chest_xray_2d"]
    asked.clear()
    assert other_loaders(["brain tumor"], configs / "prompts", 0, 2) == asked == []
    other_loaders(["left lung"], configs / "prompts", 2, 3)
    assert asked == ["phantom:brain_mri_3d"]


def test_scans_are_drawn_by_the_seed():
    items = [{"image": index} for index in range(20)]
    first, second, third = ([each()["image"] for each in scan_loaders(items, dict, 5, seed)] for seed in (0, 0, 1))
    assert first == second != third
    assert len(set(first)) == 5


def test_rules_by_name():
    assert gate_rules({"least_found": 0.5, "usual_coverage": [0, 1]}).usual_coverage == (0, 1)
    with pytest.raises(ValueError, match="no rule 'leest'"):
        gate_rules({"leest": 1})


class Evidence(Oracle):
    """Finds nothing with one scale, and with the other a place that the words decide."""

    scale = "evidence"

    @property
    def when_empty(self):
        return ("scale", "minmax") if self.scale == "evidence" else None

    def describe(self):
        return {"name": "evidence", "scale": self.scale}

    def localize(self, image, prompts):
        named = [self.scale == "minmax" and any(word in prompt.lower() for word in self.words) for prompt in prompts]
        return torch.stack([torch.eye(40) if name else torch.zeros(40, 40) for name in named])


def run_gate(localizer, configs, output_dir, prompts=("brain tumor",)):
    scans = [lambda: {"image": torch.rand(1, 40, 40), "scan_id": "a"}] * 2
    phrases = phrases_of(prompts, configs / "prompts", 2)
    return GateRun(localizer, prompts, phrases, scans, output_dir, elsewhere=elsewhere(2)).run().prompts


@pytest.mark.parametrize("wrap", [lambda each: each, lambda each: PromptEnsemble(each)])
def test_where_nothing_is_found_the_other_scale_is_tried(configs, tmp_path, wrap):
    localizer = wrap(Evidence(SETS["brain_mri_cheng"][1]))
    gate = run_gate(localizer, configs, tmp_path)["brain tumor"]
    assert gate.verdict == DO_NOT_USE
    assert gate.measures["found"] == 0
    assert "with {scale: minmax} it finds something on 100 % of the scans: use" in gate.reasons[-1]
    assert GateRecord.load(tmp_path).prompts["brain tumor"].reasons == gate.reasons
    nothing = run_gate(wrap(Evidence(["no such word"])), configs, tmp_path / "nothing")["brain tumor"]
    assert "with {scale: minmax} it finds something on 0 % of the scans: do not use" in nothing.reasons[-1]


def test_phrases_are_compared_in_the_window_of_the_prompt(configs, tmp_path):
    """What a foreign phrase changes is then the model's doing, not that of another picture."""
    localizer = Bright()
    scan = torch.full((1, 40, 40), -1000.0)
    scan[:, 10:30, 10:30] = 40
    scan[:, 15:20, 15:20] = 240
    loaders = [lambda: {"image": scan, "scan_id": "a"}] * 2
    phrases = phrases_of(["liver tumor"], configs / "prompts", 2)
    GateRun(localizer, ["liver tumor"], phrases, loaders, tmp_path).run()
    assert len({phrase.text for phrase in phrases["liver tumor"]}) > 5
    assert localizer.seen == {(0.5, 1.0)}


class Bright(PictureLocalizer):
    """What is bright, for whatever phrase; remembers how body and spot of the scan looked."""

    window = PictureWindow("auto")

    def __init__(self):
        self.seen = set()

    def describe(self):
        return {"name": "bright", **self.window.describe()}

    def localize_pictures(self, pictures, prompts):
        self.seen.add((float(pictures[0, 0, 12, 12]), float(pictures[0, 0, 17, 17])))
        return (pictures[:, :1] > 0.7).float().repeat(1, len(prompts), 1, 1)
