# SPDX-License-Identifier: Apache-2.0
"""Segment Anything as a refiner: outlines what a coarse map points at (Kirillov et al., arXiv 2304.02643)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from custom.localizers.checkpoint import Checkpoint
from custom.localizers.pictures import PictureRefiner
from custom.localizers.pretrained import PretrainedModel
from custom.localizers.refiners.box_prompts import box_around, components, pad_points, peak, points_beside
from custom.localizers.windows import AUTO, PictureWindow

PROMPT_KINDS = ("box", "point", "box_and_point")


class SamRefiner(PictureRefiner):
    """Masks of SAM (``facebook/sam-vit-base``, Apache-2.0) for the components of a coarse map.

    The map is thresholded; its largest connected components become prompts: the box around each, or a point at its
    maximum. The picture is encoded once and the masks of all components of all maps are decoded together, one mask a
    component; the refined map is the highest of their probabilities. No component, no mask: a map of zeros, without a
    look at the picture. A constant picture has maps of zeros, too.

    Pictures are scaled to a long side of 1024 px. 94 million parameters, 0.4 GB; about 3 GB of memory.
    ``source: facebook/sam-vit-huge`` (at ``87aecf0df4ce6b30cd7de76e87673c49644bdf67``; 641 million, 2.6 GB) is the
    model that MedCLIP-SAMv2 uses.

    Args:
        source: a local folder, or a hub id of weights of the same class; None: the published ones.
        download: fetch from the hub what is not on this machine; False: no network access.
        device: None: the GPU if there is one.
        prompts: ``box``, ``point`` or ``box_and_point``.
        threshold: probability from which a pixel counts as region, in [0, 1].
        max_components: components that are refined, the largest first; others are dropped.
        min_size: components with a smaller share of the largest one's pixels are dropped, in [0, 1].
        margin: share of a box's sides that is added on each side.
        negative_points: also name points beside each component that do not belong to it.
        weigh_by_iou: multiply each mask by the quality that the model expects of it.
        mixed_precision: encode pictures in half precision on a GPU.
        window: grey values of a scan that become black and white: ``(low, high)``; None: percentiles; ``auto``: see
            :class:`~custom.localizers.windows.PictureWindow`.

    Raises:
        ValueError: if a parameter is out of range.
    """

    name: ClassVar[str] = "sam"
    version: ClassVar[int] = 1  # raised whenever the same model and parameters give other maps
    published: ClassVar[PretrainedModel] = PretrainedModel(
        "facebook/sam-vit-base", "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f", "Apache-2.0", 375
    )
    model_class: ClassVar[str] = "SamModel"
    processor_class: ClassVar[str] = "SamProcessor"

    def __init__(
        self,
        source: str | Path | None = None,
        download: bool = False,
        device: str | torch.device | None = None,
        prompts: str = "box",
        threshold: float = 0.5,
        max_components: int = 5,
        min_size: float = 0.1,
        margin: float = 0.05,
        negative_points: bool = False,
        weigh_by_iou: bool = False,
        mixed_precision: bool = True,
        window: Any = AUTO,
    ) -> None:
        if prompts not in PROMPT_KINDS:
            raise ValueError(f"prompts must be one of {', '.join(PROMPT_KINDS)}, received {prompts!r}.")
        if not (0 <= threshold <= 1 and 0 <= min_size <= 1 and margin >= 0 and max_components >= 1):
            raise ValueError(
                "threshold and min_size must be in [0, 1], margin not negative and max_components at least 1, received "
                f"{threshold}, {min_size}, {margin} and {max_components}."
            )
        if negative_points and prompts == "box":
            raise ValueError("negative_points needs the prompts 'point' or 'box_and_point', received 'box'.")
        half = torch.float16 if mixed_precision else None
        self.checkpoint = Checkpoint(
            self.published, self.model_class, self.processor_class, source, download, device, half
        )
        self.prompts, self.threshold, self.margin = prompts, threshold, margin
        self.max_components, self.min_size = max_components, min_size
        self.negative_points, self.weigh_by_iou = negative_points, weigh_by_iou
        self.window = PictureWindow(window)

    def describe(self) -> dict[str, Any]:
        """Return name, version, model, hash of its weights, the colours that they are shown, and parameters."""
        return {
            "name": self.name,
            "version": self.version,
            **self.checkpoint.describe(),
            "normalize": self.checkpoint.normalization,
            **self.window.describe(),
            "prompts": self.prompts,
            "threshold": self.threshold,
            "max_components": self.max_components,
            "min_size": self.min_size,
            "margin": self.margin,
            "negative_points": self.negative_points,
            "weigh_by_iou": self.weigh_by_iou,
        }

    def refine_pictures(self, pictures: Tensor, probabilities: Tensor) -> Tensor:
        """Refine the maps of each picture; see :class:`custom.localizers.pictures.PictureRefiner`.

        Raises:
            MissingWeightsError: if the model is not on this machine and may not (or cannot) be downloaded.
            FloatingPointError: if the model computes values that are not finite.
        """
        refined = torch.zeros(probabilities.shape, device=probabilities.device)
        for picture, coarse, found in zip(pictures, probabilities, refined, strict=True):
            if bool(picture.amax() <= picture.amin()):
                continue
            maps = coarse.detach().float().cpu().numpy()
            parts = [(index, part) for index in range(len(maps)) for part in self._components(maps[index])]
            if not parts:
                continue
            masks = self._masks(picture, [(part, maps[index]) for index, part in parts]).to(found)
            for (index, _), mask in zip(parts, masks, strict=True):
                torch.maximum(found[index], mask, out=found[index])
        if not bool(refined.isfinite().all()):
            raise FloatingPointError(f"{self.name} computed NaN: use the option {{mixed_precision: false}}.")
        return refined.clamp(0, 1)

    def _components(self, coarse: np.ndarray) -> list[np.ndarray]:
        return components(coarse, self.threshold, self.min_size, self.max_components)

    def _masks(self, picture: Tensor, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Tensor:
        """Return the probabilities ``[K, H, W]`` of ``K`` components, given with the maps that they are of."""
        inputs = self._inputs(picture.cpu(), self._prompts(parts))
        moved = {
            name: inputs[name].to(self.checkpoint.device)
            for name in ("pixel_values", "input_boxes", "input_points", "input_labels")
            if name in inputs
        }
        with torch.no_grad():
            with self.checkpoint.half_precision():
                encoded = self.checkpoint.model.get_image_embeddings(moved.pop("pixel_values"))
            # prompts and masks in float32: half precision would move a box by pixels
            encoded = [level.float() for level in encoded] if isinstance(encoded, list) else encoded.float()
            output = self.checkpoint.model(image_embeddings=encoded, multimask_output=False, **moved)
        masks = self._on_picture(output.pred_masks[0].float(), inputs)[:, 0].sigmoid()
        if masks.shape[-2:] != picture.shape[-2:]:
            masks = F.interpolate(masks[:, None], picture.shape[-2:], mode="bilinear", antialias=True)[:, 0]
        return masks * output.iou_scores[0, :, 0, None, None].clamp(0, 1) if self.weigh_by_iou else masks

    def _prompts(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
        """Boxes ``[K, 4]``, or points ``[K, M, 2]`` and their labels ``[K, M]``, in the picture's pixels."""
        prompts: dict[str, np.ndarray] = {}
        if self.prompts != "point":
            prompts["input_boxes"] = np.array([box_around(part, self.margin) for part, _ in parts])
        if self.prompts != "box":
            beside = [
                points_beside(part, coarse, self.threshold) if self.negative_points else [] for part, coarse in parts
            ]
            points, labels = pad_points([peak(part, coarse) for part, coarse in parts], beside)
            prompts.update(input_points=points, input_labels=labels)
        return prompts

    def _inputs(self, picture: Tensor, prompts: dict[str, np.ndarray]) -> Any:
        """Picture and prompts as the model takes them."""
        listed = {name: [values.tolist()] for name, values in prompts.items()}
        # whether colour statistics are subtracted, and which, is said by the folder of the weights
        inputs = self.checkpoint.processor(images=[picture], do_rescale=False, return_tensors="pt", **listed)
        for name in ("input_boxes", "input_points"):
            if name in inputs:
                inputs[name] = inputs[name].float()
        return inputs

    def _on_picture(self, logits: Tensor, inputs: Any) -> Tensor:
        """Take mask logits ``[K, 1, h, w]`` back to the grid of the picture that was prepared."""
        restore = self.checkpoint.processor.post_process_masks
        return restore([logits], inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False)[0]


class Sam2Refiner(SamRefiner):
    """Masks of SAM 2.1 (``facebook/sam2.1-hiera-base-plus``, Apache-2.0; arXiv 2408.00714); see :class:`SamRefiner`.

    Pictures are squeezed to 1024 × 1024. 73 million parameters (without those for video, which the weights also hold),
    0.3 GB; about 2 GB of memory. Other sizes:
    ``facebook/sam2.1-hiera-tiny``, ``-small``, ``-large``.
    """

    name = "sam2"
    published = PretrainedModel(
        "facebook/sam2.1-hiera-base-plus", "b7320756a13354e7530a63935656d35b2f91a290", "Apache-2.0", 324
    )
    model_class = "Sam2Model"
    processor_class = "Sam2Processor"

    def _on_picture(self, logits: Tensor, inputs: Any) -> Tensor:
        restore = self.checkpoint.processor.post_process_masks
        return restore([logits], inputs["original_sizes"], binarize=False)[0]


class MedSamRefiner(SamRefiner):
    """Masks of MedSAM (``flaviagiammarino/medsam-vit-base``, Apache-2.0; Ma et al., Nature Communications 2024).

    SAM's ViT-B, picture encoder included, taught anew on 1.09 million pairs of medical images and masks, with boxes,
    and boxes only, as prompts: the release of July 2023. As in its authors' own inference the picture is stretched to
    1024 × 1024 and enters in [0, 1]: its processor subtracts no colour statistics. ``source`` also takes the weights of
    before that release (``wanglab/medsam-vit-base``: SAM's own encoder, a decoder taught anew), whose processor does.
    In training boxes reached up to 20 px of 1024 beyond the mask. 94 million parameters, 0.4 GB; about 3 GB of memory.
    See :class:`SamRefiner`.

    Args:
        source: see :class:`SamRefiner`.
        download: likewise.
        device: likewise.
        threshold: likewise.
        max_components: likewise.
        min_size: likewise.
        margin: likewise.
        weigh_by_iou: likewise.
        mixed_precision: likewise.
        window: likewise.
    """

    name = "medsam"
    version = 2
    published = PretrainedModel(
        "flaviagiammarino/medsam-vit-base",
        "a3cb4c518fc3ae8beaf1af0cd3a43867cfa28335",
        "Apache-2.0",
        375,
        files=("*.json", "pytorch_model.bin"),  # beside them the repository holds the weights for TensorFlow
    )

    def __init__(
        self,
        source: str | Path | None = None,
        download: bool = False,
        device: str | torch.device | None = None,
        threshold: float = 0.5,
        max_components: int = 5,
        min_size: float = 0.1,
        margin: float = 0.05,
        weigh_by_iou: bool = False,
        mixed_precision: bool = True,
        window: Any = AUTO,
    ) -> None:
        super().__init__(
            source,
            download,
            device,
            threshold=threshold,
            max_components=max_components,
            min_size=min_size,
            margin=margin,
            weigh_by_iou=weigh_by_iou,
            mixed_precision=mixed_precision,
            window=window,
        )

    def _inputs(self, picture: Tensor, prompts: dict[str, np.ndarray]) -> Any:
        side = self.checkpoint.processor.image_processor.size["longest_edge"]
        height, width = picture.shape[-2:]
        stretched = F.interpolate(picture[None], (side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)
        boxes = prompts["input_boxes"] * (np.array([side, side, side, side]) / [width, height, width, height])
        return super()._inputs(stretched, {"input_boxes": boxes})
