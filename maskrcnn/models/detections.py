"""From class scores and box deltas to one image's detections."""

from __future__ import annotations

import torch
from torch import Tensor

import maskrcnn_ops as ops
from maskrcnn.models.images import Detection

MIN_SIDE = 1e-2  # pixels; detections with a shorter side are dropped


def of_class(predictions: Tensor, index: Tensor, labels: Tensor) -> Tensor:
    """``predictions[index, labels]`` of ``[R, K, ...]``; of one row for all classes, ``[R, 1, ...]``, that row."""
    return predictions[index, labels if predictions.shape[1] > 1 else torch.zeros_like(labels)]


def select_detections(
    scores: Tensor,
    deltas: Tensor,
    proposals: Tensor,
    image_size: tuple[int, int],
    *,
    weights: tuple[float, float, float, float],
    score_threshold: float,
    nms_threshold: float,
    count: int,
) -> Detection:
    """The ``count`` best detections after suppression within each class.

    Every (proposal, class) pair that scores above the threshold is a candidate; only those are decoded.

    Args:
        scores: float32 ``[R, K]`` class probabilities, background first.
        deltas: float32 ``[R, K * 4]``, or ``[R, 4]`` for all classes.
        proposals: float32 ``[R, 4]``.
        image_size: (H, W); boxes are clipped to it.

    Returns:
        boxes ``[D, 4]``, labels ``[D]`` (1..K-1), scores ``[D]``, best first.
    """
    region, label = torch.where(scores[:, 1:] > score_threshold)
    label = label + 1
    score = scores[region, label]
    boxes = ops.decode_boxes(
        of_class(deltas.unflatten(1, (-1, 4)), region, label), proposals[region], weights
    )
    boxes = ops.clip_boxes_to_image(boxes, image_size)
    keep = ops.remove_small_boxes(boxes, MIN_SIDE)
    boxes, label, score = boxes[keep], label[keep], score[keep]
    keep = ops.batched_nms(boxes, score, label, nms_threshold)[:count]
    return {"boxes": boxes[keep], "labels": label[keep], "scores": score[keep]}
