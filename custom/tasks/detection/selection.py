# SPDX-License-Identifier: Apache-2.0
"""The choice of boxes among a detector's many, as MONAI makes it, at a small part of the time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.apps.detection.utils.box_selector import BoxSelector
from monai.data.box_utils import clip_boxes_to_image
from torch import Tensor


class QuickBoxSelector(BoxSelector):
    """MONAI's ``BoxSelector``, with all overlaps computed at once.

    MONAI's non-maximum suppression compares one box with the others at a time: a tenth of a second a scan.
    """

    def select_boxes_per_image(
        self, boxes_list: list[Tensor], logits_list: list[Tensor], spatial_size: list[int] | tuple[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes ``[P, 2 * d]``, scores ``[P]`` and labels ``[P]`` of one scan, best first.

        Args:
            boxes_list: boxes ``[N, 2 * d]`` of each level.
            logits_list: logits ``[N, classes]`` of each level.
            spatial_size: of the scan: boxes are cut at its border.
        """
        boxes, scores, labels = [], [], []
        for level_boxes, level_logits in zip(boxes_list, logits_list, strict=True):
            index, level_scores, level_labels = self.select_top_score_idx_per_level(level_logits)
            clipped, inside = clip_boxes_to_image(level_boxes[index], spatial_size, remove_empty=True)
            boxes.append(torch.as_tensor(clipped))
            scores.append(level_scores[inside])
            labels.append(level_labels[inside])
        return self._suppressed(torch.cat(boxes), torch.cat(scores), torch.cat(labels))

    def _suppressed(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = scores.argsort(descending=True, stable=True)
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        kept = suppress(self.box_overlap_metric(boxes, boxes), labels, self.nms_thresh, self.detections_per_img)
        index = torch.as_tensor(kept, dtype=torch.int64, device=boxes.device)
        return boxes[index], scores[index], labels[index]


def suppress(overlap: Tensor, labels: Tensor, threshold: float, count: int) -> Sequence[int]:
    """Indices of the boxes that no better one of their class overlaps by more than the threshold, at most ``count``.

    Args:
        overlap: of every pair of boxes ``[N, N]``, best box first.
        labels: ``[N]``.
        threshold: of the overlap.
        count: how many are kept at most, the best.
    """
    hidden = ((overlap > threshold) & (labels[:, None] == labels[None])).cpu().numpy()
    gone = [False] * len(hidden)
    kept: list[int] = []
    for index, row in enumerate(hidden):
        if gone[index]:
            continue
        kept.append(index)
        if len(kept) == count:
            break
        for other in row.nonzero()[0]:
            gone[other] = True
    return kept
