"""The assembled detectors: Faster R-CNN (Ren et al., 2015), Mask and Keypoint R-CNN (He et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.models.anchors import AnchorGenerator
from maskrcnn.models.base import BaseDetector, out_channels
from maskrcnn.models.geometry import PYRAMID_MAPS
from maskrcnn.models.heads import (
    FastRCNNPredictor,
    KeypointRCNNHeads,
    KeypointRCNNPredictor,
    MaskRCNNHeads,
    MaskRCNNPredictor,
    TwoMLPHead,
)
from maskrcnn.models.images import Detection, ImageList, Target
from maskrcnn.models.losses import SMOOTH_L1_BETA
from maskrcnn.models.matcher import Matcher
from maskrcnn.models.proposals import GivenProposals
from maskrcnn.models.roi_heads import RoIHeads
from maskrcnn.models.rpn import RegionProposalNetwork, RPNHead
from maskrcnn.models.sampler import BalancedSampler
from maskrcnn.models.transform import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    GeneralizedRCNNTransform,
)

KEYPOINT_MIN_SIZES = (640, 672, 704, 736, 768, 800)  # scales that keypoints are trained on, pixels


class GeneralizedRCNN(BaseDetector):
    """Two-stage detector made of four parts that it receives.

    ``model(images, targets)`` in training returns a dictionary of losses (0-dim tensors):
    ``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier``, ``loss_box_reg`` and, with masks,
    ``loss_mask``, with keypoints ``loss_keypoint``; the classes of :mod:`maskrcnn.models.relatives` say what differs
    there. In evaluation ``model(images)`` returns one dictionary per image, in the pixels of that image: ``boxes``
    float32 ``[D, 4]``, ``labels`` int64 ``[D]``, ``scores`` float32 ``[D]`` descending, and ``masks`` as
    :attr:`mask_format` says:

    - ``"full"``: float32 ``[D, 1, H, W]`` probabilities, zero outside the box;
    - ``"bool"``: bool ``[D, H, W]``, probability at least 0.5;
    - ``"roi"``: float32 ``[D, 1, M, M]`` probabilities relative to the box, never pasted;
    - ``"rle"``: a list of D COCO encodings of the ``"bool"`` masks, made without bitmaps.

    With a MaskIoU head ``mask_scores`` float32 ``[D]``, the scores of the masks (see
    :class:`~maskrcnn.models.relatives.MaskScoringRCNN`).

    With keypoints also ``keypoints`` float32 ``[D, K, 3]`` (x, y, 1) and ``keypoints_scores`` float32
    ``[D, K]``, the logits at the heat maps' peaks.

    Images are ``[3, H, W]``, floats in [0, 1] or uint8, of any sizes. Targets are described at
    :data:`maskrcnn.models.images.Target`; an image without objects has tensors of zero rows.

    Random choices (sampling, training sizes) draw from torch's global generator only; evaluation has none.

    Args:
        backbone: ``[N, 3, H, W] -> {name: [N, C, H_i, W_i]}`` (or one map) with an attribute
            ``out_channels``.
        rpn: proposals and their losses.
        roi_heads: detections and their losses.
        transform: images and targets to the batch.
        mask_format: see above; may be changed at any time.
    """

    def __init__(
        self,
        backbone: nn.Module,
        rpn: nn.Module,
        roi_heads: RoIHeads,
        transform: GeneralizedRCNNTransform,
        *,
        mask_format: str = "full",
    ) -> None:
        super().__init__(backbone, transform, mask_format=mask_format)
        self.rpn = rpn
        self.roi_heads = roi_heads

    @property
    def mask_convention(self) -> str:
        """One of :data:`maskrcnn.models.masks.MASK_CONVENTIONS`."""
        return self.roi_heads.mask_convention

    @property
    def shared_head(self) -> nn.Module | None:
        """See :class:`~maskrcnn.models.roi_heads.RoIHeads`."""
        return self.roi_heads.shared_head

    @property
    def takes_proposals(self) -> bool:
        """Whether regions must be given with the images."""
        return isinstance(self.rpn, GivenProposals)

    @property
    def num_classes(self) -> int | None:
        """K with background, read from the box predictor; None where that has no ``cls_score``."""
        score = getattr(self.roi_heads.box_predictor, "cls_score", None)
        return getattr(score, "out_features", None)

    @property
    def num_keypoints(self) -> int | None:
        """K of the keypoint predictor; None without one, or where that has no ``kps_score_lowres``."""
        scores = getattr(self.roi_heads.keypoint_predictor, "kps_score_lowres", None)
        return getattr(scores, "out_channels", None)

    @property
    def target_keys(self) -> list[str]:
        """What a training target needs beside boxes and labels: of ``"masks"``, ``"keypoints"``."""
        return self.roi_heads.target_keys

    def predict(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """Both stages; see :meth:`~maskrcnn.models.base.BaseDetector.predict`."""
        proposals, proposal_losses = self.rpn(images, features, targets)
        detections, region_losses = self.roi_heads(features, proposals, images.image_sizes, targets)
        return detections, {**region_losses, **proposal_losses}


class FasterRCNN(GeneralizedRCNN):
    """Faster R-CNN; the options and their defaults are torchvision's.

    Attributes:
        heads_type: class of :attr:`roi_heads`.

    Args:
        backbone: see :class:`GeneralizedRCNN`.
        num_classes: K with background; None when ``box_predictor`` is given.
        min_size, max_size, image_mean, image_std, size_divisible, fixed_size: see
            :class:`~maskrcnn.models.transform.GeneralizedRCNNTransform`.
        rpn_anchor_generator: anchor shapes; by default one size per level, 32 to 512, and ratios 0.5, 1, 2.
        rpn_head: by default :class:`~maskrcnn.models.rpn.RPNHead`.
        rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test: candidates per level before suppression.
        rpn_post_nms_top_n_train, rpn_post_nms_top_n_test: proposals per image after it.
        rpn_nms_thresh: IoU of suppression.
        rpn_fg_iou_thresh, rpn_bg_iou_thresh: IoU from which an anchor is positive, under which it is
            negative.
        rpn_batch_size_per_image, rpn_positive_fraction: anchors sampled per image, largest share of
            positives.
        rpn_score_thresh: least objectness of a proposal.
        box_roi_pool: module ``(features, boxes, image_sizes) -> [R, C, P, P]`` with ``output_size``.
        box_head, box_predictor: see :class:`~maskrcnn.models.roi_heads.RoIHeads`.
        box_score_thresh, box_nms_thresh, box_detections_per_img: selection of detections.
        box_fg_iou_thresh, box_bg_iou_thresh, box_batch_size_per_image, box_positive_fraction: as for the RPN.
        bbox_reg_weights: of the box encoding; (10, 10, 5, 5) by default.
        rpn: module in the place of the RPN; the options of that one then have no effect.
        mask_format: see :class:`GeneralizedRCNN`.
        mask_convention: one of :data:`maskrcnn.models.masks.MASK_CONVENTIONS`; ``"integer"`` for weights that
            torchvision has trained.
        mask_loss: ``"sigmoid"`` (each class alone) or ``"softmax"`` (classes compete for each pixel).
        shared_head: see :class:`~maskrcnn.models.roi_heads.RoIHeads`.
        smooth_l1_beta: of both box losses; 0 is plain L1, as detectron2 trains.
    """

    heads_type: ClassVar[type[RoIHeads]] = RoIHeads

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        rpn_anchor_generator: AnchorGenerator | None = None,
        rpn_head: nn.Module | None = None,
        rpn_pre_nms_top_n_train: int = 2000,
        rpn_pre_nms_top_n_test: int = 1000,
        rpn_post_nms_top_n_train: int = 2000,
        rpn_post_nms_top_n_test: int = 1000,
        rpn_nms_thresh: float = 0.7,
        rpn_fg_iou_thresh: float = 0.7,
        rpn_bg_iou_thresh: float = 0.3,
        rpn_batch_size_per_image: int = 256,
        rpn_positive_fraction: float = 0.5,
        rpn_score_thresh: float = 0.0,
        box_roi_pool: nn.Module | None = None,
        box_head: nn.Module | None = None,
        box_predictor: nn.Module | None = None,
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.5,
        box_detections_per_img: int = 100,
        box_fg_iou_thresh: float = 0.5,
        box_bg_iou_thresh: float = 0.5,
        box_batch_size_per_image: int = 512,
        box_positive_fraction: float = 0.25,
        bbox_reg_weights: tuple[float, float, float, float] | None = None,
        *,
        rpn: nn.Module | None = None,
        size_divisible: int = 32,
        fixed_size: tuple[int, int] | None = None,
        mask_format: str = "full",
        mask_convention: str = "integer",
        mask_loss: str = "sigmoid",
        shared_head: nn.Module | None = None,
        smooth_l1_beta: float = SMOOTH_L1_BETA,
    ) -> None:
        channels = out_channels(backbone)
        if rpn is None:
            rpn_anchor_generator = rpn_anchor_generator or AnchorGenerator()
            rpn = RegionProposalNetwork(
                rpn_anchor_generator,
                rpn_head or RPNHead(channels, rpn_anchor_generator.num_anchors_per_location()[0]),
                Matcher(rpn_fg_iou_thresh, rpn_bg_iou_thresh, allow_low_quality_matches=True),
                BalancedSampler(rpn_batch_size_per_image, rpn_positive_fraction),
                pre_nms_top_n=(rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test),
                post_nms_top_n=(rpn_post_nms_top_n_train, rpn_post_nms_top_n_test),
                nms_thresh=rpn_nms_thresh,
                score_thresh=rpn_score_thresh,
                smooth_l1_beta=smooth_l1_beta,
            )
        if box_roi_pool is None:
            box_roi_pool = ops.MultiScaleRoIAlign(list(PYRAMID_MAPS), output_size=7, sampling_ratio=2)
        if box_head is None:
            box_head = TwoMLPHead(channels * _pooled_cells(box_roi_pool), 1024)
        roi_heads = self.heads_type(
            box_roi_pool,
            box_head,
            _box_predictor(box_predictor, num_classes),
            Matcher(box_fg_iou_thresh, box_bg_iou_thresh),
            BalancedSampler(box_batch_size_per_image, box_positive_fraction),
            bbox_reg_weights=bbox_reg_weights,
            score_thresh=box_score_thresh,
            nms_thresh=box_nms_thresh,
            detections_per_img=box_detections_per_img,
            mask_convention=mask_convention,
            mask_loss=mask_loss,
            shared_head=shared_head,
            smooth_l1_beta=smooth_l1_beta,
        )
        transform = GeneralizedRCNNTransform(
            min_size,
            max_size,
            image_mean or IMAGENET_MEAN,
            image_std or IMAGENET_STD,
            size_divisible=size_divisible,
            fixed_size=fixed_size,
        )
        super().__init__(backbone, rpn, roi_heads, transform, mask_format=mask_format)


class MaskRCNN(FasterRCNN):
    """Mask R-CNN: Faster R-CNN and a mask branch; the options and their defaults are torchvision's.

    Args:
        backbone, num_classes: see :class:`FasterRCNN`.
        mask_roi_pool: module ``(features, boxes, image_sizes) -> [R, C, M/2, M/2]``.
        mask_head: by default four 3x3 convolutions of 256 channels.
        mask_predictor: ``-> [R, K, M, M]``; ``num_classes`` must then be None.
        options: every other option of :class:`FasterRCNN`, by name.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        *,
        mask_roi_pool: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
        **options: Any,
    ) -> None:
        if (num_classes is None) == (mask_predictor is None):
            got = "both" if mask_predictor is not None else "neither"
            raise ValueError(f"MaskRCNN: expected either num_classes or mask_predictor, got {got}")
        channels = out_channels(backbone)
        super().__init__(backbone, num_classes, **options)
        if mask_roi_pool is None:
            mask_roi_pool = ops.MultiScaleRoIAlign(list(PYRAMID_MAPS), output_size=14, sampling_ratio=2)
        self.roi_heads.mask_roi_pool = mask_roi_pool
        self.roi_heads.mask_head = mask_head or MaskRCNNHeads(channels, (256, 256, 256, 256))
        self.roi_heads.mask_predictor = mask_predictor or MaskRCNNPredictor(256, 256, num_classes or 0)


class KeypointRCNN(FasterRCNN):
    """Keypoint R-CNN: Faster R-CNN and a keypoint branch; the options and their defaults are torchvision's.

    Args:
        backbone, num_classes, min_size: see :class:`FasterRCNN`.
        keypoint_roi_pool: module ``(features, boxes, image_sizes) -> [R, C, M/4, M/4]``.
        keypoint_head: by default eight 3x3 convolutions of 512 channels.
        keypoint_predictor: ``-> [R, K, M, M]``; ``num_keypoints`` must then be None.
        num_keypoints: K; 17, those of a COCO person, where neither is given.
        options: every other option of :class:`FasterRCNN`, by name.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None = None,
        min_size: int | Sequence[int] = KEYPOINT_MIN_SIZES,
        *,
        keypoint_roi_pool: nn.Module | None = None,
        keypoint_head: nn.Module | None = None,
        keypoint_predictor: nn.Module | None = None,
        num_keypoints: int | None = None,
        **options: Any,
    ) -> None:
        if num_keypoints is not None and keypoint_predictor is not None:
            raise ValueError("KeypointRCNN: expected either num_keypoints or keypoint_predictor, got both")
        channels = out_channels(backbone)
        super().__init__(backbone, num_classes, min_size=min_size, **options)
        if keypoint_roi_pool is None:
            keypoint_roi_pool = ops.MultiScaleRoIAlign(list(PYRAMID_MAPS), output_size=14, sampling_ratio=2)
        self.roi_heads.keypoint_roi_pool = keypoint_roi_pool
        self.roi_heads.keypoint_head = keypoint_head or KeypointRCNNHeads(channels, (512,) * 8)
        if keypoint_predictor is None:
            keypoint_predictor = KeypointRCNNPredictor(512, 17 if num_keypoints is None else num_keypoints)
        self.roi_heads.keypoint_predictor = keypoint_predictor


class KeypointMaskRCNN(MaskRCNN, KeypointRCNN):
    """Both branches in one detector: takes the options of :class:`MaskRCNN` and :class:`KeypointRCNN`."""


def _pooled_cells(box_roi_pool: nn.Module) -> int:
    size: Any = getattr(box_roi_pool, "output_size", None)
    if size is None:
        raise ValueError("box_roi_pool: expected an attribute output_size, or box_head with it")
    return size * size if isinstance(size, int) else size[0] * size[1]


def _box_predictor(box_predictor: nn.Module | None, num_classes: int | None) -> nn.Module:
    if (num_classes is None) == (box_predictor is None):
        got = "both" if box_predictor is not None else "neither"
        raise ValueError(f"FasterRCNN: expected either num_classes or box_predictor, got {got}")
    return box_predictor or FastRCNNPredictor(1024, num_classes or 0)
