"""The second stage: sampled or proposed regions through the box head and the branches beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.models import losses
from maskrcnn.models.detections import of_class, select_detections
from maskrcnn.models.images import Detection, Target
from maskrcnn.models.keypoints import KeypointBranch
from maskrcnn.models.masks import MaskBranch, mask_branch
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
        box_predictor: module ``[R, F] -> (logits [R, K], deltas [R, K * 4])``, or ``[R, 4]`` for all classes.
        matcher: proposals to ground truth.
        sampler: choice of regions for the losses.
        bbox_reg_weights: of the box encoding (x, y, w, h).
        score_thresh: detections score above it.
        nms_thresh: IoU of suppression, within a class.
        detections_per_img: most detections of an image.
        mask_convention: one of :data:`maskrcnn.models.masks.MASK_CONVENTIONS`.
        mask_loss: a name of :data:`maskrcnn.models.masks.MASK_BRANCHES`.
        shared_head: applied to every branch's pooled features before its own head; then all branches pool alike.
        smooth_l1_beta: of the box loss, see :func:`~maskrcnn.models.losses.box_loss`.
        mask_roi_pool, mask_head, mask_predictor: the mask branch; all three or none.
        keypoint_roi_pool, keypoint_head, keypoint_predictor: the keypoint branch; all three or none.

    Raises:
        ValueError: another ``mask_convention`` or ``mask_loss``.
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
        mask_loss: str = "sigmoid",
        shared_head: nn.Module | None = None,
        smooth_l1_beta: float = losses.SMOOTH_L1_BETA,
        mask_roi_pool: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
        keypoint_roi_pool: nn.Module | None = None,
        keypoint_head: nn.Module | None = None,
        keypoint_predictor: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.shared_head = shared_head
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
        self._masks = mask_branch(mask_loss, mask_convention)
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
        labels = torch.cat([r.labels for r in regions])
        positive = torch.where(labels > 0)[0]
        boxes = [r.boxes[r.positive] for r in regions]
        matches = [r.matches for r in regions]
        pooled = self._pool(self.box_roi_pool, features, [r.boxes for r in regions], image_sizes)
        matched = torch.cat([t["boxes"][m] for t, m in zip(targets, matches, strict=True)])
        result = self._box_losses(pooled, labels, positive, torch.cat(boxes), matched)
        for branch in self.branches:
            pool, head, predictor = self._parts(branch)
            # With a shared head all branches pool alike, and the regions' features are there already.
            shared = self.shared_head is not None
            own = pooled[positive] if shared else self._pool(pool, features, boxes, image_sizes)
            logits = branch.logits(predictor, head(own), labels[positive])
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

    def _pool(
        self,
        pool: nn.Module,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> Tensor:
        pooled = pool(features, boxes, image_sizes)
        return pooled if self.shared_head is None else self.shared_head(pooled)

    def _box_losses(
        self, pooled: Tensor, labels: Tensor, positive: Tensor, boxes: Tensor, matched: Tensor
    ) -> dict[str, Tensor]:
        """Of regions ``[R, C, P, P]`` with ``labels [R]``, and of the ``positive [P]`` among them: their ``boxes`` and
        the ground truth of each, ``[P, 4]``."""
        logits, deltas = self.box_predictor(self.box_head(pooled))
        chosen = of_class(deltas.unflatten(1, (-1, 4)), positive, labels[positive])
        encoded = ops.encode_boxes(matched, boxes, self.bbox_reg_weights)
        count = losses.normalizer(len(labels), logits.device)
        return {
            "loss_classifier": losses.classifier_loss(logits, labels, count),
            "loss_box_reg": losses.box_loss(chosen, encoded, count, self.smooth_l1_beta),
        }

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Detection]:
        pooled = self._pool(self.box_roi_pool, features, proposals, image_sizes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
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
            pool, head, predictor = self._parts(branch)
            logits = branch.logits(predictor, head(self._pool(pool, features, boxes, image_sizes)), labels)
            for detection, found in zip(detections, branch.detections(logits, boxes), strict=True):
                detection.update(found)
        return detections
