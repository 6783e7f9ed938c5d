"""Regions that the heads train on: sampled from proposals and ground truth, and the losses of their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import maskrcnn_ops as ops
from maskrcnn.models import losses
from maskrcnn.models.detections import of_class
from maskrcnn.models.images import Target
from maskrcnn.models.losses import IGNORED
from maskrcnn.models.matcher import Matcher, match_labels
from maskrcnn.models.sampler import BalancedSampler


@dataclass
class SampledRegions:
    """One image's regions for the losses; the first P may be positive.

    Attributes:
        boxes: float32 ``[S, 4]``.
        labels: int64 ``[S]``, 0 for background, :data:`~maskrcnn.models.losses.IGNORED` where no region is.
        matches: int64 ``[P]``, the ground truth of each of the first P; any where the label is not above 0.
    """

    boxes: Tensor
    labels: Tensor
    matches: Tensor

    @property
    def candidates(self) -> Tensor:
        """Boxes ``[P, 4]`` of those that may be positive."""
        return self.boxes[: len(self.matches)]


@torch.no_grad()
def sample_regions(
    proposals: list[Tensor], targets: list[Target], matcher: Matcher, sampler: BalancedSampler
) -> list[SampledRegions]:
    """Choose regions for each image among its proposals ``[P, 4]`` and the ground truth itself, in their order.

    Boxes without area are never chosen.
    """
    return [
        _sample(boxes, target["boxes"], target["labels"], matcher, sampler)
        for boxes, target in zip(proposals, targets, strict=True)
    ]


def _sample(
    proposals: Tensor, gt_boxes: Tensor, gt_labels: Tensor, matcher: Matcher, sampler: BalancedSampler
) -> SampledRegions:
    boxes = torch.cat([proposals, gt_boxes])
    matches = matcher(gt_boxes, boxes)
    sample = sampler(torch.where(ops.box_area(boxes) > 0, match_labels(matches), -1))
    boxes, matches = boxes[sample.index], matches[sample.index]
    labels = torch.zeros_like(matches)
    if len(gt_boxes):
        labels = torch.where(matches >= 0, gt_labels[matches.clamp(min=0)], labels)
    # Without ground truth there is nothing that a slot could stand for.
    positives = sample.positives if len(gt_boxes) else 0
    return SampledRegions(
        boxes, torch.where(sample.filled, labels, IGNORED), matches[:positives].clamp(min=0)
    )


def positive_slots(regions: list[SampledRegions]) -> tuple[Tensor, Tensor]:
    """Of all images' regions in a row: int64 ``[P]``, those that may be positive, and their labels, IGNORED where a
    region is not."""
    labels = torch.cat([r.labels for r in regions])
    first, slots = 0, []
    for r in regions:
        slots.append(torch.arange(first, first + len(r.matches), device=labels.device))
        first += len(r.labels)
    index = torch.cat(slots)
    return index, torch.where(labels[index] > 0, labels[index], IGNORED)


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
    index, own_labels = positive_slots(regions)
    boxes = torch.cat([r.candidates for r in regions])
    matched = torch.cat([t["boxes"][r.matches] for t, r in zip(targets, regions, strict=True)])
    chosen = of_class(deltas.unflatten(1, (-1, 4)), index, own_labels.clamp(min=0))
    encoded = ops.encode_boxes(matched, boxes, weights)
    count = losses.normalizer((labels != IGNORED).sum(), logits.device)
    return {
        "loss_classifier": losses.classifier_loss(logits, labels, count),
        "loss_box_reg": losses.box_loss(chosen, encoded, count, beta, own_labels > 0),
    }
