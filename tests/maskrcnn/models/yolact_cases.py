"""What the tests of YOLACT share: a small detector, and its losses."""

from __future__ import annotations

from typing import Any

import torch

import maskrcnn

LOSSES = ["loss_classifier", "loss_box_reg", "loss_mask", "loss_semantic"]
CLASSES = 4


def model(**options: Any) -> maskrcnn.YOLACT:
    torch.manual_seed(0)
    small: dict[str, Any] = {"min_size": 64, "max_size": 96, "box_detections_per_img": 20}
    return maskrcnn.yolact_tiny(**({"num_classes": CLASSES} | small | options))
