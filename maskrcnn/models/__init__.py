"""Backbones, heads and the assembled detectors; everything a user composes a model from."""

from maskrcnn.models.anchors import AnchorGenerator
from maskrcnn.models.backbones import (
    BackboneWithFPN,
    BackboneWithOneMap,
    CoarsePyramid,
    FeaturePyramidNetwork,
)
from maskrcnn.models.base import BaseDetector
from maskrcnn.models.builders import BUILDERS, build_model
from maskrcnn.models.detector import (
    FasterRCNN,
    GeneralizedRCNN,
    KeypointMaskRCNN,
    KeypointRCNN,
    MaskRCNN,
)
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
from maskrcnn.models.norm import FrozenBatchNorm2d
from maskrcnn.models.preset import Preset, resnet_fpn_backbone
from maskrcnn.models.relatives import CascadeMaskRCNN, CascadeRCNN, FastRCNN, MaskScoringRCNN
from maskrcnn.models.resnet import Res5Head, ResNet
from maskrcnn.models.roi_layers import ROI_LAYERS
from maskrcnn.models.rpn import RPNHead
from maskrcnn.models.yolact import YOLACT

__all__ = [
    "BUILDERS",
    "ROI_LAYERS",
    "YOLACT",
    "AnchorGenerator",
    "BackboneWithFPN",
    "BackboneWithOneMap",
    "BaseDetector",
    "CascadeMaskRCNN",
    "CascadeRCNN",
    "CoarsePyramid",
    "FastRCNN",
    "FastRCNNConvFCHead",
    "FastRCNNPredictor",
    "FasterRCNN",
    "FeaturePyramidNetwork",
    "FrozenBatchNorm2d",
    "GeneralizedRCNN",
    "GlobalAveragePool",
    "KeypointMaskRCNN",
    "KeypointRCNN",
    "KeypointRCNNHeads",
    "KeypointRCNNPredictor",
    "MaskIoUHead",
    "MaskMLPPredictor",
    "MaskRCNN",
    "MaskRCNNHeads",
    "MaskRCNNPredictor",
    "MaskScoringRCNN",
    "Preset",
    "RPNHead",
    "Res5Head",
    "ResNet",
    "TwoMLPHead",
    "build_model",
    "resnet_fpn_backbone",
]
