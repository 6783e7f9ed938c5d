"""Assignment of boxes and anchors to ground truth, without the matrix of IoUs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_ops._checks import pair
from maskrcnn_ops._coordinates import same_coordinates, widen

__all__ = ["match_anchors", "match_boxes"]

_ops = torch.ops.maskrcnn_ops


def match_boxes(
    gt_boxes: Tensor, boxes: Tensor, high: float, low: float, allow_low_quality: bool = False
) -> tuple[Tensor, Tensor]:
    """The ground truth of each box: the one of largest IoU, if that is large enough.

    Ren, He, Girshick, Sun: Faster R-CNN (NIPS 2015), section 3.1.2.

    Args:
        gt_boxes: [G, 4] xyxy, float32 or float64 (half precision is widened to float32, and float32 beside
            float64 to float64).
        boxes: [B, 4] xyxy, likewise.
        high: IoU from which on a box is a match.
        low: IoU under which it is background; at most ``high``. Both are compared in the dtype of the boxes.
        allow_low_quality: also match, whatever its IoU, every box that has the best IoU of all boxes with
            some ground truth. It gets its own best ground truth, which may be another one. A ground truth
            that no box overlaps has the best IoU 0 with every box, and so matches them all.

    Returns:
        matches: int64 [B], the index of the ground truth, -1 for background, -2 between ``low`` and ``high``.
            Without ground truth all are background.
        ious: [B] in the dtype of the boxes, the IoU with the best ground truth, matched or not; 0 without any.

    The first of equal ground truths is taken. An IoU that is not a number, of 0/0 or a NaN coordinate, counts
    as 0. Time is about proportional to the pairs that overlap where neighbours in ``boxes`` lie together;
    memory to G + B.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices, and for ``low`` above ``high``.

    Not differentiable. Deterministic. Nothing is read back from the GPU.

    Equivalent to:
        ``iou = box_iou(gt_boxes, boxes).nan_to_num(0); ious, index = iou.max(0)``,
        ``ties = allow_low_quality & (iou == iou.amax(1, keepdim=True)).any(0)``,
        ``matches = where((ious >= high) | ties, index, where(ious >= low, -2, -1))``, to the bit.
    """
    return _ops.match_boxes(
        *same_coordinates(gt_boxes.detach(), boxes.detach()), high, low, allow_low_quality
    )


def match_anchors(
    gt_boxes: Tensor,
    cell_anchors: Sequence[Tensor],
    grid_sizes: Sequence[Sequence[int]],
    strides: Sequence[int | Sequence[int]],
    high: float,
    low: float,
    allow_low_quality: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`match_boxes` for the anchors of all levels of an RPN, computed from their index and never stored.

    Args:
        gt_boxes, high, low, allow_low_quality: as in :func:`match_boxes`.
        cell_anchors: for each level [A, 4] xyxy, the anchors of the cell at the origin; at most 8 levels.
        grid_sizes: (H, W) of each level.
        strides: pixels from cell to cell of each level, (y, x) or one number for both.

    Returns:
        matches, ious: as in :func:`match_boxes`, for the B anchors of all levels, one level after the other,
        each in (y, x, anchor) order. The anchor of (y, x, a) is as in :func:`decode_grid`.

    Raises:
        RuntimeError, ValueError: as :func:`match_boxes`, and unless there is one of each for every level.

    Not differentiable. Deterministic. Nothing is read back from the GPU.

    Equivalent to:
        ``match_boxes(gt_boxes, cat([(shifts[:, None] + cells).reshape(-1, 4) for each level]), ...)``, to the
        bit.
    """
    sizes = [side for size in grid_sizes for side in pair(size, "match_anchors", "grid_sizes")]
    steps = [step for stride in strides for step in pair(stride, "match_anchors", "strides")]
    truths = widen(gt_boxes.detach())
    cells = [cell.to(truths.dtype) for cell in cell_anchors]
    return _ops.match_anchors(truths, cells, sizes, steps, high, low, allow_low_quality)


def _results(like: Tensor, count: int | torch.SymInt) -> tuple[Tensor, Tensor]:
    return like.new_empty(count, dtype=torch.int64), like.new_empty(count)


@torch.library.register_fake("maskrcnn_ops::match_boxes")
def _(gt_boxes: Tensor, boxes: Tensor, *rule: float) -> tuple[Tensor, Tensor]:
    return _results(boxes, boxes.shape[0])


@torch.library.register_fake("maskrcnn_ops::match_anchors")
def _(
    gt_boxes: Tensor, cell_anchors: list[Tensor], grid_sizes: list[int], *options: object
) -> tuple[Tensor, Tensor]:
    count = sum(
        len(cells) * height * width
        for cells, height, width in zip(cell_anchors, grid_sizes[::2], grid_sizes[1::2], strict=True)
    )
    return _results(gt_boxes, count)
