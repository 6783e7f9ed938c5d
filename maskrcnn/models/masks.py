"""Masks of regions: the targets of training, the selected logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.models.heads import MaskRCNNPredictor


@torch.no_grad()
def mask_targets(masks: Tensor, boxes: Tensor, matches: Tensor, side: int) -> Tensor:
    """Ground-truth masks cropped to boxes and resampled to M x M: float32 ``[P, M, M]`` in [0, 1].

    Only masks that some box matched are converted to float; RoIAlign (adaptive sampling) does the crop.

    Args:
        masks: uint8 or bool ``[L, H, W]``, resized with the image.
        boxes: float32 ``[P, 4]``.
        matches: int64 ``[P]``, index of each box's ground truth.
        side: M.
    """
    if len(boxes) == 0:
        return boxes.new_zeros((0, side, side))
    used, index = torch.unique(matches, return_inverse=True)
    rois = torch.cat([index[:, None].to(boxes), boxes], dim=1)
    return ops.roi_align(masks[used, None].to(boxes), rois, (side, side))[:, 0]


def selected_logits(predictor: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    """Mask logits ``[R, M, M]`` of one class per region.

    A predictor other than :class:`~maskrcnn.models.heads.MaskRCNNPredictor` computes all classes first.
    """
    if isinstance(predictor, MaskRCNNPredictor):
        return predictor(features, labels)[:, 0]
    logits = predictor(features)
    return logits[torch.arange(len(labels), device=logits.device), labels]
