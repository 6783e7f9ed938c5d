"""Detectors of the same family: Fast R-CNN, Mask Scoring R-CNN and Cascade R-CNN."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from maskrcnn.models.cascade import CascadeRoIHeads, CascadeStage
from maskrcnn.models.detector import FasterRCNN, MaskRCNN
from maskrcnn.models.heads import FastRCNNPredictor, MaskIoUHead
from maskrcnn.models.matcher import Matcher
from maskrcnn.models.proposals import GivenProposals

LATER_IOU_THRESH = (0.6, 0.7)
LATER_REG_WEIGHTS = ((20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
LATER_LOSS_WEIGHTS = (0.5, 0.25)


class FastRCNN(FasterRCNN):
    """Fast R-CNN (Girshick, 2015): proposals are given with the images, and there is no RPN.

    ``model(images, targets, proposals)`` in training returns ``loss_classifier`` and ``loss_box_reg`` (plus those of
    branches), in evaluation ``model(images, proposals=proposals)`` returns detections. ``proposals`` is a list of boxes
    ``[P, 4]`` (xyxy, pixels of each image, P may be 0); in training targets may have them under the key
    ``proposals`` instead, as the training loop passes them. They are clipped to the image.

    With masks: ``class FastMaskRCNN(MaskRCNN, FastRCNN): pass``.

    Args:
        backbone, num_classes: see :class:`~maskrcnn.models.detector.FasterRCNN`.
        options: every other option of that class that is not the RPN's, by name.

    Raises:
        TypeError: an option of the RPN.
    """

    def __init__(self, backbone: nn.Module, num_classes: int | None = None, **options: Any) -> None:
        unused = [name for name in options if name.startswith("rpn_")]
        if unused:
            raise TypeError(
                f"FastRCNN: expected no options of an RPN, which it lacks, got {', '.join(unused)}"
            )
        super().__init__(backbone, num_classes, rpn=GivenProposals(), **options)


class MaskScoringRCNN(MaskRCNN):
    """Mask Scoring R-CNN (Huang et al., 2019): a further head predicts the IoU of each mask with its object.

    Adds ``loss_mask_iou`` in training, and to detections ``mask_scores`` ``[D]``: the class score times the predicted
    IoU. Boxes keep their ``scores``, which also decide about the order; the AP of masks is that of ``mask_scores``.
    The MaskIoU head's gradient reaches the features, not the masks that it judges.

    Args:
        backbone, num_classes: see :class:`~maskrcnn.models.detector.MaskRCNN`.
        mask_iou_head: see :class:`~maskrcnn.models.roi_heads.RoIHeads`; by default
            :class:`~maskrcnn.models.heads.MaskIoUHead` for features of 14 x 14, which needs ``num_classes``.
        options: every other option of that class, by name.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        *,
        mask_iou_head: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **options)
        if mask_iou_head is None:
            if num_classes is None:
                raise ValueError("MaskScoringRCNN: expected num_classes or mask_iou_head, got neither")
            mask_iou_head = MaskIoUHead(int(backbone.out_channels), 14, num_classes)  # type: ignore[arg-type]
        self.roi_heads.mask_iou_head = mask_iou_head


class CascadeRCNN(FasterRCNN):
    """Cascade R-CNN (Cai & Vasconcelos, 2018): further box stages with rising thresholds on refined boxes.

    The box branch of Faster R-CNN is the first stage, with that class's options; see
    :class:`~maskrcnn.models.cascade.CascadeRoIHeads` for losses and detections. The later stages have heads of the
    same shape, which start as copies of the first one's. Boxes are the same for all classes.

    Args:
        backbone, num_classes, box_predictor: see :class:`~maskrcnn.models.detector.FasterRCNN`; the predictor must
            have one box for all classes.
        later_iou_thresh: of each later stage, IoU from which its boxes are positive, under which they are background.
        later_reg_weights: of its box encoding.
        later_loss_weights: factor of its losses; the first stage's is 1.
        options: every other option of that class, by name.

    Raises:
        ValueError: a predictor of boxes for each class; options of different lengths.
    """

    heads_type = CascadeRoIHeads

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        *,
        box_predictor: nn.Module | None = None,
        later_iou_thresh: Sequence[float] = LATER_IOU_THRESH,
        later_reg_weights: Sequence[Sequence[float]] = LATER_REG_WEIGHTS,
        later_loss_weights: Sequence[float] = LATER_LOSS_WEIGHTS,
        **options: Any,
    ) -> None:
        if box_predictor is None and num_classes is not None:
            box_predictor, num_classes = FastRCNNPredictor(1024, num_classes, class_agnostic=True), None
        boxes = getattr(getattr(box_predictor, "bbox_pred", None), "out_features", 4)
        if boxes != 4:
            raise ValueError(
                "CascadeRCNN: expected a box_predictor with one box for all classes (class_agnostic_boxes=True), "
                f"got {boxes // 4} boxes"
            )
        lengths = {len(later_iou_thresh), len(later_reg_weights), len(later_loss_weights)}
        if len(lengths) > 1:
            raise ValueError(
                "CascadeRCNN: expected later_iou_thresh, later_reg_weights and later_loss_weights of one length, got "
                f"{len(later_iou_thresh)}, {len(later_reg_weights)} and {len(later_loss_weights)}"
            )
        super().__init__(backbone, num_classes, box_predictor=box_predictor, **options)
        heads = self.roi_heads
        assert isinstance(heads, CascadeRoIHeads)
        for threshold, (x, y, w, h), weight in zip(
            later_iou_thresh, later_reg_weights, later_loss_weights, strict=True
        ):
            head, predictor = copy.deepcopy(heads.box_head), copy.deepcopy(heads.box_predictor)
            heads.later_stages.append(
                CascadeStage(head, predictor, Matcher(threshold, threshold), (x, y, w, h), weight)
            )


class CascadeMaskRCNN(MaskRCNN, CascadeRCNN):
    """Cascade R-CNN with one mask branch, on the last stage's boxes: takes the options of both classes."""
