"""From class scores and box deltas to detections."""

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
    image_sizes: list[tuple[int, int]],
    *,
    weights: tuple[float, float, float, float],
    score_threshold: float,
    nms_threshold: float,
    count: int,
) -> list[Detection]:
    """The ``count`` best detections of each image after suppression within each class.

    Every (proposal, class) pair that scores above the threshold is a candidate. No shape on the way depends on the
    data; at the end the numbers of detections are read back, once for all images.

    Args:
        scores: float32 ``[N, P, K]`` class probabilities, background first.
        deltas: float32 ``[N, P, K * 4]``, or ``[N, P, 4]`` for all classes.
        proposals: float32 ``[N, P, 4]``; nothing is detected where one has no area.
        image_sizes: (H, W) of each image; boxes are clipped to it.

    Returns:
        For each image boxes ``[D, 4]``, labels ``[D]`` (1..K-1), scores ``[D]``, best first.
    """
    score, label = best_classes(scores, score_threshold)
    boxes = _decode(deltas, proposals, label, weights)
    boxes = torch.stack(
        [ops.clip_boxes_to_image(*each) for each in zip(boxes.flatten(1, 2), image_sizes, strict=True)]
    )
    score, label = score.flatten(1), label.flatten(1)
    large = (boxes[..., 2:] - boxes[..., :2] >= MIN_SIDE).all(dim=-1)
    index, kept = ops.padded_nms(
        boxes,
        torch.where(large, score, -torch.inf),
        nms_threshold,
        min(count, score.shape[1]),
        classes=label,
        score_threshold=score_threshold,
    )
    index = index.clamp(min=0)
    chosen = {
        "boxes": boxes.gather(1, index[..., None].expand(-1, -1, 4)),
        "labels": label.gather(1, index),
        "scores": score.gather(1, index),
    }
    return [
        {name: each[image, :number] for name, each in chosen.items()}
        for image, number in enumerate(kept.tolist())
    ]


def best_classes(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Scores and labels ``[N, P, C]`` of the classes that may pass ``threshold``: of probabilities that sum to one no
    more than its reciprocal do. The background, the first of ``scores [N, P, K]``, is none of them."""
    objects = scores[..., 1:]
    most = max(1, int(1 / threshold)) if threshold > 0 else objects.shape[-1]
    if most < objects.shape[-1]:
        score, label = objects.topk(most, dim=-1)
        return score, label + 1
    labels = torch.arange(1, scores.shape[-1], device=scores.device)
    return objects, labels.expand(objects.shape)


def _decode(
    deltas: Tensor, proposals: Tensor, labels: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """Boxes ``[N, P, C, 4]`` of the classes ``labels [N, P, C]``."""
    own = deltas.unflatten(-1, (-1, 4))
    if own.shape[2] > 1:
        own = own.gather(2, labels[..., None].expand(-1, -1, -1, 4))
    decoded = ops.decode_boxes(own.flatten(2).flatten(0, 1), proposals.flatten(0, 1), weights)
    return decoded.view(own.shape).expand(*labels.shape, 4)
