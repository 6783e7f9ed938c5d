"""YOLACT: a one-stage detector with masks (Bolya, Zhou, Xiao, Lee: Real-time Instance Segmentation, ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.geometry import resize_boxes
from maskrcnn.models.anchors import DEFAULT_RATIOS, AnchorGenerator, anchors_at
from maskrcnn.models.base import BaseDetector, out_channels
from maskrcnn.models.detections import MIN_SIDE
from maskrcnn.models.images import Detection, ImageList, Target
from maskrcnn.models.matcher import Matcher
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.prototypes import ProtoNet, assemble, region_masks
from maskrcnn.models.rpn import AnchorGrids
from maskrcnn.models.transform import IMAGENET_MEAN, IMAGENET_STD, GeneralizedRCNNTransform
from maskrcnn.models.yolact_head import YOLACTHead
from maskrcnn.models.yolact_losses import BOX_WEIGHTS, YOLACTLosses

SIZES = (24, 48, 96, 192, 384)  # pixels, of the anchors of the levels P3 to P7
SIDE = 550  # pixels, of a resized image


class YOLACT(BaseDetector):
    """Boxes, classes and mask coefficients from every anchor at once; masks from the prototypes of the image.

    Called like :class:`~maskrcnn.models.detector.GeneralizedRCNN`, with the same images, targets (which need
    ``masks``) and results. The losses are ``loss_classifier``, ``loss_box_reg``, ``loss_mask`` and
    ``loss_semantic`` (which class covers a cell of the finest level: asked in training only), each multiplied by its
    weight; see :class:`~maskrcnn.models.yolact_losses.YOLACTLosses`.

    A detection's mask is assembled at the prototypes' resolution, half the stride of the finest level, and
    sampled at M x M points of its box. So all mask formats are those of Mask R-CNN, and no mask has the size
    of the image before it is asked for.

    Args:
        backbone: ``[N, 3, H, W] -> {name: [N, C, H_i, W_i]}``, finest first, each level half the one before
            (rounded up), with an attribute ``out_channels``.
        num_classes: K with background.
        min_size, max_size: see :class:`~maskrcnn.models.transform.GeneralizedRCNNTransform`; given one of
            them, images keep their proportions.
        image_mean, image_std, size_divisible: see there, too.
        fixed_size: (width, height) of every resized image, in pixels. By default the paper's square of 550,
            unless ``min_size`` or ``max_size`` is given; the batch is then padded to 576.
        rpn_anchor_generator: anchor shapes, of one number on every level, around the centres of the cells.
            (Named as in the other detectors.) By default the paper's: sizes 24 to 384, ratios 0.5, 1, 2.
        num_prototypes: k.
        proto_channels: of the convolutions that make the prototypes; by default the backbone's.
        conv_depth: convolutions of the head that classes, boxes and coefficients share.
        head_norm: normalisation of those and of the prototypes' 3x3 convolutions, such as ``"group"``; None
            (the paper's): none.
        fg_iou_thresh, bg_iou_thresh: IoU from which an anchor is positive (each object's best ones are
            anyhow), under which it is negative.
        masks_per_image: the most positives of an image whose masks are assembled in training; of more a
            random choice stands for all.
        loss_weights: of classes, boxes, masks and the semantic loss.
        box_score_thresh: detections score above it.
        box_nms_thresh: IoU of Fast NMS, within a class.
        box_pre_nms_top_n: the most candidates (anchor, class) of an image, those of highest score.
        box_detections_per_img: the most detections of an image.
        mask_side: M.
        mask_format: see :class:`~maskrcnn.models.detector.GeneralizedRCNN`.

    Raises:
        ValueError: a backbone without ``out_channels``, levels with unequal numbers of anchors, options of
            the losses that do not fit.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        min_size: int | Sequence[int] | None = None,
        max_size: int | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        *,
        size_divisible: int = 32,
        fixed_size: tuple[int, int] | None = None,
        rpn_anchor_generator: AnchorGenerator | None = None,
        num_prototypes: int = 32,
        proto_channels: int | None = None,
        conv_depth: int = 1,
        head_norm: str | None = None,
        fg_iou_thresh: float = 0.5,
        bg_iou_thresh: float = 0.4,
        masks_per_image: int = 100,
        loss_weights: Sequence[float] = (1.0, 1.5, 6.125, 1.0),
        box_score_thresh: float = 0.05,
        box_nms_thresh: float = 0.5,
        box_pre_nms_top_n: int = 1000,
        box_detections_per_img: int = 100,
        mask_side: int = 112,
        mask_format: str = "full",
    ) -> None:
        if fixed_size is None and min_size is None and max_size is None:
            fixed_size = (SIDE, SIDE)
        transform = GeneralizedRCNNTransform(
            SIDE if min_size is None else min_size,
            1333 if max_size is None else max_size,
            image_mean or IMAGENET_MEAN,
            image_std or IMAGENET_STD,
            size_divisible=size_divisible,
            fixed_size=fixed_size,
        )
        super().__init__(backbone, transform, mask_format=mask_format)
        self.anchor_generator = rpn_anchor_generator or AnchorGenerator(SIZES, DEFAULT_RATIOS)
        kinds = set(self.anchor_generator.num_anchors_per_location())
        if len(kinds) != 1:
            raise ValueError(
                f"rpn_anchor_generator: expected one number of anchors on all levels, got {sorted(kinds)}"
            )
        channels = out_channels(backbone)
        norm = None if head_norm is None else norm_factory(head_norm)
        self.head = YOLACTHead(channels, kinds.pop(), num_classes, num_prototypes, conv_depth, norm)
        self.proto_net = ProtoNet(channels, proto_channels or channels, num_prototypes, norm)
        self.semantic = nn.Conv2d(channels, num_classes - 1, 1)
        matcher = Matcher(fg_iou_thresh, bg_iou_thresh, allow_low_quality_matches=True)
        self.losses = YOLACTLosses(matcher, masks_per_image, tuple(loss_weights))
        self.score_thresh = box_score_thresh
        self.nms_thresh = box_nms_thresh
        self.pre_nms_top_n = box_pre_nms_top_n
        self.detections_per_img = box_detections_per_img
        self.mask_side = mask_side

    @property
    def num_classes(self) -> int:
        """K with background."""
        return self.head.num_classes

    @property
    def target_keys(self) -> list[str]:
        """What a training target needs beside boxes and labels."""
        return ["masks"]

    def predict(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None
    ) -> tuple[list[Detection], dict[str, Tensor]]:
        """See :meth:`~maskrcnn.models.base.BaseDetector.predict`."""
        maps = list(features.values())
        batch = (images.tensors.shape[-2], images.tensors.shape[-1])
        anchors = self._anchors(maps, batch)
        outputs, prototypes = self.head(maps), self.proto_net(maps[0])
        if targets is None:
            each = zip(images.image_sizes, *outputs, prototypes, strict=True)
            return [self._detect(anchors, batch, *image) for image in each], {}
        return [], self.losses(anchors, images, targets, outputs, prototypes, self.semantic(maps[0]))

    def _anchors(self, maps: list[Tensor], size: tuple[int, int]) -> AnchorGrids:
        """Cell anchors around the middle of the first cell, grid sizes and strides of all levels."""
        grids = [(level.shape[-2], level.shape[-1]) for level in maps]
        finest = (size[0] // grids[0][0], size[1] // grids[0][1])
        strides = [(finest[0] << level, finest[1] << level) for level in range(len(maps))]
        cells = self.anchor_generator.cells(len(maps), maps[0].device)
        centred = [c + c.new_tensor([x, y, x, y]) / 2 for c, (y, x) in zip(cells, strides, strict=True)]
        return centred, grids, strides

    # ---- evaluation --------------------------------------------------------------------------------------

    def _detect(
        self,
        anchors: AnchorGrids,
        batch: tuple[int, int],
        image_size: tuple[int, int],
        logits: Tensor,
        deltas: Tensor,
        coefficients: Tensor,
        prototypes: Tensor,
    ) -> Detection:
        """One image's detections, best first; ``logits [B, K]`` and so on of this image."""
        scores = logits.float().softmax(dim=1)[:, 1:]
        anchor, label = torch.where(scores > self.score_thresh)
        score, best = scores[anchor, label].topk(min(self.pre_nms_top_n, len(anchor)))
        anchor, label = anchor[best], label[best] + 1
        boxes = ops.decode_boxes(deltas[anchor].float(), anchors_at(anchor, *anchors), BOX_WEIGHTS)
        boxes = ops.clip_boxes_to_image(boxes, image_size)
        large = ops.remove_small_boxes(boxes, MIN_SIDE)
        boxes, score, label, anchor = boxes[large], score[large], label[large], anchor[large]
        keep = ops.fast_nms(boxes, score, self.nms_thresh, idxs=label, max_output=self.detections_per_img)
        boxes = boxes[keep]
        found = assemble(prototypes.float(), coefficients[anchor[keep]].float())
        cells = resize_boxes(boxes, batch, (found.shape[1], found.shape[2]))
        masks = region_masks(found, cells, self.mask_side)
        return {"boxes": boxes, "labels": label[keep], "scores": score[keep], "masks": masks}
