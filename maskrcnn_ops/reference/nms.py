"""Greedy non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import widen
from .boxes import box_area


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive, by descending score.

    boxes [L, 4] xyxy, scores [L] -> int64 [D]. Boxes are visited by descending score, ties by ascending
    index; each box not yet suppressed is kept and suppresses every later box with

        inter / (area_i + area_j - inter) > iou_threshold

    The quotient is computed in the dtype of boxes (half: float32), every operation rounded, and compared in
    float64 with the threshold as given: boxes with a float32 IoU of 0.1 are suppressed at a threshold of 0.1,
    since float32(0.1) > 0.1. A quotient 0/0 suppresses nothing. A box with a NaN coordinate or score is never
    kept and suppresses nothing. Not differentiable.
    """
    return _greedy(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """``nms`` in which only boxes of the same group (``idxs`` [L], integers) suppress each other."""
    return _greedy(boxes, scores, idxs, iou_threshold)


def _greedy(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    usable = ~(boxes.isnan().any(1) | scores.isnan())
    order = scores.detach().sort(stable=True, descending=True).indices
    order = order[usable[order]]
    boxes, groups = widen(boxes.detach())[order], groups[order]
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for i in range(len(order)):
        if alive[i]:
            iou = _iou_with(boxes[i], boxes[i + 1 :])
            alive[i + 1 :] &= ~((iou.double() > iou_threshold) & (groups[i + 1 :] == groups[i]))
    return order[alive]


def _iou_with(box: Tensor, others: Tensor) -> Tensor:
    """IoU of one box [4] with others [L, 4]."""
    sides = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    sides = sides.where(sides > 0, 0)  # also for NaN, from infinite coordinates
    inter = sides[:, 0] * sides[:, 1]
    return inter / (box_area(box) + box_area(others) - inter)
