# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN in 2D: torchvision's parts on a feature pyramid of any encoder."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn import functional

from custom.networks import Encoder
from custom.tasks.detection.detector import Detector, check_anchors
from custom.tasks.detection.pyramid import FeaturePyramid

_BOX_GRID, _MASK_GRID = 7, 14  # cells a side that a region is pooled to, for its box and for its mask
_PREDICTED = 2 * _MASK_GRID  # cells a side of a predicted mask


class MaskDetector(Detector):
    """Boxes with classes, scores and masks, found in two passes (Mask R-CNN, He et al., arXiv 1703.06870).

    torchvision's region proposals and heads. It differs from torchvision's `MaskRCNN` in three things: images are
    neither resized nor normalised, since the transforms did both; anchors have the shapes that were fitted to the data;
    and masks are put into the picture at the positions at which torchvision's training took them from it, not at whole
    pixels, which displaces and enlarges those of small objects (:func:`paste_masks`).

    Args:
        encoder: the backbone, pretrained or not; 2D.
        num_classes: number of classes, without the background.
        anchors: ``base_shapes``, shapes ``[A][2]`` in voxels on the finest level, and ``scales``, one factor a level of
            the pyramid; see :func:`custom.tasks.detection.fit_anchors`.
        levels: see :class:`custom.tasks.detection.FeaturePyramid`.
        pyramid_channels: width of the pyramid.
        extra_level: see :class:`custom.tasks.detection.FeaturePyramid`; proposals use it, the heads do not.
        box_width: width of the two layers of the box head.
        mask_widths: width of each convolution of the mask head.
        proposal_samples: anchors a scan in the losses of the proposals.
        proposal_overlap: intersection over union with a box from which an anchor is positive; below ``proposal_gap``
            it is negative, between the two it does not count. The best anchors of each box are always positive.
        proposal_gap: see ``proposal_overlap``.
        proposals: proposals a scan that the heads see, in training and in prediction.
        candidates_per_level: proposals a level before non-maximum suppression.
        samples: proposals a scan in the losses of the heads.
        positive_fraction: share of the positive ones among them.
        pooled_size: objects smaller than this (square root of the area, voxels) are pooled from the finest level,
            larger ones from coarser levels, one further for each doubling.
        score_threshold: lower scores are no predictions.
        nms_threshold: intersection over union above which the lower score of one class goes.
        max_boxes: predictions a scan, at most.
        mean: of each channel, taken away from images, and
        std: by which they are divided then; None: images come as the encoder expects them.

    Attributes:
        spatial_dims: 2.
        num_classes: as given.
        encoder: as given.

    Raises:
        ValueError: for arguments that do not fit each other.
        ImportError: without torchvision.
    """

    wants_masks = True

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        anchors: Mapping[str, Sequence[Any]],
        levels: Sequence[int] | None = None,
        pyramid_channels: int = 64,
        extra_level: bool = False,
        box_width: int = 128,
        mask_widths: Sequence[int] = (64, 64),
        proposal_samples: int = 64,
        proposal_overlap: float = 0.5,
        proposal_gap: float = 0.3,
        proposals: int = 50,
        candidates_per_level: int = 200,
        samples: int = 32,
        positive_fraction: float = 0.5,
        pooled_size: float = 112.0,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.3,
        max_boxes: int = 20,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if encoder.spatial_dims != 2:
            raise ValueError("Mask R-CNN is for pictures and slices; instances of volumes come from train.yaml.")
        self.num_classes = num_classes
        body = _Maps(FeaturePyramid(encoder, levels, pyramid_channels, extra_level))
        check_anchors(anchors, body.pyramid)
        pooled = [str(level) for level in range(len(body.pyramid.levels))]
        self.detector = _mask_rcnn(
            body,
            num_classes,
            [int(width) for width in mask_widths],
            box_width,
            pooled,
            {"canonical_scale": pooled_size, "canonical_level": int(math.log2(body.pyramid.strides[0])) + 1},
            rpn_anchor_generator=_anchors(anchors),
            rpn_batch_size_per_image=proposal_samples,
            rpn_fg_iou_thresh=proposal_overlap,
            rpn_bg_iou_thresh=proposal_gap,
            rpn_pre_nms_top_n_train=candidates_per_level,
            rpn_pre_nms_top_n_test=candidates_per_level,
            rpn_post_nms_top_n_train=proposals,
            rpn_post_nms_top_n_test=proposals,
            box_batch_size_per_image=samples,
            box_positive_fraction=positive_fraction,
            box_score_thresh=score_threshold,
            box_nms_thresh=nms_threshold,
            box_detections_per_img=max_boxes,
        )
        self.detector.transform = _Pictures(body.pyramid.strides[-1], *_statistics(mean, std, encoder.in_channels))

    @property
    def body(self) -> FeaturePyramid:
        """The feature pyramid."""
        return cast(FeaturePyramid, self.detector.get_submodule("backbone.pyramid"))

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses in training mode, the predictions otherwise.

        Args:
            images: ``[C, X, Y]`` each, of any sizes.
            targets: for training: ``boxes`` float ``[N, 4]``, voxel edges ``xmin, ymin, xmax, ymax``, ``labels`` int64
                ``[N]`` and ``masks`` uint8 ``[N, X, Y]``.

        Returns:
            Training: losses, scalars to add up. Otherwise for each image ``boxes`` ``[M, 4]``, ``labels`` ``[M]``,
            ``scores`` ``[M]`` in (0, 1), best first, and ``masks``, probabilities ``[M, X, Y]`` in [0, 1].
        """
        plain = [image.as_tensor() if isinstance(image, MetaTensor) else image for image in images]
        if self.training:
            return self.detector(plain, [_to_rows(target) for target in targets or []])
        return [_from_rows(found) for found in self.detector(plain)]


def _mask_rcnn(
    body: _Maps,
    num_classes: int,
    mask_widths: Sequence[int],
    box_width: int,
    pooled: list[str],
    levels: Mapping[str, Any],
    **options: Any,
) -> nn.Module:
    """torchvision's Mask R-CNN with heads of the given widths."""
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    def pooling(side: int) -> nn.Module:
        return MultiScaleRoIAlign(pooled, side, sampling_ratio=2, **levels)

    width = body.out_channels
    return MaskRCNN(
        body,
        box_roi_pool=pooling(_BOX_GRID),
        box_head=TwoMLPHead(width * _BOX_GRID**2, box_width),
        box_predictor=FastRCNNPredictor(box_width, num_classes + 1),
        mask_roi_pool=pooling(_MASK_GRID),
        mask_head=MaskRCNNHeads(width, mask_widths, 1),
        mask_predictor=MaskRCNNPredictor(mask_widths[-1], mask_widths[-1], num_classes + 1),
        **options,
    )


class _Maps(nn.Module):
    """A feature pyramid whose maps are named, as torchvision wants them."""

    def __init__(self, pyramid: FeaturePyramid) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.out_channels = pyramid.out_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(level), each) for level, each in enumerate(self.pyramid(images)))


class _Pictures(nn.Module):
    """What stands in for torchvision's transform: images into one batch, masks into the picture; no resizing."""

    mean: Tensor
    std: Tensor

    def __init__(self, divisor: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.divisor = divisor
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> tuple[Any, Any]:
        from torchvision.models.detection.image_list import ImageList

        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        full = [math.ceil(max(sides) / self.divisor) * self.divisor for sides in zip(*sizes, strict=True)]
        batch = images[0].new_zeros(len(images), images[0].shape[0], *full)
        for index, (image, (first, second)) in enumerate(zip(images, sizes, strict=True)):
            batch[index, :, :first, :second] = (image - self.mean) / self.std
        return ImageList(batch, sizes), targets

    def postprocess(
        self, result: list[dict[str, Tensor]], sizes: list[tuple[int, int]], _: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        if self.training:
            return result
        return [
            {**found, "masks": paste_masks(found["masks"][:, 0], found["boxes"], size)}
            for found, size in zip(result, sizes, strict=True)
        ]


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Put masks of boxes into a picture, the inverse of how torchvision's training takes them from it.

    ``roi_align`` reads the value of pixel i at the coordinate i, so there is it written to; outside of its box a mask
    is 0.

    Args:
        masks: probabilities ``[M, S, S]``, rows first.
        boxes: ``[M, 4]``, columns and rows ``xmin, ymin, xmax, ymax`` in torchvision's sense (x the last axis).
        size: rows and columns of the picture.

    Returns:
        Probabilities ``[M, rows, columns]``.
    """
    if not len(masks):
        return masks.new_zeros(0, *size)
    low, extent = boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
    rows = _relative(size[0], low[:, 1], extent[:, 1])
    columns = _relative(size[1], low[:, 0], extent[:, 0])
    grid = torch.stack([columns[:, None, :].expand(-1, size[0], -1), rows[:, :, None].expand(-1, -1, size[1])], dim=-1)
    values = functional.grid_sample(masks[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    return values * (grid.abs() <= 1).all(dim=-1)


def _relative(count: int, low: Tensor, extent: Tensor) -> Tensor:
    """Where the pixels of an axis lie in each box: ``[M, count]``, -1 and 1 at its edges."""
    return 2 * (torch.arange(count, device=low.device) - low[:, None]) / extent[:, None] - 1


def _anchors(anchors: Mapping[str, Sequence[Any]]) -> nn.Module:
    """torchvision's generator with anchors of given shapes; its own are rounded to even numbers of voxels."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    scales, shapes = anchors["scales"], anchors["base_shapes"]
    generator = AnchorGenerator((tuple(range(1, len(shapes) + 1)),) * len(scales), ((1.0,),) * len(scales))
    half = torch.tensor([[y, x] for x, y in shapes], dtype=torch.float32) / 2  # torchvision's x is the last axis
    generator.cell_anchors = [float(scale) * torch.cat([-half, half], dim=1) for scale in scales]
    return generator


def _statistics(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> tuple[Tensor, Tensor]:
    means, stds = mean or [0.0] * channels, std or [1.0] * channels
    if len(means) != channels or len(stds) != channels or not all(value > 0 for value in stds):
        raise ValueError(f"mean and std need {channels} numbers, std positive ones; got {means} and {stds}.")
    return torch.tensor(means)[:, None, None], torch.tensor(stds)[:, None, None]


def _to_rows(target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A target as torchvision takes it: x is the last axis there, the first one here; class 0 is the background."""
    if "masks" not in target:
        raise ValueError("Mask R-CNN learns from masks: use scans with outlines, or --detector retinanet.")
    boxes = target["boxes"]
    return {"boxes": boxes[:, [1, 0, 3, 2]], "labels": target["labels"] + 1, "masks": target["masks"]}


def _from_rows(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    order = found["scores"].argsort(descending=True, stable=True)
    return {
        "boxes": found["boxes"][order][:, [1, 0, 3, 2]].float(),
        "labels": found["labels"][order] - 1,
        "scores": found["scores"][order].float(),
        "masks": found["masks"][order].float(),
    }
