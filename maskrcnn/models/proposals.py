"""From the RPN's raw maps to proposals: flatten, decode, keep the best, suppress."""

from __future__ import annotations

import torch
from torch import Tensor

import maskrcnn_ops as ops

MIN_SIDE = 1e-3  # pixels; proposals with a shorter side are dropped


def flatten_level(prediction: Tensor, width: int) -> Tensor:
    """``[N, A * width, H, W]`` to ``[N, H * W * A, width]``, (y, x, anchor); a view if channels_last."""
    return prediction.permute(0, 2, 3, 1).reshape(prediction.shape[0], -1, width)


@torch.no_grad()
def level_candidates(
    logits: Tensor,
    deltas: Tensor,
    cells: Tensor,
    grid_size: tuple[int, int],
    stride: tuple[int, int],
    count: int,
) -> tuple[Tensor, Tensor]:
    """The ``count`` best-scored boxes of one level.

    Args:
        logits: ``[N, B]`` objectness, B = H * W * A in (y, x, anchor) order.
        deltas: ``[N, B, 4]`` encoded boxes in the same order.
        cells: ``[A, 4]`` cell anchors; those of the grid come from the index.

    Returns:
        float32 boxes ``[N, count, 4]`` and logits ``[N, count]``, best first.
    """
    boxes = ops.decode_grid(deltas.float(), cells, grid_size, stride)
    best, index = logits.float().topk(min(count, logits.shape[1]), dim=1)
    return boxes.gather(1, index[..., None].expand(-1, -1, 4)), best


@torch.no_grad()
def filter_proposals(
    boxes: Tensor,
    logits: Tensor,
    levels: Tensor,
    image_size: tuple[int, int],
    *,
    nms_threshold: float,
    score_threshold: float,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Clip one image's candidates, drop slivers and low scores, suppress per level, keep the ``count`` best.

    Args:
        boxes: ``[B, 4]`` candidates of all levels.
        logits: ``[B]`` objectness.
        levels: ``[B]`` level of each candidate; different levels never suppress each other.
        image_size: (H, W) of the resized image, without padding.

    Returns:
        boxes ``[P, 4]`` and scores ``[P]``, best first.
    """
    boxes = ops.clip_boxes_to_image(boxes, image_size)
    scores = logits.sigmoid()
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = torch.where((sides.amin(dim=1) >= MIN_SIDE) & (scores >= score_threshold))[0]
    boxes, scores = boxes[keep], scores[keep]
    keep = ops.batched_nms(boxes, scores, levels[keep], nms_threshold)[:count]
    return boxes[keep], scores[keep]
