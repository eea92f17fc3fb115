# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from custom.components import load_component
from custom.localizers.base import Refiner
from custom.localizers.pictures import scaled
from custom.localizers.pretrained import MissingWeightsError
from custom.localizers.volumes import Sam2Propagation, SliceView
from custom.localizers.volumes.propagation import Seed
from custom.localizers.volumes.sam2_propagation import _Film
from tests.localizers.tiny_models import tiny_sam2, tiny_sam2_video

LOOSE = {"least_overlap": 0.0, "least_area": 0.0, "patience": 10}  # random weights outline anything


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny randomly initialised SAM 2 for films, as its makers' checkpoints are stored."""
    pytest.importorskip("transformers")
    return tiny_sam2_video(tmp_path_factory.mktemp("sam2_video"))


@pytest.fixture
def scan(generator):
    volume = torch.rand(1, 24, 20, 7, generator=generator)
    coarse = torch.zeros(2, 24, 20, 7)
    coarse[0, 4:14, 5:15, 2:5] = 0.2
    coarse[0, 4:14, 5:15, 3] = 0.9
    return volume, coarse


@pytest.mark.parametrize("prompt", ["box", "mask"])
def test_maps_of_the_real_class(folder, scan, prompt):
    refiner = Sam2Propagation(folder, prompt=prompt, device="cpu", **LOOSE)
    assert isinstance(refiner, Refiner)
    found = refiner.refine(*scan)
    assert found.shape == scan[1].shape
    assert 0 <= found.min() <= found.max() <= 1
    assert found[1].max() == 0
    assert torch.equal(found, refiner.refine(*scan))


def test_a_mask_is_taken_for_granted_in_its_slice(folder, scan):
    found = Sam2Propagation(folder, prompt="mask", device="cpu", **LOOSE).refine(*scan)
    assert found[0, 5:13, 6:14, 3].min() > 0.9
    assert found[0, 18:, :, 3].max() < 0.1


def test_the_film_is_the_one_that_the_model_plays_itself(folder, generator):
    """Frames made when they are looked at, against the model's own way through a film that is there as a whole."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    image = torch.rand(1, 24, 20, 18, generator=generator)  # of shorter films the model takes fewer memories
    checkpoint, view = Sam2Propagation(folder, device="cpu").checkpoint, SliceView(2, image.shape[1:])
    model = checkpoint.model
    film = _Film(checkpoint, checkpoint.normalization, scaled(image, (3,)), view)
    box, start = torch.tensor([0.2, 0.2, 0.7, 0.7]), 3
    ours = [film.start(start, box), *(film.follow(index, reverse=False) for index in range(start + 1, 18))]

    frames = torch.stack([film._frame(index) for index in range(18)])
    session = Sam2VideoInferenceSession(frames, 20, 24, dtype=torch.float32)
    corners, labels = (box * 64).view(1, 1, 2, 2), torch.tensor([[[2, 3]]], dtype=torch.int32)
    number = session.obj_id_to_idx(1)
    session.add_point_inputs(number, start, {"point_coords": corners, "point_labels": labels})
    session.obj_with_new_inputs = [1]
    outputs = list(model.propagate_in_video_iterator(session, start_frame_idx=start))
    assert [each.frame_idx for each in outputs] == list(range(start, 18))
    for each, output in zip(ours, outputs, strict=True):
        logits = F.interpolate(output.pred_masks, (20, 24), mode="bilinear", align_corners=False)
        torch.testing.assert_close(each, logits.sigmoid(), atol=1e-5, rtol=0)


def test_an_object_that_is_not_there_ends_the_walk(folder, scan):
    refiner = Sam2Propagation(folder, prompt="mask", device="cpu", **LOOSE)
    torch.nn.init.constant_(refiner.checkpoint.model.mask_decoder.pred_obj_score_head.proj_out.bias, -1)
    found = refiner.refine(*scan)[0]
    assert found[..., 3].max() > 0.9
    assert found[..., :3].max() == found[..., 4:].max() == 0


def test_the_box_lies_around_the_region(folder):
    coarse = torch.zeros(1, 1, 20, 40)
    coarse[0, 0, 5:10, 8:20] = 0.9
    box = Sam2Propagation(folder, device="cpu")._prompt(Seed(0, 0, coarse))
    torch.testing.assert_close(box, torch.tensor([8 / 40, 5 / 20, 20 / 40, 10 / 20]))


def test_zero_maps_stay_zero_without_the_model(folder, scan):
    refiner = Sam2Propagation(folder, device="cpu")
    assert refiner.refine(scan[0], torch.zeros_like(scan[1])).max() == 0
    assert "model" not in vars(refiner.checkpoint)


def test_thick_slices_along_another_axis(folder, scan):
    image = MetaTensor(scan[0], affine=torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0])))
    found = Sam2Propagation(folder, axis=0, device="cpu", **LOOSE).refine(image, scan[1])
    assert found.shape == scan[1].shape


def test_the_config_holds_the_defaults(configs, folder):
    refiner = load_component(configs / "refiners", "propagate_sam2", {"source": str(folder)})
    assert refiner.describe() == Sam2Propagation(folder).describe()


def test_it_is_described(folder):
    described = json.loads(json.dumps(Sam2Propagation(folder, device="cpu").describe()))
    assert described["name"] == "sam2_propagation"
    assert len(described["weights"]) == 16


def test_errors_say_what_to_do(folder, tmp_path, scan):
    with pytest.raises(MissingWeightsError, match="hf download facebook/sam2"):
        Sam2Propagation(tmp_path)
    with pytest.raises(ValueError, match="box, mask"):
        Sam2Propagation(folder, prompt="points")
    with pytest.raises(ValueError, match="3 spatial"):
        Sam2Propagation(folder, device="cpu").refine(scan[0][..., 0], scan[1][..., 0])


def test_memory_that_is_missing_is_not_made_up(tmp_path, scan):
    """Weights of SAM 2 for pictures alone, fine-tuned and saved, load into the model of films, but for its memory."""
    refiner = Sam2Propagation(tiny_sam2(tmp_path / "sam2"), device="cpu", **LOOSE)
    with pytest.raises(MissingWeightsError, match=r"of its weights are missing(.|\n)*hf download facebook/sam2"):
        refiner.refine(*scan)


@pytest.mark.parametrize("normalised", [True, False])
def test_colours_are_those_that_the_folder_asks_for(folder, tmp_path, scan, normalised):
    other = shutil.copytree(folder, tmp_path / "other")
    recipe = json.loads((other / "preprocessor_config.json").read_text())
    changes = {"do_normalize": normalised, "image_mean": [0.3, 0.4, 0.5]}
    (other / "preprocessor_config.json").write_text(json.dumps(recipe | changes))
    refiner, volume = Sam2Propagation(other, device="cpu"), scaled(scan[0], (3,))
    view = SliceView(2, volume.shape[1:])
    frame = _Film(refiner.checkpoint, refiner._colours, volume, view)._frame(3)
    mean, std = torch.tensor([0.3, 0.4, 0.5]), torch.tensor([0.229, 0.224, 0.225])
    plain = _Film(refiner.checkpoint, None, volume, view)._frame(3)
    expected = (plain - mean.view(3, 1, 1)) / std.view(3, 1, 1) if normalised else plain
    torch.testing.assert_close(frame, expected)
    assert refiner.describe() != Sam2Propagation(folder, device="cpu").describe()


def test_a_folder_without_a_processor_gets_the_published_colours_and_says_so(folder, tmp_path, caplog):
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    described = Sam2Propagation(bare, device="cpu").describe()
    assert described == Sam2Propagation(folder, device="cpu").describe()
    assert "colours of the published SAM 2" in caplog.text
