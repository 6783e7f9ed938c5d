"""Assignment of boxes to ground truth, from the matrix of their IoUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._common import pair, widen
from .boxes import box_iou, grid_anchors


def match_boxes(
    gt_boxes: Tensor, boxes: Tensor, high: float, low: float, allow_low_quality: bool = False
) -> tuple[Tensor, Tensor]:
    """Each box's ground truth of largest IoU: [G, 4], [B, 4] -> int64 [B], -1 below ``low``, -2 below ``high``.

    And that IoU [B]. With ``allow_low_quality`` every box that ties the best IoU of some ground truth keeps its
    own best. 0/0 and NaN count as 0; the first of equal ground truths is taken.
    """
    gt_boxes, boxes = widen(gt_boxes), widen(boxes)
    if len(gt_boxes) == 0 or len(boxes) == 0:
        background = torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
        return background, boxes.new_zeros(len(boxes))
    iou = box_iou(gt_boxes, boxes)
    iou = iou.where(iou > 0, 0)
    best, index = iou.max(dim=0)
    matches = torch.where(best >= high, index, torch.where(best >= low, -2, -1))
    if allow_low_quality:
        ties = (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)
        matches = torch.where(ties, index, matches)
    return matches, best


def match_anchors(
    gt_boxes: Tensor,
    cell_anchors: Sequence[Tensor],
    grid_sizes: Sequence[Sequence[int]],
    strides: Sequence[int | Sequence[int]],
    high: float,
    low: float,
    allow_low_quality: bool = False,
) -> tuple[Tensor, Tensor]:
    """``match_boxes`` for the anchors of all levels, one level after the other."""
    levels = zip(cell_anchors, grid_sizes, strides, strict=True)
    anchors = [grid_anchors(cells.to(gt_boxes.dtype), size, pair(stride)) for cells, size, stride in levels]
    return match_boxes(gt_boxes, torch.cat([gt_boxes[:0], *anchors]), high, low, allow_low_quality)
