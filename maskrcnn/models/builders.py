"""Builders of whole detectors by name, each a short composition of the same parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from maskrcnn.models.base import BaseDetector
from maskrcnn.models.detector import FasterRCNN, KeypointMaskRCNN, KeypointRCNN, MaskRCNN
from maskrcnn.models.preset import Preset
from maskrcnn.models.recipes import AnchorRecipe, BoxRecipe, KeypointRecipe, MaskIoURecipe, MaskRecipe
from maskrcnn.models.relatives import CascadeMaskRCNN, CascadeRCNN, FastRCNN, MaskScoringRCNN
from maskrcnn.models.trunks import C4, C5, FPN, CoarseFPN
from maskrcnn.models.yolact import SIZES, YOLACT

MASK, KEYPOINT = MaskRecipe(), KeypointRecipe()

maskrcnn_resnet18_fpn = Preset(MaskRCNN, "resnet18", branches=(MASK,))
maskrcnn_resnet34_fpn = Preset(MaskRCNN, "resnet34", branches=(MASK,))
maskrcnn_resnet50_fpn = Preset(MaskRCNN, "resnet50", branches=(MASK,))
maskrcnn_resnet101_fpn = Preset(MaskRCNN, "resnet101", branches=(MASK,))
maskrcnn_resnet152_fpn = Preset(MaskRCNN, "resnet152", branches=(MASK,))
maskrcnn_resnext50_32x4d_fpn = Preset(MaskRCNN, "resnext50_32x4d", branches=(MASK,))
maskrcnn_resnext101_32x8d_fpn = Preset(MaskRCNN, "resnext101_32x8d", branches=(MASK,))
maskrcnn_resnext101_64x4d_fpn = Preset(MaskRCNN, "resnext101_64x4d", branches=(MASK,))
fasterrcnn_resnet18_fpn = Preset(FasterRCNN, "resnet18")
fasterrcnn_resnet34_fpn = Preset(FasterRCNN, "resnet34")
fasterrcnn_resnet50_fpn = Preset(FasterRCNN, "resnet50")
fasterrcnn_resnet101_fpn = Preset(FasterRCNN, "resnet101")
fasterrcnn_resnext101_32x8d_fpn = Preset(FasterRCNN, "resnext101_32x8d")
keypointrcnn_resnet50_fpn = Preset(KeypointRCNN, "resnet50", branches=(KEYPOINT,), num_classes=2)
keypointrcnn_resnet101_fpn = replace(keypointrcnn_resnet50_fpn, body="resnet101")
keypointrcnn_resnext101_32x8d_fpn = replace(keypointrcnn_resnet50_fpn, body="resnext101_32x8d")
keypointmaskrcnn_resnet50_fpn = Preset(KeypointMaskRCNN, "resnet50", branches=(MASK, KEYPOINT), num_classes=2)

# torchvision's second recipe: two RPN convolutions, and normalised heads.
V2_PYRAMID = FPN(fpn_norm="batch")
V2_BOXES = BoxRecipe(rpn_convolutions=2, box_head="4conv1fc", head_norm="batch")
fasterrcnn_resnet50_fpn_v2 = Preset(FasterRCNN, "resnet50", V2_PYRAMID, V2_BOXES, pretrained_norm="batch")
maskrcnn_resnet50_fpn_v2 = Preset(
    MaskRCNN, "resnet50", V2_PYRAMID, V2_BOXES, (MASK,), pretrained_norm="batch"
)

# Relatives. An FPN's fifth level serves the RPN alone.
GIVEN_NECK, GIVEN_BOXES = FPN(extra_level=False), BoxRecipe(anchor_sizes=None)
CASCADE_BOXES = BoxRecipe(class_agnostic_boxes=True)
fastrcnn_resnet50_fpn = Preset(FastRCNN, "resnet50", GIVEN_NECK, GIVEN_BOXES)
msrcnn_resnet50_fpn = Preset(
    MaskScoringRCNN,
    "resnet50",
    branches=(MASK, MaskIoURecipe()),
    options={"mask_convention": "continuous"},  # a judge must see the mask where it will be pasted
)
cascadercnn_resnet50_fpn = Preset(CascadeRCNN, "resnet50", boxes=CASCADE_BOXES)
cascademaskrcnn_resnet50_fpn = Preset(CascadeMaskRCNN, "resnet50", boxes=CASCADE_BOXES, branches=(MASK,))

# One map: its numbers of regions are the paper's for C4.
C4_BOXES, C4_MASK = BoxRecipe(box_head="average"), MaskRecipe("none")
ONE_MAP_OPTIONS = {
    "rpn_pre_nms_top_n_train": 12000,
    "rpn_pre_nms_top_n_test": 6000,
    "rpn_post_nms_top_n_test": 300,
}
C4_OPTIONS = ONE_MAP_OPTIONS | {"box_batch_size_per_image": 64}
fasterrcnn_resnet50_c4 = Preset(FasterRCNN, "resnet50", C4(), C4_BOXES, options=C4_OPTIONS)
fasterrcnn_resnet101_c4 = replace(fasterrcnn_resnet50_c4, body="resnet101")
maskrcnn_resnet50_c4 = Preset(MaskRCNN, "resnet50", C4(), C4_BOXES, (C4_MASK,), options=C4_OPTIONS)
maskrcnn_resnet101_c4 = replace(maskrcnn_resnet50_c4, body="resnet101")
maskrcnn_resnet50_c5 = Preset(MaskRCNN, "resnet50", C5(), branches=(MASK,), options=ONE_MAP_OPTIONS)
maskrcnn_resnet50_dc5 = replace(maskrcnn_resnet50_c5, neck=C5(dilated=True))
maskrcnn_resnet101_dc5 = replace(maskrcnn_resnet50_dc5, body="resnet101")
fasterrcnn_resnet50_dc5 = Preset(FasterRCNN, "resnet50", C5(dilated=True), options=ONE_MAP_OPTIONS)
fasterrcnn_resnet101_dc5 = replace(fasterrcnn_resnet50_dc5, body="resnet101")

yolact_resnet50_fpn = Preset(YOLACT, "resnet50", CoarseFPN(), AnchorRecipe(SIZES))

# Detectors that train on a CPU: ResNet-18, 64 channels, small heads, anchors of 8 to 128 pixels.
TINY_PYRAMID = FPN(64)
TINY_BOXES = BoxRecipe(anchor_sizes=(8, 16, 32, 64, 128), box_channels=256)
TINY_MASK, TINY_KEYPOINT = MaskRecipe(mask_channels=(64,) * 2), KeypointRecipe(keypoint_channels=(64,) * 4)
TINY_GIVEN = {
    "min_size": 256,
    "max_size": 400,
    "box_batch_size_per_image": 128,
    "box_detections_per_img": 300,
    "mask_convention": "continuous",
}
TINY_OPTIONS = TINY_GIVEN | {
    "rpn_pre_nms_top_n_train": 1000,
    "rpn_pre_nms_top_n_test": 1000,
    "rpn_post_nms_top_n_train": 500,
    "rpn_post_nms_top_n_test": 500,
}
maskrcnn_tiny = Preset(MaskRCNN, "resnet18", TINY_PYRAMID, TINY_BOXES, (TINY_MASK,), options=TINY_OPTIONS)
keypointrcnn_tiny = Preset(
    KeypointRCNN, "resnet18", TINY_PYRAMID, TINY_BOXES, (TINY_KEYPOINT,), num_classes=2, options=TINY_OPTIONS
)
keypointmaskrcnn_tiny = Preset(
    KeypointMaskRCNN,
    "resnet18",
    TINY_PYRAMID,
    TINY_BOXES,
    (TINY_MASK, TINY_KEYPOINT),
    num_classes=2,
    options=TINY_OPTIONS,
)
maskrcnn_tiny_c4 = Preset(  # the whole width of ResNet-18 on each region takes ten times the rest
    MaskRCNN,
    "resnet18",
    C4(res5_width=64),
    TINY_BOXES,
    (replace(TINY_MASK, mask_head="none"),),
    options=TINY_OPTIONS,
)
maskrcnn_tiny_c5 = Preset(MaskRCNN, "resnet18", C5(), TINY_BOXES, (TINY_MASK,), options=TINY_OPTIONS)
maskrcnn_tiny_dc5 = replace(maskrcnn_tiny_c5, neck=C5(dilated=True))
# Its finest level has stride 4, and so its prototypes stride 2. Anchors of three times the stride are the paper's
# proportion; from random weights the norm of the head makes the short trainings.
yolact_tiny = Preset(
    YOLACT,
    "resnet18",
    TINY_PYRAMID,
    AnchorRecipe((12, 24, 48, 96, 192)),
    options={
        "min_size": 256,
        "max_size": 400,
        "box_detections_per_img": 300,
        "mask_side": 56,
        "head_norm": "group",
    },
)
fastrcnn_tiny = Preset(
    FastRCNN,
    "resnet18",
    replace(TINY_PYRAMID, extra_level=False),
    replace(TINY_BOXES, anchor_sizes=None),
    options=TINY_GIVEN,
)
msrcnn_tiny = replace(
    maskrcnn_tiny, detector=MaskScoringRCNN, branches=(TINY_MASK, MaskIoURecipe((64,) * 4, 256))
)
cascademaskrcnn_tiny = replace(
    maskrcnn_tiny, detector=CascadeMaskRCNN, boxes=replace(TINY_BOXES, class_agnostic_boxes=True)
)


BUILDERS: dict[str, Preset[Any]] = {
    name: value for name, value in list(globals().items()) if isinstance(value, Preset)
}


def without_weights(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A builder's arguments for the same architecture without the weight files that it once started from."""
    files = ("weights", "weights_backbone")
    started_from = {key for key in files if kwargs.get(key) is not None}
    kept = {key: value for key, value in kwargs.items() if key not in started_from}
    if not started_from or name not in BUILDERS:
        return kept
    kept.pop("trainable_backbone_layers", None)  # has no effect on, and no place in, a model without weights
    norm = BUILDERS[name].norm(
        kept.get("norm"), kept.get("norm_eps"), *(key in started_from for key in files)
    )
    return kept | dict(zip(("norm", "norm_eps"), norm, strict=True))


def build_model(name: str, **kwargs: Any) -> BaseDetector:
    """Call the builder of this name.

    Raises:
        ValueError: no such builder; the message lists them.
    """
    if name not in BUILDERS:
        raise ValueError(f"model: expected one of {', '.join(BUILDERS)}, got {name!r}")
    return BUILDERS[name](**kwargs)
