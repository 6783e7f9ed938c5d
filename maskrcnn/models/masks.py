"""Masks of regions: the targets of training, the selected logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models.heads import MaskRCNNPredictor

MASK_CONVENTIONS = ("integer", "continuous")
"""Where an M x M mask lies in its box. ``"integer"`` is torchvision's: targets are sampled half a pixel off and
masks pasted into the whole pixels that a box touches. ``"continuous"``: both where box and pixels are."""


@torch.no_grad()
def mask_targets(
    masks: Tensor | EncodedMasks, boxes: Tensor, matches: Tensor, side: int, convention: str
) -> Tensor:
    """Ground-truth masks cropped to boxes and resampled to M x M: float32 ``[P, M, M]`` in [0, 1].

    The masks are read where the boxes sample them; they are not converted.

    Args:
        masks: uint8 or bool ``[L, H, W]``, or encoded, resized with the image.
        boxes: float32 ``[P, 4]``.
        matches: int64 ``[P]``, index of each box's ground truth.
        side: M.
        convention: one of :data:`MASK_CONVENTIONS`.
    """
    aligned = convention == "continuous"
    if len(boxes) == 0:
        return boxes.new_zeros((0, side, side))
    if isinstance(masks, EncodedMasks):
        return masks.crop(boxes, side, matches, aligned=aligned)
    return ops.crop_masks(masks, boxes, side, matches, aligned=aligned)


def selected_logits(predictor: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    """Mask logits ``[R, M, M]`` of one class per region.

    A predictor other than :class:`~maskrcnn.models.heads.MaskRCNNPredictor` computes all classes first.
    """
    if isinstance(predictor, MaskRCNNPredictor):
        return predictor(features, labels)[:, 0]
    logits = predictor(features)
    return logits[torch.arange(len(labels), device=logits.device), labels]
