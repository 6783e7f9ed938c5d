"""The mask branch: targets, logits of the selected classes, loss and detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models import losses
from maskrcnn.models.detections import of_class
from maskrcnn.models.heads import MaskRCNNPredictor
from maskrcnn.models.images import Detection, Target

MASK_CONVENTIONS = ("integer", "continuous")
"""Where an M x M mask lies in its box. ``"integer"`` is torchvision's: targets are sampled half a pixel off and
masks pasted into the whole pixels that a box touches. ``"continuous"``: both where box and pixels are."""


@dataclass(frozen=True)
class MaskBranch:
    """What :class:`~maskrcnn.models.roi_heads.RoIHeads` does with the mask head's output.

    Each pixel of the own class's mask is decided on its own, by a sigmoid.

    Args:
        convention: one of :data:`MASK_CONVENTIONS`.

    Raises:
        ValueError: another ``convention``.
    """

    convention: str
    name: ClassVar[str] = "mask"
    target: ClassVar[str] = "masks"

    def __post_init__(self) -> None:
        if self.convention not in MASK_CONVENTIONS:
            raise ValueError(f"mask_convention: expected one of {MASK_CONVENTIONS}, got {self.convention!r}")

    def logits(self, predictor: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
        """``[R, M, M]``, of one class per region."""
        return selected_logits(predictor, features, labels)

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
        count = losses.normalizer(counted.sum(), logits.device)
        crops = self._crops(targets, boxes, matches, logits.shape[-1])
        return self._pixel_loss(logits, crops, count, counted)

    def iou_targets(
        self, masks: Tensor, targets: list[Target], boxes: list[Tensor], matches: list[Tensor]
    ) -> Tensor:
        """What a MaskIoU head should say of the probabilities ``masks [R, M, M]``: see :func:`mask_iou_targets`."""
        crops = self._crops(targets, boxes, matches, masks.shape[-1])
        areas = [mask_areas(t["masks"]).to(b)[m] for t, b, m in zip(targets, boxes, matches, strict=True)]
        return mask_iou_targets(masks, crops, torch.cat(areas), torch.cat(boxes))

    def _crops(self, targets: list[Target], boxes: list[Tensor], matches: list[Tensor], side: int) -> Tensor:
        crops = [
            mask_targets(t["masks"], b, m, side, self.convention)
            for t, b, m in zip(targets, boxes, matches, strict=True)
        ]
        return torch.cat(crops)

    def detections(self, logits: Tensor, boxes: list[Tensor]) -> list[Detection]:
        """For each image ``masks``: probabilities ``[D, 1, M, M]`` relative to the boxes."""
        probabilities = self.probabilities(logits.float())[:, None].split([len(b) for b in boxes])
        return [{"masks": masks} for masks in probabilities]

    def _pixel_loss(self, logits: Tensor, targets: Tensor, count: Tensor | float, counted: Tensor) -> Tensor:
        return losses.mask_loss(logits, targets, count, counted)

    def probabilities(self, logits: Tensor) -> Tensor:
        """``[R, M, M]`` of :meth:`logits`."""
        return logits.sigmoid()


class SoftmaxMaskBranch(MaskBranch):
    """Classes compete for each pixel, as in a fully convolutional network: the paper's Table 2 (b).

    A pixel of the target is of the region's class, or of the background (class 0). Needs a predictor with a mask for
    every class.
    """

    def logits(self, predictor: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
        """``[R, 2, M, M]``: log-probabilities of the background and of one class per region."""
        scores = predictor(features).float().log_softmax(dim=1)
        rows = torch.arange(len(labels), device=labels.device)
        return torch.stack([scores[:, 0], scores[rows, labels]], dim=1)

    def _pixel_loss(self, logits: Tensor, targets: Tensor, count: Tensor | float, counted: Tensor) -> Tensor:
        return losses.softmax_mask_loss(logits, targets, count, counted)

    def probabilities(self, logits: Tensor) -> Tensor:
        """``[R, M, M]`` of :meth:`logits`."""
        return logits[:, 1].exp()


MASK_BRANCHES = {"sigmoid": MaskBranch, "softmax": SoftmaxMaskBranch}


def mask_branch(loss: str, convention: str) -> MaskBranch:
    """The branch of a name in :data:`MASK_BRANCHES`.

    Raises:
        ValueError: another ``loss`` or ``convention``.
    """
    if loss not in MASK_BRANCHES:
        raise ValueError(f"mask_loss: expected one of {', '.join(MASK_BRANCHES)}, got {loss!r}")
    return MASK_BRANCHES[loss](convention)


@torch.no_grad()
def mask_targets(
    masks: Tensor | EncodedMasks, boxes: Tensor, matches: Tensor, side: int, convention: str
) -> Tensor:
    """Ground-truth masks cropped to boxes and resampled to M x M: float32 ``[P, M, M]`` in [0, 1].

    The masks are read where the boxes sample them; they are not converted.

    Args:
        masks: uint8 or bool ``[L, H, W]``, or encoded, resized with the image.
        boxes: float32 ``[P, 4]``.
        matches: int64 ``[P]``, index of each box's ground truth.
        side: M.
        convention: one of :data:`MASK_CONVENTIONS`.
    """
    aligned = convention == "continuous"
    if len(boxes) == 0:
        return boxes.new_zeros((0, side, side))
    if isinstance(masks, EncodedMasks):
        return masks.crop(boxes, side, matches, aligned=aligned)
    return ops.crop_masks(masks, boxes, side, matches, aligned=aligned)


def mask_areas(masks: Tensor | EncodedMasks) -> Tensor:
    """Pixels of each mask ``[L]`` in the image as it is now."""
    return masks.areas() if isinstance(masks, EncodedMasks) else (masks != 0).flatten(1).sum(1)


@torch.no_grad()
def mask_iou_targets(masks: Tensor, crops: Tensor, areas: Tensor, boxes: Tensor) -> Tensor:
    """IoU of predicted masks with the whole ground truth: float32 ``[P]`` in [0, 1].

    Huang, Huang, Gong, Huang, Wang: Mask Scoring R-CNN (CVPR 2019), section 3.2. A mask cannot reach beyond its box;
    what the box leaves out of the object counts as missed. Masks are cut at 0.5 and compared in the cells of their
    box.

    Args:
        masks: probabilities ``[P, M, M]``.
        crops: the ground truth in the same cells, ``[P, M, M]`` in [0, 1].
        areas: of each whole ground truth ``[P]``, pixels.
        boxes: ``[P, 4]``, pixels.
    """
    found, truth = masks >= 0.5, crops >= 0.5
    cell = ops.box_area(boxes).clamp(min=1e-6) / (masks.shape[-2] * masks.shape[-1])
    inside = truth.sum(dim=(1, 2))
    whole = torch.maximum(areas / cell, inside)  # in cells; coarse cells may count more than there is
    intersection = (found & truth).sum(dim=(1, 2))
    union = found.sum(dim=(1, 2)) + whole - intersection
    return (intersection / union.clamp(min=1e-6)).float()


def selected_logits(predictor: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    """Mask logits ``[R, M, M]`` of one class per region.

    A predictor other than :class:`~maskrcnn.models.heads.MaskRCNNPredictor` computes all classes first.
    """
    if isinstance(predictor, MaskRCNNPredictor):
        return predictor(features, labels)[:, 0]
    logits = predictor(features)
    return of_class(logits, torch.arange(len(labels), device=logits.device), labels)
