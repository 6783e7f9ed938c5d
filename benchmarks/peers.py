"""torchvision's detectors with the parts and options of ours. Import torchvision only when called."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import maskrcnn_ops


def version() -> str | None:
    """torchvision's; None where it cannot be imported."""
    try:
        import torchvision
    except ImportError:
        return None
    return str(torchvision.__version__)


@contextmanager
def our_operators(ops: Any = maskrcnn_ops) -> Iterator[None]:
    """Inside, torchvision's detectors are built and run with ``ops`` in the place of ``torchvision.ops``."""
    from torchvision.models.detection import faster_rcnn, mask_rcnn, roi_heads, rpn

    with ExitStack() as stack:
        for module in (rpn, roi_heads):
            stack.enter_context(mock.patch.object(module, "box_ops", ops))
        for module in (faster_rcnn, mask_rcnn):
            stack.enter_context(mock.patch.object(module, "MultiScaleRoIAlign", ops.MultiScaleRoIAlign))
        stack.enter_context(mock.patch.object(roi_heads, "roi_align", ops.roi_align))
        yield


class Trainable(nn.Module):
    """torchvision's detector as this package's training and evaluation call a detector: pictures may be uint8, masks
    encoded, and the masks of detections are cut at a half."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: list[Tensor], targets: list[dict[str, Any]] | None = None) -> Any:
        images = [image.float().div(255) if image.dtype == torch.uint8 else image for image in images]
        if targets is not None:
            return self.model(images, [self._target(each) for each in targets])
        detections = self.model(images)
        return [found | {"masks": found["masks"][:, 0] > 0.5} for found in detections]

    def _target(self, target: dict[str, Any]) -> dict[str, Tensor]:
        boxes = target["boxes"]
        masks = target["masks"].decode().to(boxes.device, torch.uint8)
        return {"boxes": boxes, "labels": target["labels"], "masks": masks}


def maskrcnn_tiny(num_classes: int, **options: Any) -> nn.Module:
    """The architecture of ``maskrcnn.maskrcnn_tiny``."""
    from torchvision.models import resnet18
    from torchvision.models.detection import MaskRCNN, anchor_utils, backbone_utils, faster_rcnn, mask_rcnn
    from torchvision.ops import MultiScaleRoIAlign

    names = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = backbone_utils.BackboneWithFPN(resnet18(weights=None), names, [64, 128, 256, 512], 64)
    settings: dict[str, Any] = {
        "min_size": 256,
        "max_size": 400,
        "rpn_anchor_generator": anchor_utils.AnchorGenerator(
            ((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5
        ),
        "rpn_pre_nms_top_n_train": 1000,
        "rpn_post_nms_top_n_train": 500,
        "rpn_pre_nms_top_n_test": 1000,
        "rpn_post_nms_top_n_test": 500,
        "box_roi_pool": MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        "box_head": faster_rcnn.TwoMLPHead(64 * 49, 256),
        "box_predictor": faster_rcnn.FastRCNNPredictor(256, num_classes),
        "box_batch_size_per_image": 128,
        "box_detections_per_img": 300,
        "mask_head": mask_rcnn.MaskRCNNHeads(64, (64, 64), 1),
        "mask_predictor": mask_rcnn.MaskRCNNPredictor(64, 64, num_classes),
    }
    return MaskRCNN(backbone, **(settings | options))


def maskrcnn_resnet18_fpn(num_classes: int, **options: Any) -> nn.Module:
    """The architecture of ``maskrcnn.maskrcnn_resnet18_fpn``."""
    from torchvision.models.detection import MaskRCNN, backbone_utils

    backbone = backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    return MaskRCNN(backbone, num_classes, **options)


def keypointmaskrcnn_tiny(num_classes: int, num_keypoints: int = 17, **options: Any) -> nn.Module:
    """The architecture of ``maskrcnn.keypointmaskrcnn_tiny``."""
    from torchvision.models.detection import keypoint_rcnn
    from torchvision.ops import MultiScaleRoIAlign

    model: Any = maskrcnn_tiny(num_classes, **options)
    model.roi_heads.keypoint_roi_pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2)
    model.roi_heads.keypoint_head = keypoint_rcnn.KeypointRCNNHeads(64, (64,) * 4)
    model.roi_heads.keypoint_predictor = keypoint_rcnn.KeypointRCNNPredictor(64, num_keypoints)
    return model


def maskrcnn_resnet50_fpn(**options: Any) -> nn.Module:
    """torchvision's builder, without weights."""
    from torchvision.models import detection

    model: nn.Module = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, **options)
    return model
