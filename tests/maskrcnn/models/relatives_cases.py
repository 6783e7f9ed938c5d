"""What the tests of Fast R-CNN, Mask Scoring R-CNN and Cascade R-CNN share: small detectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import maskrcnn

SMALL = {"min_size": 64, "max_size": 96, "box_detections_per_img": 20, "box_batch_size_per_image": 64}
SMALL_RPN = {"rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 30}
LOSSES = {
    "fastrcnn_tiny": {"classifier", "box_reg"},
    "msrcnn_tiny": {"classifier", "box_reg", "mask", "mask_iou", "objectness", "rpn_box_reg"},
    "cascademaskrcnn_tiny": {"mask", "objectness", "rpn_box_reg"}
    | {f"{name}_{stage}" for name in ("classifier", "box_reg") for stage in (1, 2, 3)},
}


def build(name: str, **options: Any) -> maskrcnn.FasterRCNN:
    torch.manual_seed(0)
    rpn = {} if name.startswith("fast") else SMALL_RPN
    return maskrcnn.build_model(name, **({"num_classes": 4} | SMALL | rpn | options))


def given(model: maskrcnn.FasterRCNN, images: list[Tensor]) -> dict[str, Any]:
    """Proposals for a model that takes them: a grid of boxes, some of them across the border."""
    if not model.takes_proposals:
        return {}
    corner = torch.cartesian_prod(torch.arange(0, 70, 12.0), torch.arange(0, 70, 12.0))
    return {"proposals": [torch.cat([corner, corner + 30], dim=1) for _ in images]}
