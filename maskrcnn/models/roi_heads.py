"""The second stage: sampled or proposed regions through the box head and the branches beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from maskrcnn.models import losses
from maskrcnn.models.detections import of_class, select_detections
from maskrcnn.models.images import Detection, Target
from maskrcnn.models.keypoints import KeypointBranch
from maskrcnn.models.masks import MaskBranch, mask_branch
from maskrcnn.models.matcher import Matcher
from maskrcnn.models.regions import SampledRegions, box_losses, positive_slots, sample_regions
from maskrcnn.models.sampler import BalancedSampler

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
Branch: TypeAlias = MaskBranch | KeypointBranch


@dataclass
class Classified:
    """What the box branch says of all images' proposals.

    Attributes:
        scores: float32 ``[R, K]`` probabilities.
        deltas: float32 ``[R, K * 4]``, or ``[R, 4]`` for all classes, relative to ``boxes``.
        boxes: float32 ``[P, 4]`` for each image.
        weights: of the encoding of ``deltas``.
    """

    scores: Tensor
    deltas: Tensor
    boxes: list[Tensor]
    weights: tuple[float, float, float, float]


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
        mask_iou_head: module ``(features [R, C, P, P], masks [R, M, M]) -> [R, K]`` that judges the masks (see
            :class:`~maskrcnn.models.heads.MaskIoUHead`); None: nothing does.
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
        mask_iou_head: nn.Module | None = None,
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
        self.mask_iou_head = mask_iou_head
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
        regions, pooled, result = self._train_boxes(features, proposals, image_sizes, targets)
        positive, labels = positive_slots(regions)
        counted, labels = labels > 0, labels.clamp(min=0)
        boxes = [r.candidates for r in regions]
        matches = [r.matches for r in regions]
        for branch in self.branches:
            pool, head, predictor = self._parts(branch)
            # With a shared head all branches pool alike, and the regions' features are there already.
            shared = self.shared_head is not None
            own = pooled[positive] if shared else self._pool(pool, features, boxes, image_sizes)
            logits = branch.logits(predictor, head(own), labels)
            result[f"loss_{branch.name}"] = branch.loss(logits, targets, boxes, matches, counted)
            if branch is self._masks and self.mask_iou_head is not None:
                masks = self._masks.probabilities(logits.detach().float())
                ious = _own_ious(self.mask_iou_head(own, masks), labels)
                wanted = self._masks.iou_targets(masks, targets, boxes, matches)
                count = losses.normalizer(counted.sum(), wanted.device)
                result["loss_mask_iou"] = losses.mask_iou_loss(ious, wanted, count, counted)
        return [], result

    def _train_boxes(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
        targets: list[Target],
    ) -> tuple[list[SampledRegions], Tensor, dict[str, Tensor]]:
        """The regions that the branches train on, their pooled features, and the losses of the boxes."""
        regions = sample_regions(proposals, targets, self.matcher, self.sampler)
        pooled = self._pool(self.box_roi_pool, features, [r.boxes for r in regions], image_sizes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        weights, beta = self.bbox_reg_weights, self.smooth_l1_beta
        return regions, pooled, box_losses(logits, deltas, regions, targets, weights, beta)

    def _pool(
        self,
        pool: nn.Module,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> Tensor:
        pooled = pool(features, boxes, image_sizes)
        return pooled if self.shared_head is None else self.shared_head(pooled)

    def _classify(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Classified:
        """Every proposal's probabilities and boxes, before the best are selected."""
        pooled = self._pool(self.box_roi_pool, features, proposals, image_sizes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        return Classified(logits.float().softmax(dim=-1), deltas.float(), proposals, self.bbox_reg_weights)

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Detection]:
        # As many regions in each image: those behind its last have no area, and nothing is detected there.
        padded = nn.utils.rnn.pad_sequence(proposals, batch_first=True)
        found = self._classify(features, list(padded), image_sizes)
        detections = select_detections(
            found.scores.unflatten(0, padded.shape[:2]),
            found.deltas.unflatten(0, padded.shape[:2]),
            torch.stack(found.boxes),
            image_sizes,
            weights=found.weights,
            score_threshold=self.score_thresh,
            nms_threshold=self.nms_thresh,
            count=self.detections_per_img,
        )
        boxes = [d["boxes"] for d in detections]
        labels = torch.cat([d["labels"] for d in detections])
        for branch in self.branches:
            pool, head, predictor = self._parts(branch)
            own = self._pool(pool, features, boxes, image_sizes)
            logits = branch.logits(predictor, head(own), labels)
            for detection, more in zip(detections, branch.detections(logits, boxes), strict=True):
                detection.update(more)
            if branch is self._masks and self.mask_iou_head is not None:
                masks = self._masks.probabilities(logits.float())
                ious = _own_ious(self.mask_iou_head(own, masks), labels).float().clamp(0, 1)
                for detection, each in zip(detections, ious.split([len(b) for b in boxes]), strict=True):
                    detection["mask_scores"] = detection["scores"] * each
        return detections


def _own_ious(ious: Tensor, labels: Tensor) -> Tensor:
    """Those of each region's class: ``[R]`` of ``[R, K]``."""
    return of_class(ious, torch.arange(len(labels), device=labels.device), labels)
