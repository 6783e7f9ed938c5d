"""The keypoint branch: a keypoint is the peak of a heat map over its region (Mask R-CNN, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.models import losses
from maskrcnn.models.images import Detection, Target


@dataclass(frozen=True)
class KeypointBranch:
    """What :class:`~maskrcnn.models.roi_heads.RoIHeads` does with the keypoint head's output."""

    name: ClassVar[str] = "keypoint"
    target: ClassVar[str] = "keypoints"

    def logits(self, predictor: nn.Module, features: Tensor, _labels: Tensor) -> Tensor:
        """``[R, K, M, M]``; all classes share their keypoints."""
        return predictor(features)

    def loss(
        self,
        logits: Tensor,
        targets: list[Target],
        boxes: list[Tensor],
        matches: list[Tensor],
        counted: Tensor,
    ) -> Tensor:
        """Of positive regions: for each image boxes ``[P, 4]`` and the ground truth of each, ``[P]``; of all images'
        in a row those count that ``counted`` says."""
        matched = torch.cat([t["keypoints"][m] for t, m in zip(targets, matches, strict=True)])
        cells, valid = ops.keypoints_to_heatmap_targets(matched, torch.cat(boxes), logits.shape[-1])
        valid = valid & counted[:, None]
        count = losses.normalizer(valid.sum(), logits.device)
        return losses.keypoint_loss(logits, cells, valid, count)

    def detections(self, logits: Tensor, boxes: list[Tensor]) -> list[Detection]:
        """For each image ``keypoints`` ``[D, K, 3]`` (x, y, 1) and ``keypoints_scores`` ``[D, K]``, logits."""
        keypoints, scores = ops.heatmaps_to_keypoints(logits.float(), torch.cat(boxes))
        counts = [len(b) for b in boxes]
        return [
            {"keypoints": places, "keypoints_scores": heights}
            for places, heights in zip(keypoints.split(counts), scores.split(counts), strict=True)
        ]
