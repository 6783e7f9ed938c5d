"""The second stage: sampled or proposed regions through the box head and the branches beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.models import losses
from maskrcnn.models.detections import select_detections
from maskrcnn.models.images import Detection, Target
from maskrcnn.models.keypoints import KeypointBranch
from maskrcnn.models.masks import MaskBranch
from maskrcnn.models.matcher import Matcher, match_labels
from maskrcnn.models.sampler import BalancedSampler

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
Branch: TypeAlias = MaskBranch | KeypointBranch


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


class RoIHeads(nn.Module):
    """Classifies and refines regions; with masks and keypoints where those branches are there.

    Args:
        box_roi_pool: module ``(features, boxes, image_sizes) -> [R, C, P, P]``.
        box_head: module ``[R, C, P, P] -> [R, F]``.
        box_predictor: module ``[R, F] -> (logits [R, K], deltas [R, K * 4])``.
        matcher: proposals to ground truth.
        sampler: choice of regions for the losses.
        bbox_reg_weights: of the box encoding (x, y, w, h).
        score_thresh: detections score above it.
        nms_thresh: IoU of suppression, within a class.
        detections_per_img: most detections of an image.
        mask_convention: one of :data:`maskrcnn.models.masks.MASK_CONVENTIONS`.
        smooth_l1_beta: of the box loss, see :func:`~maskrcnn.models.losses.box_loss`.
        mask_roi_pool, mask_head, mask_predictor: the mask branch; all three or none.
        keypoint_roi_pool, keypoint_head, keypoint_predictor: the keypoint branch; all three or none.

    Raises:
        ValueError: another ``mask_convention``.
    """

    def __init__(
        self,
        box_roi_pool: nn.Module,
        box_head: nn.Module,
        box_predictor: nn.Module,
        matcher: Matcher,
        sampler: BalancedSampler,
        bbox_reg_weights: tuple[float, float, float, float] | None = None,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        mask_convention: str = "integer",
        smooth_l1_beta: float = losses.SMOOTH_L1_BETA,
        mask_roi_pool: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
        keypoint_roi_pool: nn.Module | None = None,
        keypoint_head: nn.Module | None = None,
        keypoint_predictor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.box_roi_pool = box_roi_pool
        self.box_head = box_head
        self.box_predictor = box_predictor
        self.matcher = matcher
        self.sampler = sampler
        self.bbox_reg_weights = bbox_reg_weights or BOX_WEIGHTS
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.detections_per_img = detections_per_img
        self.smooth_l1_beta = smooth_l1_beta
        # Their modules are attributes here, where the names of torchvision's parameters want them.
        self._masks = MaskBranch(mask_convention)
        self._branches: tuple[Branch, ...] = (self._masks, KeypointBranch())
        self.mask_roi_pool = mask_roi_pool
        self.mask_head = mask_head
        self.mask_predictor = mask_predictor
        self.keypoint_roi_pool = keypoint_roi_pool
        self.keypoint_head = keypoint_head
        self.keypoint_predictor = keypoint_predictor

    @property
    def branches(self) -> list[Branch]:
        """Those whose modules are there."""
        return [branch for branch in self._branches if None not in self._parts(branch)]

    def _parts(self, branch: Branch) -> tuple[nn.Module, nn.Module, nn.Module]:
        pool, head, predictor = (
            getattr(self, f"{branch.name}_{part}") for part in ("roi_pool", "head", "predictor")
        )
        return pool, head, predictor

    @property
    def mask_convention(self) -> str:
        """One of :data:`maskrcnn.models.masks.MASK_CONVENTIONS`."""
        return self._masks.convention

    @property
    def target_keys(self) -> list[str]:
        """What a training target needs beside boxes and labels: of ``"masks"``, ``"keypoints"``."""
        return [branch.target for branch in self.branches]

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """Return (detections, {}) in evaluation, ([], losses) in training.

        Detections are in the pixels of the resized image, a detection's ``masks`` relative to its box.
        """
        if not self.training:
            return self._detect(features, proposals, image_sizes), {}
        if targets is None:
            raise ValueError("targets: expected one dictionary per image in training, got None")
        regions = [self._sample(p, t["boxes"], t["labels"]) for p, t in zip(proposals, targets, strict=True)]
        result = self._box_losses(features, regions, image_sizes, targets)
        boxes = [r.boxes[r.positive] for r in regions]
        labels = torch.cat([r.labels[r.positive] for r in regions])
        matches = [r.matches for r in regions]
        for branch in self.branches:
            logits = self._branch_logits(branch, features, boxes, labels, image_sizes)
            result[f"loss_{branch.name}"] = branch.loss(logits, targets, boxes, matches)
        return [], result

    @torch.no_grad()
    def _sample(self, proposals: Tensor, gt_boxes: Tensor, gt_labels: Tensor) -> SampledRegions:
        """Choose regions among the proposals and the ground truth itself, in their order."""
        boxes = torch.cat([proposals, gt_boxes])
        matches = self.matcher(gt_boxes, boxes)
        sampled = torch.cat(self.sampler(match_labels(matches))).sort().values
        matches = matches[sampled]
        positive = torch.where(matches >= 0)[0]
        labels = torch.zeros_like(matches)
        labels[positive] = gt_labels[matches[positive]]
        return SampledRegions(boxes[sampled], labels, positive, matches[positive])

    def _box_outputs(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        return self.box_predictor(self.box_head(self.box_roi_pool(features, boxes, image_sizes)))

    def _box_losses(
        self,
        features: dict[str, Tensor],
        regions: list[SampledRegions],
        image_sizes: list[tuple[int, int]],
        targets: list[Target],
    ) -> dict[str, Tensor]:
        logits, deltas = self._box_outputs(features, [r.boxes for r in regions], image_sizes)
        labels = torch.cat([r.labels for r in regions])
        positive = torch.where(labels > 0)[0]
        chosen = deltas.unflatten(1, (-1, 4))[positive, labels[positive]]
        matched = torch.cat([t["boxes"][r.matches] for t, r in zip(targets, regions, strict=True)])
        boxes = torch.cat([r.boxes[r.positive] for r in regions])
        encoded = ops.encode_boxes(matched, boxes, self.bbox_reg_weights)
        count = losses.normalizer(len(labels), logits.device)
        return {
            "loss_classifier": losses.classifier_loss(logits, labels, count),
            "loss_box_reg": losses.box_loss(chosen, encoded, count, self.smooth_l1_beta),
        }

    def _branch_logits(
        self,
        branch: Branch,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        labels: Tensor,
        image_sizes: list[tuple[int, int]],
    ) -> Tensor:
        pool, head, predictor = self._parts(branch)
        return branch.logits(predictor, head(pool(features, boxes, image_sizes)), labels)

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Detection]:
        logits, deltas = self._box_outputs(features, proposals, image_sizes)
        counts = [len(boxes) for boxes in proposals]
        scores = logits.float().softmax(dim=-1).split(counts)
        detections = [
            select_detections(
                *image,
                weights=self.bbox_reg_weights,
                score_threshold=self.score_thresh,
                nms_threshold=self.nms_thresh,
                count=self.detections_per_img,
            )
            for image in zip(scores, deltas.float().split(counts), proposals, image_sizes, strict=True)
        ]
        boxes = [d["boxes"] for d in detections]
        labels = torch.cat([d["labels"] for d in detections])
        for branch in self.branches:
            logits = self._branch_logits(branch, features, boxes, labels, image_sizes)
            for detection, found in zip(detections, branch.detections(logits, boxes), strict=True):
                detection.update(found)
        return detections
