"""Regions that the heads train on: sampled from proposals and ground truth, and the losses of their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import maskrcnn_ops as ops
from maskrcnn.models import losses
from maskrcnn.models.detections import of_class
from maskrcnn.models.images import Target
from maskrcnn.models.matcher import Matcher, match_labels
from maskrcnn.models.sampler import BalancedSampler


@dataclass
class SampledRegions:
    """One image's regions for the losses.

    Attributes:
        boxes: float32 ``[R, 4]``.
        labels: int64 ``[R]``, 0 for background.
        positive: int64 ``[P]``, the regions with a ground truth, in ascending order.
        matches: int64 ``[P]``, the ground truth of each of them.
    """

    boxes: Tensor
    labels: Tensor
    positive: Tensor
    matches: Tensor


@torch.no_grad()
def sample_regions(
    proposals: list[Tensor], targets: list[Target], matcher: Matcher, sampler: BalancedSampler
) -> list[SampledRegions]:
    """Choose regions for each image among its proposals ``[P, 4]`` and the ground truth itself, in their order."""
    return [
        _sample(boxes, target["boxes"], target["labels"], matcher, sampler)
        for boxes, target in zip(proposals, targets, strict=True)
    ]


def _sample(
    proposals: Tensor, gt_boxes: Tensor, gt_labels: Tensor, matcher: Matcher, sampler: BalancedSampler
) -> SampledRegions:
    boxes = torch.cat([proposals, gt_boxes])
    matches = matcher(gt_boxes, boxes)
    sampled = torch.cat(sampler(match_labels(matches))).sort().values
    matches = matches[sampled]
    positive = torch.where(matches >= 0)[0]
    labels = torch.zeros_like(matches)
    labels[positive] = gt_labels[matches[positive]]
    return SampledRegions(boxes[sampled], labels, positive, matches[positive])


def box_losses(
    logits: Tensor,
    deltas: Tensor,
    regions: list[SampledRegions],
    targets: list[Target],
    weights: tuple[float, float, float, float],
    beta: float,
) -> dict[str, Tensor]:
    """``loss_classifier`` and ``loss_box_reg`` of all images' regions: ``logits [R, K]`` and ``deltas [R, K * 4]``, or
    ``[R, 4]`` for all classes, in the encoding of ``weights``; ``beta`` of :func:`~maskrcnn.models.losses.box_loss`."""
    labels = torch.cat([r.labels for r in regions])
    positive = torch.where(labels > 0)[0]
    boxes = torch.cat([r.boxes[r.positive] for r in regions])
    matched = torch.cat([t["boxes"][r.matches] for t, r in zip(targets, regions, strict=True)])
    chosen = of_class(deltas.unflatten(1, (-1, 4)), positive, labels[positive])
    encoded = ops.encode_boxes(matched, boxes, weights)
    count = losses.normalizer(len(labels), logits.device)
    return {
        "loss_classifier": losses.classifier_loss(logits, labels, count),
        "loss_box_reg": losses.box_loss(chosen, encoded, count, beta),
    }
