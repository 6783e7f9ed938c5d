"""The heads of a preset by their names and numbers, all JSON values, and how they are built on a trunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from maskrcnn.models.anchors import AnchorGenerator
from maskrcnn.models.heads import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    GlobalAveragePool,
    KeypointRCNNHeads,
    KeypointRCNNPredictor,
    MaskIoUHead,
    MaskMLPPredictor,
    MaskRCNNHeads,
    MaskRCNNPredictor,
    TwoMLPHead,
)
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.rpn import RPNHead
from maskrcnn.models.trunks import Trunk

BOX_SIDE, MASK_SIDE, KEYPOINT_SIDE = 7, 14, 14  # cells of what the heads get
Parts = dict[str, Any]  # arguments of a detector
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class AnchorRecipe:
    """The anchors of a detector that builds its own heads.

    Args:
        anchor_sizes: pixels, one for each level.
    """

    anchor_sizes: Sequence[float]

    def parts(self, trunk: Trunk, num_classes: int, anchors: AnchorGenerator | None = None) -> Parts:
        """Of a detector; ``anchors`` in place of ``anchor_sizes``."""
        generator = anchors or trunk.anchor_generator(self.anchor_sizes)
        return {"num_classes": num_classes, "rpn_anchor_generator": generator}


@dataclass(frozen=True)
class BoxRecipe:
    """The RPN's head, and the box head.

    Args:
        anchor_sizes: pixels; one for each level of a pyramid, or all on the one map. None: there is no RPN.
        roi_layer: a name of :data:`maskrcnn.models.roi_layers.ROI_LAYERS`, for all heads.
        rpn_convolutions: before the RPN's outputs.
        box_head: ``"2fc"``, ``"4conv1fc"`` or ``"average"`` (after a shared head).
        box_channels: of the fully connected layers.
        head_norm: normalisation of the convolutions of the box and mask heads; None: none.
        class_agnostic_boxes: one box for all classes.
    """

    anchor_sizes: Sequence[float] | None = (32, 64, 128, 256, 512)
    roi_layer: str = "align"
    rpn_convolutions: int = 1
    box_head: str = "2fc"
    box_channels: int = 1024
    head_norm: str | None = None
    class_agnostic_boxes: bool = False

    def parts(self, trunk: Trunk, num_classes: int, anchors: AnchorGenerator | None = None) -> Parts:
        """Of a detector; ``anchors`` in place of ``anchor_sizes``."""
        parts: Parts = {}
        if anchors is None and self.anchor_sizes is not None:
            anchors = trunk.anchor_generator(self.anchor_sizes)
        if anchors is not None:
            shapes = anchors.num_anchors_per_location()[0]
            head = RPNHead(trunk.backbone.out_channels, shapes, self.rpn_convolutions)
            parts = {"rpn_anchor_generator": anchors, "rpn_head": head}
        box_head, channels = chosen(BOX_HEADS, "box_head", self.box_head)(trunk.channels, self)
        return parts | {
            "box_roi_pool": trunk.roi_pool(self.roi_layer, BOX_SIDE),
            "box_head": box_head,
            "box_predictor": FastRCNNPredictor(channels, num_classes, self.class_agnostic_boxes),
        }


def _two_fc(channels: int, recipe: BoxRecipe) -> tuple[nn.Module, int]:
    return TwoMLPHead(channels * BOX_SIDE * BOX_SIDE, recipe.box_channels), recipe.box_channels


def _four_conv_one_fc(channels: int, recipe: BoxRecipe) -> tuple[nn.Module, int]:
    norm = None if recipe.head_norm is None else norm_factory(recipe.head_norm)
    shape = (channels, BOX_SIDE, BOX_SIDE)
    return FastRCNNConvFCHead(shape, (channels,) * 4, (recipe.box_channels,), norm), recipe.box_channels


def _average(channels: int, _recipe: BoxRecipe) -> tuple[nn.Module, int]:
    return GlobalAveragePool(), channels


BOX_HEADS: dict[str, Callable[[int, BoxRecipe], tuple[nn.Module, int]]] = {
    "2fc": _two_fc,
    "4conv1fc": _four_conv_one_fc,
    "average": _average,
}


@dataclass(frozen=True)
class MaskRecipe:
    """The mask head.

    Args:
        mask_head: ``"fcn"``; ``"mlp2"`` or ``"mlp3"``, of as many hidden fully connected layers; ``"none"``: the
            predictor alone (after a shared head).
        mask_channels: of each of the FCN's convolutions.
        mlp_channels: of those layers.
        class_agnostic_masks: one mask for all classes.
    """

    mask_head: str = "fcn"
    mask_channels: Sequence[int] = (256,) * 4
    mlp_channels: int = 1024
    class_agnostic_masks: bool = False

    def parts(self, trunk: Trunk, num_classes: int, boxes: BoxRecipe) -> Parts:
        maps = 1 if self.class_agnostic_masks else num_classes
        make = chosen(MASK_HEADS, "mask_head", self.mask_head)
        side = _mask_side(trunk)
        head, predictor = make(trunk.channels, side, maps, self, boxes.head_norm)
        pool = trunk.roi_pool(boxes.roi_layer, side)
        return {"mask_roi_pool": pool, "mask_head": head, "mask_predictor": predictor}


def _mask_side(trunk: Trunk) -> int:
    return BOX_SIDE if trunk.shared_head is not None else MASK_SIDE  # what the heads share has one size


def _fcn(
    channels: int, _side: int, maps: int, recipe: MaskRecipe, head_norm: str | None
) -> tuple[nn.Module, nn.Module]:
    norm = None if head_norm is None else norm_factory(head_norm)
    head = MaskRCNNHeads(channels, recipe.mask_channels, norm=norm)
    return head, MaskRCNNPredictor(recipe.mask_channels[-1], recipe.mask_channels[-1], maps)


def _no_head(
    channels: int, _side: int, maps: int, recipe: MaskRecipe, _head_norm: str | None
) -> tuple[nn.Module, nn.Module]:
    return nn.Identity(), MaskRCNNPredictor(channels, recipe.mask_channels[-1], maps)


def _mlp2(
    channels: int, side: int, maps: int, recipe: MaskRecipe, _head_norm: str | None
) -> tuple[nn.Module, nn.Module]:
    head = TwoMLPHead(channels * side * side, recipe.mlp_channels)
    return head, MaskMLPPredictor(recipe.mlp_channels, maps, 2 * side)


def _mlp3(
    channels: int, side: int, maps: int, recipe: MaskRecipe, head_norm: str | None
) -> tuple[nn.Module, nn.Module]:
    two, predictor = _mlp2(channels, side, maps, recipe, head_norm)
    third = nn.Linear(recipe.mlp_channels, recipe.mlp_channels)
    return nn.Sequential(two, third, nn.ReLU(inplace=True)), predictor


MASK_HEADS: dict[str, Callable[[int, int, int, MaskRecipe, str | None], tuple[nn.Module, nn.Module]]] = {
    "fcn": _fcn,
    "mlp2": _mlp2,
    "mlp3": _mlp3,
    "none": _no_head,
}


@dataclass(frozen=True)
class MaskIoURecipe:
    """The head that judges masks.

    Args:
        mask_iou_layers: channels of each of its convolutions.
        mask_iou_channels: of its fully connected layers.
    """

    mask_iou_layers: Sequence[int] = (256,) * 4
    mask_iou_channels: int = 1024

    def parts(self, trunk: Trunk, num_classes: int, _boxes: BoxRecipe) -> Parts:
        head = MaskIoUHead(
            trunk.channels, _mask_side(trunk), num_classes, self.mask_iou_layers, self.mask_iou_channels
        )
        return {"mask_iou_head": head}


@dataclass(frozen=True)
class KeypointRecipe:
    """The keypoint head.

    Args:
        num_keypoints: of each object.
        keypoint_channels: of each of its convolutions.
    """

    num_keypoints: int = 17
    keypoint_channels: Sequence[int] = (512,) * 8

    def parts(self, trunk: Trunk, _num_classes: int, boxes: BoxRecipe) -> Parts:
        return {
            "keypoint_roi_pool": trunk.roi_pool(boxes.roi_layer, KEYPOINT_SIDE),
            "keypoint_head": KeypointRCNNHeads(trunk.channels, self.keypoint_channels),
            "keypoint_predictor": KeypointRCNNPredictor(self.keypoint_channels[-1], self.num_keypoints),
        }


def chosen(kinds: Mapping[str, Kind], option: str, name: str) -> Kind:
    """The entry of this name; ``ValueError`` lists the names there are."""
    if name not in kinds:
        raise ValueError(f"{option}: expected one of {', '.join(kinds)}, got {name!r}")
    return kinds[name]
