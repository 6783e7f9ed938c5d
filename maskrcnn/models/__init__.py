"""Backbones, heads and the assembled detectors; everything a user composes a model from."""

from maskrcnn.models.anchors import AnchorGenerator
from maskrcnn.models.base import BaseDetector
from maskrcnn.models.builders import BUILDERS, Preset, build_model, resnet_fpn_backbone
from maskrcnn.models.detector import (
    FasterRCNN,
    GeneralizedRCNN,
    KeypointMaskRCNN,
    KeypointRCNN,
    MaskRCNN,
)
from maskrcnn.models.fpn import BackboneWithFPN, CoarsePyramid, FeaturePyramidNetwork
from maskrcnn.models.heads import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    KeypointRCNNHeads,
    KeypointRCNNPredictor,
    MaskRCNNHeads,
    MaskRCNNPredictor,
    TwoMLPHead,
)
from maskrcnn.models.norm import FrozenBatchNorm2d
from maskrcnn.models.resnet import ResNet
from maskrcnn.models.rpn import RPNHead
from maskrcnn.models.yolact import YOLACT

__all__ = [
    "BUILDERS",
    "YOLACT",
    "AnchorGenerator",
    "BackboneWithFPN",
    "BaseDetector",
    "CoarsePyramid",
    "FastRCNNConvFCHead",
    "FastRCNNPredictor",
    "FasterRCNN",
    "FeaturePyramidNetwork",
    "FrozenBatchNorm2d",
    "GeneralizedRCNN",
    "KeypointMaskRCNN",
    "KeypointRCNN",
    "KeypointRCNNHeads",
    "KeypointRCNNPredictor",
    "MaskRCNN",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "Preset",
    "RPNHead",
    "ResNet",
    "TwoMLPHead",
    "build_model",
    "resnet_fpn_backbone",
]
