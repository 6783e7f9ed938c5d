"""Mask R-CNN in PyTorch on the operators of ``maskrcnn_ops``: models, training, evaluation, prediction."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskrcnn.models.builders import (
        build_model,
        cascademaskrcnn_resnet50_fpn,
        cascademaskrcnn_tiny,
        cascadercnn_resnet50_fpn,
        fasterrcnn_resnet18_fpn,
        fasterrcnn_resnet34_fpn,
        fasterrcnn_resnet50_c4,
        fasterrcnn_resnet50_dc5,
        fasterrcnn_resnet50_fpn,
        fasterrcnn_resnet50_fpn_v2,
        fasterrcnn_resnet101_c4,
        fasterrcnn_resnet101_dc5,
        fasterrcnn_resnet101_fpn,
        fasterrcnn_resnext101_32x8d_fpn,
        fastrcnn_resnet50_fpn,
        fastrcnn_tiny,
        keypointmaskrcnn_resnet50_fpn,
        keypointmaskrcnn_tiny,
        keypointrcnn_resnet50_fpn,
        keypointrcnn_resnet101_fpn,
        keypointrcnn_resnext101_32x8d_fpn,
        keypointrcnn_tiny,
        maskrcnn_resnet18_fpn,
        maskrcnn_resnet34_fpn,
        maskrcnn_resnet50_c4,
        maskrcnn_resnet50_c5,
        maskrcnn_resnet50_dc5,
        maskrcnn_resnet50_fpn,
        maskrcnn_resnet50_fpn_v2,
        maskrcnn_resnet101_c4,
        maskrcnn_resnet101_dc5,
        maskrcnn_resnet101_fpn,
        maskrcnn_resnet152_fpn,
        maskrcnn_resnext50_32x4d_fpn,
        maskrcnn_resnext101_32x8d_fpn,
        maskrcnn_resnext101_64x4d_fpn,
        maskrcnn_tiny,
        maskrcnn_tiny_c4,
        maskrcnn_tiny_c5,
        maskrcnn_tiny_dc5,
        msrcnn_resnet50_fpn,
        msrcnn_tiny,
        yolact_resnet50_fpn,
        yolact_tiny,
    )
    from maskrcnn.models.detector import FasterRCNN, KeypointMaskRCNN, KeypointRCNN, MaskRCNN
    from maskrcnn.models.relatives import CascadeMaskRCNN, CascadeRCNN, FastRCNN, MaskScoringRCNN
    from maskrcnn.models.yolact import YOLACT

_DETECTORS = {
    "detector": ("FasterRCNN", "KeypointMaskRCNN", "KeypointRCNN", "MaskRCNN"),
    "relatives": ("CascadeMaskRCNN", "CascadeRCNN", "FastRCNN", "MaskScoringRCNN"),
    "yolact": ("YOLACT",),
}

__all__ = [
    "YOLACT",
    "CascadeMaskRCNN",
    "CascadeRCNN",
    "FastRCNN",
    "FasterRCNN",
    "KeypointMaskRCNN",
    "KeypointRCNN",
    "MaskRCNN",
    "MaskScoringRCNN",
    "build_model",
    "cascademaskrcnn_resnet50_fpn",
    "cascademaskrcnn_tiny",
    "cascadercnn_resnet50_fpn",
    "fasterrcnn_resnet18_fpn",
    "fasterrcnn_resnet34_fpn",
    "fasterrcnn_resnet50_c4",
    "fasterrcnn_resnet50_dc5",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet101_c4",
    "fasterrcnn_resnet101_dc5",
    "fasterrcnn_resnet101_fpn",
    "fasterrcnn_resnext101_32x8d_fpn",
    "fastrcnn_resnet50_fpn",
    "fastrcnn_tiny",
    "keypointmaskrcnn_resnet50_fpn",
    "keypointmaskrcnn_tiny",
    "keypointrcnn_resnet50_fpn",
    "keypointrcnn_resnet101_fpn",
    "keypointrcnn_resnext101_32x8d_fpn",
    "keypointrcnn_tiny",
    "maskrcnn_resnet18_fpn",
    "maskrcnn_resnet34_fpn",
    "maskrcnn_resnet50_c4",
    "maskrcnn_resnet50_c5",
    "maskrcnn_resnet50_dc5",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet101_c4",
    "maskrcnn_resnet101_dc5",
    "maskrcnn_resnet101_fpn",
    "maskrcnn_resnet152_fpn",
    "maskrcnn_resnext50_32x4d_fpn",
    "maskrcnn_resnext101_32x8d_fpn",
    "maskrcnn_resnext101_64x4d_fpn",
    "maskrcnn_tiny",
    "maskrcnn_tiny_c4",
    "maskrcnn_tiny_c5",
    "maskrcnn_tiny_dc5",
    "msrcnn_resnet50_fpn",
    "msrcnn_tiny",
    "yolact_resnet50_fpn",
    "yolact_tiny",
]


def __getattr__(name: str) -> Any:
    # Names load on first use: `maskrcnn --help` and data workers need no model.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((module for module, names in _DETECTORS.items() if name in names), "builders")
    return getattr(importlib.import_module(f"maskrcnn.models.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
