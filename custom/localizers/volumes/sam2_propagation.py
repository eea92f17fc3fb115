# SPDX-License-Identifier: Apache-2.0
"""SAM 2 in its video form on volumes: slices are frames, and its memory carries a region from one to the next."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from custom.localizers.base import spatial_values
from custom.localizers.pictures import default_device, scaled
from custom.localizers.pretrained import PretrainedModel, find_weights, weights_digest
from custom.localizers.volumes.propagation import Rules, Seed, Walk, checked_axis, find_seeds, gather
from custom.localizers.volumes.slices import SliceView, plain, voxel_sizes

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

SAM2_VIDEO = PretrainedModel(  # the same files as those of custom.localizers.refiners.sam
    "facebook/sam2.1-hiera-base-plus", "b7320756a13354e7530a63935656d35b2f91a290", "Apache-2.0", 324
)
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROMPTS = ("box", "mask")
_BOX_CORNERS = (2, 3)  # SAM 2's labels for the two corners of a box


class Sam2Propagation:
    """Refines the maps of a volume with SAM 2's memory (Ravi et al., arXiv 2408.00714).

    Each region of the coarse map is prompted in the slice that holds most of its evidence; SAM 2 follows it in both
    directions, its memory holding that slice and the last ones, until the region has vanished: SAM 2 says that the
    object is not there, or one of :class:`custom.localizers.volumes.propagation.Rules` ends it. Model
    ``facebook/sam2.1-hiera-base-plus`` (Apache-2.0, 324 MB; ``-tiny``, ``-small``, ``-large`` are of the same class);
    pictures of 1024 px, about 5 MB a followed slice beside the model. Trained on films of everyday things, on no scans.

    Args:
        source: local folder or hub id, see :func:`custom.localizers.pretrained.find_weights`.
        download: fetch missing weights.
        axis: that is cut across.
        prompt: ``box`` around the region in its first slice, outlined anew there; or ``mask``: the region itself, cut
            at ``threshold``, is taken for granted.
        device: None: the GPU if there is one.
        rules: the fields of :class:`custom.localizers.volumes.propagation.Rules`.

    Raises:
        MissingWeightsError: if there are no weights.
        ValueError: if a parameter is none of those listed.
    """

    native_dims: tuple[int, ...] = (3,)

    def __init__(
        self,
        source: str | Path | None = None,
        download: bool = False,
        axis: int = 2,
        prompt: str = "box",
        device: str | None = None,
        **rules: Any,
    ) -> None:
        if prompt not in PROMPTS:
            raise ValueError(f"prompt is one of {', '.join(PROMPTS)}, received {prompt!r}.")
        self.axis, self.prompt, self.rules = checked_axis(axis), prompt, Rules(**rules)
        self.folder, self.device = find_weights(SAM2_VIDEO, source, download), default_device(device)
        self._model: Sam2VideoModel | None = None

    def describe(self) -> dict[str, Any]:
        """Return the hash of the weights, the prompt's form, the axis and the rules."""
        return {
            "name": "sam2_propagation",
            "version": 1,
            "weights": weights_digest(self.folder),
            "prompt": self.prompt,
            "axis": self.axis,
            **asdict(self.rules),
        }

    def refine(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Refine maps; see :class:`custom.localizers.base.Refiner`."""
        spatial_values(image, self.native_dims)
        coarse = plain(probabilities).detach().float().cpu()
        volume, view = scaled(image, self.native_dims), SliceView(self.axis, image.shape[1:], voxel_sizes(image))
        walks: list[Walk] = []
        for seed in find_seeds(coarse, view, self.rules):
            walks += self._follow(seed, volume, coarse, view)
        return gather(walks, coarse, view)

    @torch.inference_mode()
    def _follow(self, seed: Seed, volume: Tensor, coarse: Tensor, view: SliceView) -> list[Walk]:
        film = _Film(self._loaded(), self.device, volume, view)
        start = film.start(seed.index, self._prompt(seed))
        if not bool((start >= self.rules.threshold).any()):
            return []
        walks = [Walk(seed, start, direction, coarse, view, self.rules) for direction in (1, -1)]
        for walk in walks:
            while walk.moving:
                walk.accept(film.follow(walk.index, reverse=walk.direction < 0))
        return walks

    def _prompt(self, seed: Seed) -> Tensor:
        """The region as a mask ``[1, 1, H, W]``, or its box ``[x0, y0, x1, y1]`` as a share of the picture."""
        region = seed.coarse >= min(self.rules.threshold, float(seed.coarse.max()))
        if self.prompt == "mask":
            return region.float()
        rows, columns = region[0, 0].any(dim=1).nonzero(), region[0, 0].any(dim=0).nonzero()
        corners = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        return corners / torch.tensor([region.shape[-1], region.shape[-2]] * 2)

    def _loaded(self) -> Sam2VideoModel:
        if self._model is None:
            from transformers import Sam2VideoModel

            model = Sam2VideoModel.from_pretrained(self.folder, local_files_only=True, dtype=torch.float32)
            self._model = model.eval().requires_grad_(False).to(self.device)
        return self._model


class _Film:
    """A volume as a film in which SAM 2 follows one object; frames are made when they are looked at."""

    def __init__(self, model: Sam2VideoModel, device: torch.device, volume: Tensor, view: SliceView) -> None:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        self.model, self.device, self.volume, self.view = model, device, volume, view
        side = model.config.image_size
        self.side = int(side if isinstance(side, int) else side[0])
        height, width = view.picture_size
        self.session = Sam2VideoInferenceSession(
            video_height=height,
            video_width=width,
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=torch.float32,
        )

    def start(self, index: int, prompt: Tensor) -> Tensor:
        """Prompt the object in a slice with a mask ``[1, 1, H, W]`` or a box ``[4]``; return its map there."""
        number = self.session.obj_id_to_idx(1)
        if prompt.ndim == 4:
            mask = F.interpolate(prompt, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
            self.session.add_mask_inputs(number, index, (mask >= min(0.5, float(mask.max()))).float())
        else:
            corners = (prompt * self.side).view(1, 1, 2, 2)
            labels = torch.tensor(_BOX_CORNERS, dtype=torch.int32).view(1, 1, 2)
            self.session.add_point_inputs(number, index, {"point_coords": corners, "point_labels": labels})
        self.session.obj_with_new_inputs = [1]
        return self.follow(index, reverse=False)

    def follow(self, index: int, reverse: bool) -> Tensor:
        """Return the object's map ``[1, 1, H, W]`` in the next slice; zeros (logits of -1024) if it is not there."""
        output = self.model(inference_session=self.session, frame=self._frame(index), frame_idx=index, reverse=reverse)
        self.session.processed_frames = {}  # what is needed of the picture is in the memory
        logits = F.interpolate(output.pred_masks.float(), self.view.picture_size, mode="bilinear", align_corners=False)
        return logits.sigmoid().cpu()

    def _frame(self, index: int) -> Tensor:
        """A slice as the model wants it, ``[3, S, S]``."""
        picture = self.view.pictures(self.volume, [index]).to(self.device)
        square = F.interpolate(picture, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.tensor(each, device=self.device).view(3, 1, 1) for each in (IMAGE_MEAN, IMAGE_STD))
        return (square[0] - mean) / std
