# SPDX-License-Identifier: Apache-2.0
"""Networks that see brightness and nothing else, behind the published processors: maps lie where the bright block lies,
on wide and tall pictures (at the published size) and on volumes of thick slices, whichever way these are cut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from monai.data import MetaTensor

from custom.localizers.refiners.sam import MedSamRefiner, Sam2Refiner, SamRefiner
from custom.localizers.vision_language.clipseg import ClipSegLocalizer
from custom.localizers.vision_language.grounding_dino import GroundingDinoLocalizer
from custom.localizers.vision_language.owlv2 import Owlv2Localizer
from custom.localizers.vision_language.sam3 import Sam3Localizer
from custom.localizers.volumes import Slicewise, SlicewiseRefiner
from tests.localizers.bright import box_of_bright, bright, centre_form, overlap
from tests.localizers.tiny_models import PLAIN, bert_tokenizer, clip_tokenizer

transformers = pytest.importorskip("transformers")
TEXT = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=16), max_text_len=24)
SURE = 20.0


class ClipSeg:
    config, extract_layers = TEXT, [0]
    clip = SimpleNamespace(vision_model=lambda pixel_values, **_: SimpleNamespace(hidden_states=[pixel_values] * 2))

    def get_conditional_embeddings(self, batch_size, **_):
        return torch.zeros(batch_size, 8)

    def decoder(self, seen, _):
        return SimpleNamespace(logits=(bright(seen[0]).float() * 2 - 1) * SURE)


class Detector:
    """One box a picture; OWLv2 puts scores of prompts last, Grounding DINO those of tokens."""

    config = TEXT

    def __call__(self, pixel_values, **_):
        boxes = centre_form(box_of_bright(pixel_values))[:, None]
        return SimpleNamespace(pred_boxes=boxes, logits=torch.full((len(boxes), 1, 1), SURE))


class Sam3:
    config = TEXT

    def get_vision_features(self, pixel_values):
        return bright(pixel_values)

    def get_text_features(self, input_ids, **_):
        return SimpleNamespace(pooler_output=torch.zeros(*input_ids.shape, 8))

    def __call__(self, vision_embeds, **_):
        sure = torch.full((len(vision_embeds), 1), SURE)
        masks = (vision_embeds.float()[:, None] * 2 - 1) * SURE
        return SimpleNamespace(pred_masks=masks, pred_logits=sure, presence_logits=sure)


class Sam:
    """What is bright within the box that it is given, or where its first point lies."""

    def get_image_embeddings(self, pixel_values):
        return pixel_values

    def __call__(self, image_embeddings, input_boxes=None, input_points=None, **_):
        seen = bright(image_embeddings)
        prompts = input_boxes if input_boxes is not None else input_points
        inside = torch.zeros(prompts.shape[1], *seen.shape[-2:], dtype=torch.bool)
        for index, mask in enumerate(inside):
            if input_boxes is not None:
                left, top, right, bottom = input_boxes[0, index].round().int().tolist()
                mask[top:bottom, left:right] = True
            else:
                column, row = input_points[0, index, 0].int().tolist()
                mask[:] = seen[0, row, column]
        masks = ((inside & seen).float() * 2 - 1) * SURE
        return SimpleNamespace(pred_masks=masks[None, :, None], iou_scores=torch.ones(1, len(masks), 1))


def square(side):
    return {"size": {"height": side, "width": side}, **PLAIN}


def padded(side):
    low = {"mask_size": {"longest_edge": side // 4}, "mask_pad_size": {"height": side // 4, "width": side // 4}}
    return {"size": {"longest_edge": side}, "pad_size": {"height": side, "width": side}, **low, **PLAIN}


def short(side):
    return {"size": {"shortest_edge": side, "longest_edge": side * 5 // 3}, **PLAIN}


# class, network, picture processor, its settings and side; or class, processor, ..., options
LOCALIZERS = {
    "clipseg": (ClipSegLocalizer, ClipSeg, "ViTImageProcessor", square, 352),
    "owlv2": (Owlv2Localizer, Detector, "Owlv2ImageProcessor", square, 960),
    "grounding_dino": (GroundingDinoLocalizer, Detector, "GroundingDinoImageProcessor", short, 800),
    "sam3": (Sam3Localizer, Sam3, "Sam3ImageProcessor", square, 1008),
}
REFINERS = {
    "sam": (SamRefiner, "Sam", padded, {}),
    "sam2": (Sam2Refiner, "Sam2", square, {}),
    "medsam": (MedSamRefiner, "Sam", padded, {}),
    "sam, points": (SamRefiner, "Sam", padded, {"prompts": "point"}),
    "sam2, points": (Sam2Refiner, "Sam2", square, {"prompts": "point"}),
}
EVERY = [*LOCALIZERS, *REFINERS]


def localizer(name, folder, part_of_size=1):
    kind, network, processor, settings, side = LOCALIZERS[name]
    read = bert_tokenizer(folder) if kind is GroundingDinoLocalizer else clip_tokenizer(folder, 16)
    pictures = getattr(transformers, processor)(**settings(side // part_of_size))
    model = kind(device="cpu")
    model.checkpoint.processor = SimpleNamespace(image_processor=pictures, tokenizer=read)
    model.checkpoint.model = network()
    return model


def refiner(name, part_of_size=1):
    kind, family, settings, options = REFINERS[name]
    pictures = getattr(transformers, f"{family}ImageProcessor")(**settings(1024 // part_of_size))
    model = kind(device="cpu", **options)
    model.checkpoint.processor = getattr(transformers, f"{family}Processor")(pictures)
    model.checkpoint.model = Sam()
    return model


def scan_with(shape, block):
    truth = torch.zeros(shape)
    truth[block] = 1
    return 1 + 9 * truth[None], truth


@pytest.mark.parametrize("name", EVERY)
def test_on_pictures(name, tmp_path):
    part = localizer(name, tmp_path) if name in LOCALIZERS else refiner(name)
    for shape in ((400, 170), (170, 400)):
        scan, truth = scan_with(shape, (slice(90, 150), slice(20, 70)))
        found = part.localize(scan, ["lung"]) if name in LOCALIZERS else part.refine(scan, truth[None])
        assert overlap(found[0], truth) > 0.98


@pytest.mark.parametrize("name", EVERY)
def test_on_volumes_of_thick_slices(name, tmp_path):
    scan, truth = scan_with((60, 90, 24), (slice(30, 38), slice(10, 20), slice(15, 19)))
    image = MetaTensor(scan, affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0])))
    part = localizer(name, tmp_path, 4) if name in LOCALIZERS else refiner(name, 4)
    for axis in range(3):
        if name in LOCALIZERS:
            found = Slicewise(part, axes=axis).localize(image, ["lung"])
        else:
            found = SlicewiseRefiner(part, axes=axis).refine(image, truth[None])
        assert overlap(found[0], truth) > 0.98
