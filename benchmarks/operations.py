"""Floating-point operations that a result takes at the least; products, sums and comparisons count one each."""

from collections.abc import Callable

import torch
from torch import Tensor

import maskrcnn_ops as ops

BILINEAR = 8  # a sample: four products, added up
TEST = 12  # one IoU against a threshold: 4 corners, 2 sides, 2 clamps, area, union of two, threshold
DECODED = 26  # one box: 6 for the anchor's sides and centre, 20 for weights, clip, exp, centre and corners
_ROWS = 500  # of a matrix of overlaps at a time


def cells(boxes: Tensor, stride: float = 1.0) -> float:
    """Cells of a map under the boxes [L, 4], each box's counted."""
    sides = (boxes[:, 2:] - boxes[:, :2]).double() / stride
    return sides.prod(1).sum().item()


def overlaps(
    boxes1: Tensor, boxes2: Tensor, groups1: Tensor | None = None, groups2: Tensor | None = None
) -> int:
    """Pairs of boxes (of one group) that meet."""
    pairs = 0
    for rows in torch.arange(len(boxes1), device=boxes1.device).split(_ROWS):
        meet = ops.box_iou(boxes1[rows], boxes2) > 0
        if groups1 is not None and groups2 is not None:
            meet &= groups1[rows, None] == groups2
        pairs += int(meet.sum())
    return pairs


def suppression(boxes: Tensor, kept: Tensor, groups: Tensor | None = None) -> float:
    """Each two kept boxes that meet are tested once, and each other box by what drops it."""
    chosen, group = boxes[kept], None if groups is None else groups[kept]
    return TEST * ((overlaps(chosen, chosen, group, group) - len(kept)) / 2 + len(boxes) - len(kept))


def of_layers(call: Callable[[], object]) -> float:
    """Of the convolutions and matrix products in the call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
