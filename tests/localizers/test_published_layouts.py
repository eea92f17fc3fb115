# SPDX-License-Identifier: Apache-2.0
"""Folders as they lie on the hub, in layouts that today's transformers no longer writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from custom.localizers.refiners.sam import MedSamRefiner, Sam2Refiner, SamRefiner
from custom.localizers.vision_language.clipseg import ClipSegLocalizer
from custom.localizers.vision_language.sam3 import Sam3Localizer
from tests.localizers import tiny_models

pytest.importorskip("transformers")

COLOURS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_normalize": True}
STEPS = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "resample": 2}
PADDED = {"do_pad": True, "pad_size": {"height": 64, "width": 64}, "size": {"longest_edge": 64}}
# class, tiny model, file of the processor, its content
LAYOUTS = {
    "sam": (
        SamRefiner,
        tiny_models.tiny_sam,
        "preprocessor_config.json",
        {**COLOURS, **STEPS, **PADDED, "image_processor_type": "SamImageProcessor", "processor_class": "SamProcessor"},
    ),
    "medsam": (
        MedSamRefiner,
        tiny_models.tiny_sam,
        "preprocessor_config.json",
        {
            **{**COLOURS, "do_normalize": False, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]},
            **{**STEPS, **PADDED, "resample": 3},
            "feature_extractor_type": "SamFeatureExtractor",
            "image_processor_type": "SamImageProcessor",
            "processor_class": "SamProcessor",
        },
    ),
    "sam2": (
        Sam2Refiner,
        tiny_models.tiny_sam2,
        "preprocessor_config.json",
        {
            **{**COLOURS, **STEPS, "size": {"height": 64, "width": 64}, "mask_size": {"height": 16, "width": 16}},
            "image_processor_type": "Sam2ImageProcessorFast",
            "processor_class": "Sam2VideoProcessor",
        },
    ),
    "clipseg": (
        ClipSegLocalizer,
        tiny_models.tiny_clipseg,
        "preprocessor_config.json",
        {**COLOURS, "do_resize": True, "resample": 2, "size": 64, "feature_extractor_type": "ViTFeatureExtractor"},
    ),
    "sam3": (
        Sam3Localizer,
        tiny_models.tiny_sam3,
        "processor_config.json",
        {
            "image_processor": {
                **{**COLOURS, **STEPS, "size": {"height": 56, "width": 56}, "mask_size": {"height": 16, "width": 16}},
                **{"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
                "image_processor_type": "Sam3ImageProcessorFast",
            },
            "video_processor": {"size": {"height": 56, "width": 56}, "video_processor_type": "Sam2VideoVideoProcessor"},
            "processor_class": "Sam3VideoProcessor",
            "target_size": 56,
        },
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_processors_as_they_were_published(name, tmp_path, generator):
    kind, build, file, content = LAYOUTS[name]
    folder = build(tmp_path / name)
    (folder / "processor_config.json").unlink()
    (folder / file).write_text(json.dumps(content))
    model = kind(folder, device="cpu")
    pictures = model.checkpoint.processor.image_processor
    recipe = content.get("image_processor", content)
    side = recipe["size"] if isinstance(recipe["size"], int) else next(iter(recipe["size"].values()))
    assert {value for value in dict(pictures.size).values() if value} == {side}
    expected = [recipe["image_mean"], recipe["image_std"]] if recipe["do_normalize"] else None
    assert model.checkpoint.normalization == expected
    picture = torch.rand(3, side, side, generator=generator)
    shown = pictures(images=[picture], do_rescale=False, return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in expected or ([0.0] * 3, [1.0] * 3))
    torch.testing.assert_close(shown, (picture - mean) / std, atol=1e-5, rtol=0)


def sam3_video(folder: Path, target: Path) -> Path:
    """The published SAM 3: a model of films, whose detector is the one of pictures."""
    shutil.copytree(folder, target)
    weights = load_file(folder / "model.safetensors")
    renamed = {f"detector_model.{name}": value for name, value in weights.items()}
    save_file({**renamed, "tracker_model.memory": torch.zeros(3)}, target / "model.safetensors", {"format": "pt"})
    detector = json.loads((folder / "config.json").read_text())
    config = {"model_type": "sam3_video", "architectures": ["Sam3VideoModel"], "detector_config": detector}
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_sam_3_for_films_is_the_localizer_of_pictures(tmp_path, generator):
    plain = tiny_models.tiny_sam3(tmp_path / "sam3")
    film = Sam3Localizer(sam3_video(plain, tmp_path / "film"), device="cpu", threshold=0.0)
    pictures = Sam3Localizer(plain, device="cpu", threshold=0.0)
    expected, found = pictures.checkpoint.model.state_dict(), film.checkpoint.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    scan = torch.rand(1, 40, 50, generator=generator)
    torch.testing.assert_close(film.localize(scan, ["lung"]), pictures.localize(scan, ["lung"]), atol=1e-5, rtol=0)


def test_sam_2_for_films_is_the_refiner_of_pictures(tmp_path, generator):
    folder = tiny_models.tiny_sam2_video(tmp_path / "film")
    refiner = Sam2Refiner(folder, device="cpu")
    stored, loaded = load_file(folder / "model.safetensors"), refiner.checkpoint.model.state_dict()
    assert sum(torch.equal(stored[name], loaded[name]) for name in loaded if name in stored) == len(loaded)
    coarse = torch.zeros(1, 40, 50)
    coarse[0, 10:20, 10:30] = 1
    assert refiner.refine(torch.rand(1, 40, 50, generator=generator), coarse).std() > 0
