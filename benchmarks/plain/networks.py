# SPDX-License-Identifier: Apache-2.0
"""The networks of the workflows, put together by hand from MONAI's and torchvision's parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.losses.giou_loss import BoxGIoULoss
from monai.networks import nets
from monai.networks.blocks import Convolution
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from monai.networks.nets.flexible_unet import SegmentationHead
from torch import Tensor, nn
from torch.nn.functional import interpolate

WIDTHS = [16, 32, 64, 128]  # of the ResNets' stages: a quarter of the standard ones
PYRAMID = 32


class Stages(nn.Module):
    """The four feature maps of a narrow ResNet: in 2D ResNet-18, strides 4 to 32; in 3D ResNet-10, strides 2 to 16."""

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        common = {"spatial_dims": spatial_dims, "n_input_channels": 1, "widen_factor": 0.25, "feed_forward": False}
        if spatial_dims == 2:
            self.network = nets.resnet18(conv1_t_stride=2, **common)
        else:
            self.network = nets.resnet10(conv1_t_size=3, conv1_t_stride=2, no_max_pool=True, **common)

    def forward(self, image: Tensor) -> list[Tensor]:
        """``[B, 1, *spatial]`` to maps from fine to coarse."""
        value = self.network.act(self.network.bn1(self.network.conv1(image)))
        if not self.network.no_max_pool:
            value = self.network.maxpool(value)
        maps = []
        for stage in (self.network.layer1, self.network.layer2, self.network.layer3, self.network.layer4):
            maps.append(value := stage(value))
        return maps


class VolumeSegmenter(nn.Module):
    """A light head on MONAI's feature pyramid behind the 3D ResNet, as in `bundle/configs/segmenters/pyramid.yaml`."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.stages = Stages(3)
        self.pyramid = FeaturePyramidNetwork(3, WIDTHS, channels)
        self.mix = Convolution(3, channels, channels, norm="batch", act="relu")
        self.head = SegmentationHead(3, channels, num_classes, kernel_size=1)
        self.to(memory_format=torch.channels_last_3d)  # faster, for the workflow too

    def forward(self, image: Tensor) -> Tensor:
        """``[B, 1, *spatial]``, sides divisible by 16, to logits ``[B, K, *spatial]``."""
        maps = OrderedDict((str(level), each) for level, each in enumerate(self.stages(image)))
        first, *others = self.pyramid(maps).values()
        for each in others:
            first = first + interpolate(each, size=first.shape[2:], mode="trilinear", align_corners=False)
        logits = self.head(self.mix(first))
        return interpolate(logits, size=image.shape[2:], mode="trilinear", align_corners=False)


class Pyramid(nn.Module):
    """MONAI's feature pyramid on the 2D ResNet; a list of maps for MONAI, named ones for torchvision."""

    spatial_dims = 2
    out_channels = PYRAMID

    def __init__(self, named: bool = False) -> None:
        super().__init__()
        self.named = named
        self.stages = Stages(2)
        self.pyramid = FeaturePyramidNetwork(2, WIDTHS, PYRAMID)

    def forward(self, image: Tensor) -> Any:
        """``[B, 1, H, W]`` to four maps from fine to coarse."""
        maps = self.pyramid(OrderedDict((str(level), each) for level, each in enumerate(self.stages(image))))
        return maps if self.named else list(maps.values())


def retinanet(num_classes: int, anchors: Mapping[str, Sequence[Any]]) -> RetinaNetDetector:
    """MONAI's RetinaNet with the settings of `bundle/configs/detectors/retinanet.yaml`."""
    network = RetinaNet(2, num_classes, len(anchors["base_shapes"]), Pyramid(), size_divisible=32)
    generator = AnchorGeneratorWithAnchorShape(anchors["scales"], anchors["base_shapes"])
    detector = RetinaNetDetector(network, generator)
    detector.set_box_regression_loss(BoxGIoULoss(reduction="mean"), encode_gt=False, decode_pred=True)
    detector.set_atss_matcher(4, center_in_gt=False)
    detector.set_hard_negative_sampler(64, 0.3, pool_size=20)
    detector.set_box_selector_parameters(0.02, 100, 0.3, 50)
    return detector


def mask_rcnn(num_classes: int, anchors: Mapping[str, Sequence[Any]], size: int) -> nn.Module:
    """torchvision's Mask R-CNN with the settings of `bundle/configs/detectors/mask_rcnn.yaml`."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    def pooling(side: int) -> nn.Module:
        return MultiScaleRoIAlign(list("0123"), side, sampling_ratio=2, canonical_scale=112, canonical_level=3)

    shapes, scales = anchors["base_shapes"], anchors["scales"]
    generator = AnchorGenerator((tuple(range(1, len(shapes) + 1)),) * len(scales), ((1.0,),) * len(scales))
    half = torch.tensor(shapes, dtype=torch.float32) / 2
    generator.cell_anchors = [float(scale) * torch.cat([-half, half], dim=1) for scale in scales]
    return MaskRCNN(
        Pyramid(named=True),
        box_roi_pool=pooling(7),
        box_head=TwoMLPHead(PYRAMID * 49, 128),
        box_predictor=FastRCNNPredictor(128, num_classes + 1),
        mask_roi_pool=pooling(14),
        mask_head=MaskRCNNHeads(PYRAMID, [32, 32], 1),
        mask_predictor=MaskRCNNPredictor(32, 32, num_classes + 1),
        rpn_anchor_generator=generator,
        rpn_batch_size_per_image=64,
        rpn_fg_iou_thresh=0.5,
        rpn_bg_iou_thresh=0.3,
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=32,
        rpn_post_nms_top_n_test=32,
        box_batch_size_per_image=16,
        box_positive_fraction=0.5,
        box_score_thresh=0.01,
        box_nms_thresh=0.3,
        box_detections_per_img=10,
        min_size=size,
        max_size=size,
        image_mean=[0.0],
        image_std=[1.0],
    )
