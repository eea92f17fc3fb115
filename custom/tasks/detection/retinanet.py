# SPDX-License-Identifier: Apache-2.0
"""RetinaNet in 2D and 3D: MONAI's, on a feature pyramid of any encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.data import MetaTensor
from monai.losses.giou_loss import BoxGIoULoss
from torch import Tensor

from custom.networks import Encoder
from custom.tasks.detection.detector import Detector, check_anchors
from custom.tasks.detection.pyramid import FeaturePyramid
from custom.tasks.detection.selection import QuickBoxSelector

_HEAD_GROUPS = 8  # group normalisation in MONAI's heads
BOX_LOSSES = ("giou", "smooth_l1")


class ShapedAnchors(AnchorGeneratorWithAnchorShape):
    """MONAI's anchors of given shapes, without its rounding to whole voxels, which takes those of one voxel away."""

    @staticmethod
    def generate_anchors_using_shape(
        anchor_shapes: Tensor, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> Tensor:
        """Return boxes around the origin ``[N, 2 * spatial_dims]`` of shapes ``[N, spatial_dims]``."""
        half = anchor_shapes.to(dtype=dtype, device=device) / 2
        return torch.cat([-half, half], dim=1)


class SureMatcher(ATSSMatcher):
    """MONAI's ATSS matcher, except that a box without any anchor takes the one that overlaps it most.

    ATSS takes the candidates whose overlap is at least mean plus standard deviation. Where all overlaps are equal, as
    for a box in the middle between anchors, rounding decides whether any is, and MONAI only warns.
    """

    def compute_matches(
        self, boxes: Tensor, anchors: Tensor, num_anchors_per_level: Sequence[int], num_anchors_per_loc: int
    ) -> tuple[Tensor, Tensor]:
        """Return overlaps ``[N, M]`` of boxes and anchors, and the box of each anchor ``[M]``, negative for none."""
        overlaps, matches = super().compute_matches(boxes, anchors, num_anchors_per_level, num_anchors_per_loc)
        for box, row in enumerate(overlaps):
            if not (matches == box).any() and row.max() > 0:
                matches[row.argmax()] = box
        return overlaps, matches


class RetinaDetector(Detector):
    """Boxes with classes and scores, found in one pass (RetinaNet, Lin et al., arXiv 1708.02002).

    MONAI's RetinaNet and its detector: anchors are matched to boxes by ATSS (arXiv 1912.02424), hard negatives are
    sampled for the classification loss. Scans larger than ``window`` are predicted in windows whose raw outputs are
    merged before boxes are chosen.

    Args:
        encoder: the backbone, pretrained or not.
        num_classes: number of classes, without the background.
        anchors: ``base_shapes``, shapes ``[A][spatial_dims]`` in voxels on the finest level, and ``scales``, one factor
            a level of the pyramid; see :func:`custom.tasks.detection.fit_anchors`.
        levels: see :class:`FeaturePyramid`.
        pyramid_channels: width of pyramid and heads, a multiple of 8.
        extra_level: see :class:`FeaturePyramid`.
        box_loss: "giou" (of the decoded boxes) or "smooth_l1" (of the encoded differences).
        box_weight: factor of the box loss beside the classification loss.
        candidates: positions a level that ATSS looks at for each box.
        samples: anchors a scan in the classification loss, at most.
        positive_fraction: share of the positive ones among them.
        hard_pool: hard negatives are drawn from this many times as many of the highest scores.
        score_threshold: lower scores are no predictions.
        candidates_per_level: best predictions a level that enter non-maximum suppression.
        nms_threshold: intersection over union above which the lower score goes.
        max_boxes: predictions a scan, at most.
        window: size of the windows for larger scans, divisible by the coarsest stride; None: whole scans always.
        window_batch: windows computed at once.

    Attributes:
        spatial_dims: 2 or 3.
        num_classes: as given.
        encoder: as given.

    Raises:
        ValueError: for arguments that do not fit each other.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        anchors: Mapping[str, Sequence[Any]],
        levels: Sequence[int] | None = None,
        pyramid_channels: int = 64,
        extra_level: bool = False,
        box_loss: str = "giou",
        box_weight: float = 1.0,
        candidates: int = 4,
        samples: int = 64,
        positive_fraction: float = 0.3,
        hard_pool: float = 20,
        score_threshold: float = 0.02,
        candidates_per_level: int = 100,
        nms_threshold: float = 0.3,
        max_boxes: int = 50,
        window: Sequence[int] | None = None,
        window_batch: int = 4,
    ) -> None:
        super().__init__()
        if pyramid_channels % _HEAD_GROUPS:
            raise ValueError(f"pyramid_channels must be a multiple of {_HEAD_GROUPS}, got {pyramid_channels}.")
        if box_loss not in BOX_LOSSES:
            raise ValueError(f"box_loss must be one of {', '.join(BOX_LOSSES)}, got {box_loss!r}.")
        self.num_classes = num_classes
        self.box_weight = float(box_weight)
        body = FeaturePyramid(encoder, levels, pyramid_channels, extra_level)
        check_anchors(anchors, body)
        network = RetinaNet(
            encoder.spatial_dims, num_classes, len(anchors["base_shapes"]), body, size_divisible=body.strides[-1]
        )
        self.detector = RetinaNetDetector(network, ShapedAnchors(anchors["scales"], anchors["base_shapes"]))
        if box_loss == "giou":
            self.detector.set_box_regression_loss(BoxGIoULoss(reduction="mean"), encode_gt=False, decode_pred=True)
        self.detector.proposal_matcher = SureMatcher(candidates, self.detector.box_overlap_metric, center_in_gt=False)
        self.detector.set_hard_negative_sampler(samples, positive_fraction, pool_size=hard_pool)
        self.detector.box_selector = QuickBoxSelector(
            score_thresh=score_threshold,
            topk_candidates_per_level=candidates_per_level,
            nms_thresh=nms_threshold,
            detections_per_img=max_boxes,
        )
        self.window = None if window is None else [int(side) for side in window]
        if self.window is not None:
            overlap: Any = _overlap(self.window, body.strides[-1])  # MONAI takes one number an axis, too
            self.detector.set_sliding_window_inferer(self.window, window_batch, overlap, mode="gaussian")

    @property
    def body(self) -> FeaturePyramid:
        """The feature pyramid."""
        return cast(FeaturePyramid, self.detector.network.feature_extractor)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses in training mode, the predictions otherwise.

        Args:
            images: ``[C, *spatial]`` each, of any sizes.
            targets: for training: ``boxes`` float ``[N, 2 * spatial_dims]``, voxel edges, and ``labels`` int64 ``[N]``.

        Returns:
            Training: ``classification`` and ``box_regression``, scalars to add up. Otherwise for each image ``boxes``
            ``[M, 2 * spatial_dims]``, ``labels`` ``[M]`` and ``scores`` ``[M]`` in (0, 1), best first.
        """
        batch = _batch(images)
        if self.training:
            return self._losses(batch, targets or [])
        found = self.detector(batch, use_inferer=self._needs_windows(images))
        return [
            {"boxes": each["boxes"].float(), "labels": each["labels"], "scores": each["labels_scores"].float()}
            for each in found
        ]

    def _losses(self, batch: Tensor | list[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        losses = self.detector(batch, [{key: target[key] for key in ("boxes", "labels")} for target in targets])
        box = losses["box_regression"]
        if not box.requires_grad:  # no box in the whole batch
            box = 0 * losses["classification"]
        return {"classification": losses["classification"], "box_regression": self.box_weight * box}

    def _needs_windows(self, images: Sequence[Tensor]) -> bool:
        if self.window is None:
            return False
        return any(side > limit for image in images for side, limit in zip(image.shape[1:], self.window, strict=True))


def _batch(images: Sequence[Tensor]) -> Tensor | list[Tensor]:
    plain = [image.as_tensor() if isinstance(image, MetaTensor) else image for image in images]
    return torch.stack(plain) if len({image.shape for image in plain}) == 1 else plain


def _overlap(window: Sequence[int], stride: int) -> list[float]:
    """Overlap of about one half, at which every window starts on a cell of the coarsest level."""
    if any(side % stride for side in window):
        raise ValueError(f"The window {list(window)} must be divisible by the coarsest stride {stride}.")
    # Just below the exact share: MONAI truncates side * (1 - overlap) to a whole number of voxels.
    return [1 - (max(side // 2 // stride, 1) * stride + 1e-3) / side for side in window]
