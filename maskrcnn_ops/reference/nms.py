"""Non-maximum suppression: greedy, within groups, of padded batches, and Fast NMS."""

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
    return _suppress(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    *,
    image_idxs: Tensor | None = None,
    max_output: int | None = None,
    score_threshold: float | None = None,
) -> Tensor:
    """``nms`` in which only boxes of the same group (``idxs`` [L], integers) and image suppress each other.

    Only boxes with ``scores > score_threshold`` take part; of each image's kept boxes the first ``max_output``
    by score remain.
    """
    if image_idxs is None:
        image_idxs = torch.zeros_like(idxs)
    kept = []
    for image in image_idxs.unique():
        mine = (image_idxs == image).nonzero()[:, 0]
        kept.append(
            mine[_suppress(boxes[mine], scores[mine], idxs[mine], iou_threshold, score_threshold)][
                :max_output
            ]
        )
    indices = torch.cat([idxs.new_zeros(0, dtype=torch.int64), *kept]).sort().values
    return indices[scores[indices].sort(stable=True, descending=True).indices]


def padded_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    *,
    classes: Tensor | None = None,
    counts: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """``batched_nms`` of the first ``counts[n]`` boxes of each image: indices [N, M] with -1 behind, counts [N].

    boxes [N, L, 4], scores and classes [N, L], counts [N]; or all without N.
    """
    if boxes.dim() == 2:
        batch = [None if each is None else each[None] for each in (classes, counts)]
        indices, kept = padded_nms(
            boxes[None],
            scores[None],
            iou_threshold,
            max_output,
            classes=batch[0],
            counts=batch[1],
            score_threshold=score_threshold,
        )
        return indices[0], kept[0]
    images, length = scores.shape
    indices = scores.new_full((images, max_output), -1, dtype=torch.int64)
    kept = scores.new_zeros(images, dtype=torch.int64)
    for n in range(images):
        there = length if counts is None else min(max(int(counts[n]), 0), length)
        groups = (
            torch.zeros_like(scores[n, :there], dtype=torch.int64) if classes is None else classes[n, :there]
        )
        found = _suppress(boxes[n, :there], scores[n, :there], groups, iou_threshold, score_threshold)
        kept[n] = len(found[:max_output])
        indices[n, : kept[n]] = found[:max_output]
    return indices, kept


def fast_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    idxs: Tensor | None = None,
    max_output: int | None = None,
    score_threshold: float | None = None,
) -> Tensor:
    """As ``batched_nms``, but every box, dropped or not, drops the later boxes of its class that it overlaps."""
    groups = torch.zeros_like(scores, dtype=torch.int64) if idxs is None else idxs
    return _suppress(boxes, scores, groups, iou_threshold, score_threshold, by_all=True)[:max_output]


def _suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    score_threshold: float | None = None,
    by_all: bool = False,
) -> Tensor:
    boxes, scores = widen(boxes.detach()), widen(scores.detach())
    usable = ~(boxes.isnan().any(1) | scores.isnan())
    if score_threshold is not None:
        usable &= scores > score_threshold
    order = scores.sort(stable=True, descending=True).indices
    order = order[usable[order]]
    boxes, groups = boxes[order], groups[order]
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for i in range(len(order)):
        if alive[i] or by_all:
            iou = iou_with(boxes[i], boxes[i + 1 :])
            alive[i + 1 :] &= ~((iou.double() > iou_threshold) & (groups[i + 1 :] == groups[i]))
    return order[alive]


def iou_with(box: Tensor, others: Tensor) -> Tensor:
    """IoU of one box [4] with others [L, 4]."""
    sides = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    sides = sides.where(sides > 0, 0)  # also for NaN, from infinite coordinates
    inter = sides[:, 0] * sides[:, 1]
    return inter / (box_area(box) + box_area(others) - inter)
