"""What YOLACT learns from (Bolya et al., ICCV 2019, section 3): anchors of which classes, boxes and masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import maskrcnn_ops as ops
from maskrcnn.geometry import resize_boxes
from maskrcnn.models import losses
from maskrcnn.models.anchors import anchors_at
from maskrcnn.models.images import ImageList, Target
from maskrcnn.models.matcher import BELOW, Matcher
from maskrcnn.models.prototypes import assemble, assembled_mask_loss, semantic_loss, whole_masks
from maskrcnn.models.rpn import AnchorGrids

LOSSES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_semantic")
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the box encoding: the inverse of SSD's variances
SMOOTH_L1_BETA = 1.0  # SSD's
NEGATIVES = 3  # for each positive


@dataclass(frozen=True)
class YOLACTLosses:
    """The four losses of a batch, each divided by a count over all images and processes.

    Per image the classifier learns from all positives and three negatives for each, the ones it gets wrong
    most; from three where there are no positives. Classes, boxes and masks are averaged over the positives,
    the semantic loss over the cells of the finest level that lie in an image.

    Args:
        matcher: anchors to ground truth.
        masks_per_image: the most positives of an image whose masks are assembled; of more a random choice
            stands for all.
        weights: of classes, boxes, masks and the semantic loss.

    Raises:
        ValueError: ``masks_per_image`` below 1, another number of ``weights`` than four.
    """

    matcher: Matcher
    masks_per_image: int
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.masks_per_image < 1:
            raise ValueError(f"masks_per_image: expected at least 1, got {self.masks_per_image}")
        if len(self.weights) != len(LOSSES):
            raise ValueError(f"loss_weights: expected {len(LOSSES)}, got {len(self.weights)}")

    def __call__(
        self,
        anchors: AnchorGrids,
        images: ImageList,
        targets: list[Target],
        outputs: tuple[Tensor, Tensor, Tensor],
        prototypes: Tensor,
        semantic: Tensor,
    ) -> dict[str, Tensor]:
        """The four losses: sums over the images, each divided by what it counts in all of them."""
        batch = (images.tensors.shape[-2], images.tensors.shape[-1])
        grid = (prototypes.shape[-2], prototypes.shape[-1])
        sums: dict[str, list[Tensor]] = {name: [] for name in LOSSES}
        positives = cells = 0
        for i, target in enumerate(targets):
            logits, deltas, coefficients = (output[i] for output in outputs)
            matches = self.matcher.match_anchors(target["boxes"], *anchors)
            positive = torch.where(matches >= 0)[0]
            truth = matches[positive]
            masks = whole_masks(target["masks"], target["boxes"], batch, grid)
            boxes = resize_boxes(target["boxes"], batch, grid)
            # Cells of the finest level are two by two of the prototypes'; those of the padding do not count.
            rows, columns = (
                -(-side * cell // (2 * whole))
                for side, cell, whole in zip(images.image_sizes[i], grid, batch, strict=True)
            )
            covered = F.avg_pool2d(masks[:, None], 2)[:, 0, :rows, :columns]

            sums["loss_classifier"].append(self._class_sum(logits, matches, positive, target["labels"]))
            wanted = ops.encode_boxes(target["boxes"][truth], anchors_at(positive, *anchors), BOX_WEIGHTS)
            sums["loss_box_reg"].append(losses.box_loss(deltas[positive], wanted, 1, SMOOTH_L1_BETA))
            sums["loss_mask"].append(
                self._mask_sum(coefficients[positive], prototypes[i], masks, boxes, truth)
            )
            sums["loss_semantic"].append(
                semantic_loss(semantic[i, :, :rows, :columns], covered, target["labels"])
            )
            positives, cells = positives + len(positive), cells + rows * columns
        count = losses.normalizer(positives, prototypes.device)
        counts = dict.fromkeys(LOSSES, count) | {"loss_semantic": losses.normalizer(cells, prototypes.device)}
        return {
            name: weight * torch.stack(sums[name]).sum() / counts[name]
            for name, weight in zip(LOSSES, self.weights, strict=True)
        }

    def _class_sum(self, logits: Tensor, matches: Tensor, positive: Tensor, gt_labels: Tensor) -> Tensor:
        """Cross-entropy of one image's positives and hardest negatives; ``logits [B, K]``, ``matches [B]``."""
        negative = hardest_negatives(logits, matches, NEGATIVES * max(len(positive), 1))
        labels = torch.cat([gt_labels[matches[positive]], torch.zeros_like(negative)])
        return losses.classifier_loss(logits[torch.cat([positive, negative])], labels, 1)

    def _mask_sum(
        self, coefficients: Tensor, prototypes: Tensor, masks: Tensor, boxes: Tensor, truth: Tensor
    ) -> Tensor:
        """Mask loss of one image's positives: their coefficients ``[P, k]`` and ground truths ``[P]``."""
        weight = 1.0
        if len(truth) > self.masks_per_image:
            chosen = torch.randperm(len(truth), device=truth.device)[: self.masks_per_image]
            weight = len(truth) / len(chosen)
            coefficients, truth = coefficients[chosen], truth[chosen]
        return weight * assembled_mask_loss(assemble(prototypes, coefficients), masks[truth], boxes[truth])


@torch.no_grad()
def hardest_negatives(logits: Tensor, matches: Tensor, count: int) -> Tensor:
    """The background anchors that are least taken for background: at most ``count``, int64, hardest first.

    Online hard example mining as in SSD (Liu et al., 2016).

    Args:
        logits: ``[B, K]``, background first.
        matches: int64 ``[B]``, as :class:`~maskrcnn.models.matcher.Matcher` gives them.
    """
    logits = logits.float()
    hardness = torch.where(matches == BELOW, logits.logsumexp(1) - logits[:, 0], -torch.inf)
    hardest = hardness.topk(min(count, len(hardness))).indices
    return hardest[matches[hardest] == BELOW]
