# SPDX-License-Identifier: Apache-2.0
"""SAM 2 in its video form on volumes: slices are frames, and its memory carries a region from one to the next."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from custom.localizers.base import PromptedRefiner, spatial_values
from custom.localizers.checkpoint import Checkpoint
from custom.localizers.pictures import in_windows
from custom.localizers.pretrained import PretrainedModel
from custom.localizers.volumes.propagation import Rules, Seed, Walk, checked_axis, find_seeds, gather
from custom.localizers.volumes.slices import SliceView, chosen_maps, plain, voxel_sizes
from custom.localizers.windows import AUTO, PictureWindow

logger = logging.getLogger(__name__)

SAM2_VIDEO = PretrainedModel(  # the same files as those of custom.localizers.refiners.sam
    "facebook/sam2.1-hiera-base-plus", "b7320756a13354e7530a63935656d35b2f91a290", "Apache-2.0", 324
)
Colours = list[list[float]] | None  # mean and standard deviation, or none that are taken away
PUBLISHED_COLOURS: Colours = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
PROMPTS = ("box", "mask")
_BOX_CORNERS = (2, 3)  # SAM 2's labels for the two corners of a box


class Sam2Propagation(PromptedRefiner):
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
        window: grey values of a scan that become black and white: ``(low, high)``; None: percentiles; ``auto``: see
            :class:`~custom.localizers.windows.PictureWindow`.
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
        window: Any = AUTO,
        **rules: Any,
    ) -> None:
        if prompt not in PROMPTS:
            raise ValueError(f"prompt is one of {', '.join(PROMPTS)}, received {prompt!r}.")
        self.axis, self.prompt, self.rules = checked_axis(axis), prompt, Rules(**rules)
        self.window = PictureWindow(window)
        self.checkpoint = Checkpoint(SAM2_VIDEO, "Sam2VideoModel", "Sam2ImageProcessor", source, download, device)
        _ = self.checkpoint.folder  # raises if it is not there

    def describe(self) -> dict[str, Any]:
        """Return the hash of the weights, the colours that they are shown, the prompt's form, axis and rules."""
        return {
            "name": "sam2_propagation",
            "version": 1,
            "weights": self.checkpoint.describe()["weights"],
            "normalize": self._colours,
            "prompt": self.prompt,
            "axis": self.axis,
            **self.window.describe(),
            **asdict(self.rules),
        }

    def refine(self, image: Tensor, probabilities: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Refine maps; see :class:`custom.localizers.base.PromptedRefiner`."""
        spatial_values(image, self.native_dims)
        maps, view = (
            plain(probabilities).detach().float().cpu(),
            SliceView(self.axis, image.shape[1:], voxel_sizes(image)),
        )

        def refine(volume: Tensor, chosen: Sequence[int]) -> Tensor:
            coarse = chosen_maps(maps, chosen)
            seeds = find_seeds(coarse, view, self.rules)
            return gather([walk for seed in seeds for walk in self._follow(seed, volume, coarse, view)], coarse, view)

        return in_windows(self.window, image, self.native_dims, prompts or [""] * len(maps), refine)

    @functools.cached_property
    def _colours(self) -> Colours:
        """What the folder's own processor takes away from colours."""
        if any((self.checkpoint.folder / name).is_file() for name in PROCESSORS):
            return self.checkpoint.normalization
        text = "%s holds no %s: pictures get the colours of the published SAM 2."
        logger.warning(text, self.checkpoint.folder, " or ".join(PROCESSORS))
        return PUBLISHED_COLOURS

    @torch.inference_mode()
    def _follow(self, seed: Seed, volume: Tensor, coarse: Tensor, view: SliceView) -> list[Walk]:
        film = _Film(self.checkpoint, self._colours, volume, view)
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


class _Film:
    """A volume as a film in which SAM 2 follows one object; frames are made when they are looked at."""

    def __init__(self, checkpoint: Checkpoint, colours: Colours, volume: Tensor, view: SliceView) -> None:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        self.model, self.device, self.volume, self.view = checkpoint.model, checkpoint.device, volume, view
        self.colours = colours
        side = self.model.config.image_size
        self.side = int(side if isinstance(side, int) else side[0])
        height, width = view.picture_size
        self.session = Sam2VideoInferenceSession(
            video_height=height,
            video_width=width,
            inference_device=self.device,
            inference_state_device=self.device,
            video_storage_device=self.device,
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
        if self.colours is None:
            return square[0]
        mean, std = (torch.tensor(each, device=self.device).view(3, 1, 1) for each in self.colours)
        return (square[0] - mean) / std
