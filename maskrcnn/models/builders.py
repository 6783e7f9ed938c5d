"""Functions that build whole detectors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import maskrcnn_ops as ops
from maskrcnn.models.anchors import DEFAULT_SIZES, AnchorGenerator
from maskrcnn.models.detector import FEATURE_MAPS, FasterRCNN, MaskRCNN
from maskrcnn.models.fpn import BackboneWithFPN, FeaturePyramidNetwork
from maskrcnn.models.heads import (
    FastRCNNPredictor,
    MaskRCNNHeads,
    MaskRCNNPredictor,
    TwoMLPHead,
)
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.resnet import ResNet, freeze_all_but
from maskrcnn.models.weights import (
    StateDict,
    read_weights,
    upgrade_keys,
    without_classifier,
)

Weights = str | os.PathLike[str] | StateDict
Detector = TypeVar("Detector", bound=FasterRCNN)


def resnet_fpn_backbone(
    depth: int, out_channels: int = 256, norm: str = "batch", eps: float = 1e-5
) -> BackboneWithFPN:
    """ResNet-``depth`` (18, 34, 50, 101) with a pyramid of five levels, strides 4 to 64.

    Args:
        depth: of the ResNet.
        out_channels: of every level.
        norm: normalisation of the ResNet: ``"batch"``, ``"frozen"`` or ``"group"``; the pyramid has none.
        eps: of the normalisation.
    """
    body = ResNet(depth, norm_factory(norm, eps))
    return BackboneWithFPN(body, FeaturePyramidNetwork(body.out_channels, out_channels), out_channels)


def maskrcnn_resnet50_fpn(
    weights: Weights | None = None,
    weights_backbone: Weights | None = None,
    num_classes: int = 91,
    **options: Any,
) -> MaskRCNN:
    """Mask R-CNN with a ResNet-50 FPN; parameter names and defaults are those of torchvision's function.

    Args:
        weights: state dict of the whole detector, or the path of a file with one (``.safetensors``,
            ``.pth``); torchvision's published files load, in both generations of their names. Nothing is
            downloaded.
        weights_backbone: the same for the ResNet alone (a classifier's ``fc`` is left out); unused beside
            ``weights``.
        num_classes: K, the background included; must agree with ``weights``.
        options: ``trainable_backbone_layers`` (0 to 5, counted from the last; 3 with pretrained weights, else
            5), ``norm`` (``"batch"``, ``"frozen"``, ``"group"``; batch norm without pretrained weights,
            frozen with), ``norm_eps`` (0 for frozen norm under ``weights``, as the published files expect;
            else 1e-5), ``anchor_sizes`` (pixels, one per pyramid level: a JSON value in place of
            ``rpn_anchor_generator``), and every keyword of :class:`~maskrcnn.models.detector.MaskRCNN`.

    Raises:
        FileNotFoundError: no such file, or the name of published weights.
        ValueError, RuntimeError: options or weights that do not fit.
    """
    return _build(MaskRCNN, 50, weights, weights_backbone, num_classes, **options)


def maskrcnn_resnet18_fpn(
    weights: Weights | None = None,
    weights_backbone: Weights | None = None,
    num_classes: int = 91,
    **options: Any,
) -> MaskRCNN:
    """Mask R-CNN with a ResNet-18 FPN; arguments as for :func:`maskrcnn_resnet50_fpn`."""
    return _build(MaskRCNN, 18, weights, weights_backbone, num_classes, **options)


def maskrcnn_resnet34_fpn(
    weights: Weights | None = None,
    weights_backbone: Weights | None = None,
    num_classes: int = 91,
    **options: Any,
) -> MaskRCNN:
    """Mask R-CNN with a ResNet-34 FPN; arguments as for :func:`maskrcnn_resnet50_fpn`."""
    return _build(MaskRCNN, 34, weights, weights_backbone, num_classes, **options)


def maskrcnn_resnet101_fpn(
    weights: Weights | None = None,
    weights_backbone: Weights | None = None,
    num_classes: int = 91,
    **options: Any,
) -> MaskRCNN:
    """Mask R-CNN with a ResNet-101 FPN; arguments as for :func:`maskrcnn_resnet50_fpn`."""
    return _build(MaskRCNN, 101, weights, weights_backbone, num_classes, **options)


def fasterrcnn_resnet18_fpn(
    weights: Weights | None = None,
    weights_backbone: Weights | None = None,
    num_classes: int = 91,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN with a ResNet-18 FPN; arguments as for :func:`maskrcnn_resnet50_fpn`."""
    return _build(FasterRCNN, 18, weights, weights_backbone, num_classes, **options)


def fasterrcnn_resnet34_fpn(
    weights: Weights | None = None,
    weights_backbone: Weights | None = None,
    num_classes: int = 91,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN with a ResNet-34 FPN; arguments as for :func:`maskrcnn_resnet50_fpn`."""
    return _build(FasterRCNN, 34, weights, weights_backbone, num_classes, **options)


def fasterrcnn_resnet50_fpn(
    weights: Weights | None = None,
    weights_backbone: Weights | None = None,
    num_classes: int = 91,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN with a ResNet-50 FPN; arguments as for :func:`maskrcnn_resnet50_fpn`."""
    return _build(FasterRCNN, 50, weights, weights_backbone, num_classes, **options)


def fasterrcnn_resnet101_fpn(
    weights: Weights | None = None,
    weights_backbone: Weights | None = None,
    num_classes: int = 91,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN with a ResNet-101 FPN; arguments as for :func:`maskrcnn_resnet50_fpn`."""
    return _build(FasterRCNN, 101, weights, weights_backbone, num_classes, **options)


def maskrcnn_tiny(
    num_classes: int = 91,
    *,
    min_size: int | Sequence[int] = 256,
    max_size: int = 400,
    norm: str = "batch",
    **options: Any,
) -> MaskRCNN:
    """A Mask R-CNN that trains on a CPU: ResNet-18, 64 channels, small heads, anchors of 8 to 128 pixels.

    Args:
        num_classes: K, the background included.
        min_size, max_size: of the resized images, pixels.
        norm: normalisation of the ResNet.
        options: ``anchor_sizes`` (see :func:`maskrcnn_resnet50_fpn`) and every other keyword of
            :class:`~maskrcnn.models.detector.MaskRCNN`; they replace the ones set here.
    """
    width = 64
    settings: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator((8, 16, 32, 64, 128), (0.5, 1.0, 2.0)),
        "rpn_pre_nms_top_n_train": 1000,
        "rpn_pre_nms_top_n_test": 1000,
        "rpn_post_nms_top_n_train": 500,
        "rpn_post_nms_top_n_test": 500,
        "box_roi_pool": ops.MultiScaleRoIAlign(list(FEATURE_MAPS), output_size=7, sampling_ratio=2),
        "box_head": TwoMLPHead(width * 7 * 7, 256),
        "box_predictor": FastRCNNPredictor(256, num_classes),
        "box_batch_size_per_image": 128,
        "box_detections_per_img": 300,
        "mask_head": MaskRCNNHeads(width, (width, width)),
        "mask_predictor": MaskRCNNPredictor(width, width, num_classes),
    }
    backbone = resnet_fpn_backbone(18, width, norm)
    return MaskRCNN(backbone, min_size=min_size, max_size=max_size, **(settings | _with_anchors(options)))


BUILDERS: dict[str, Callable[..., FasterRCNN]] = {
    builder.__name__: builder
    for builder in (
        maskrcnn_tiny,
        maskrcnn_resnet18_fpn,
        maskrcnn_resnet34_fpn,
        maskrcnn_resnet50_fpn,
        maskrcnn_resnet101_fpn,
        fasterrcnn_resnet18_fpn,
        fasterrcnn_resnet34_fpn,
        fasterrcnn_resnet50_fpn,
        fasterrcnn_resnet101_fpn,
    )
}


def build_model(name: str, **kwargs: Any) -> FasterRCNN:
    """Call the builder of this name.

    Raises:
        ValueError: no such builder; the message lists them.
    """
    if name not in BUILDERS:
        raise ValueError(f"model: expected one of {', '.join(BUILDERS)}, got {name!r}")
    return BUILDERS[name](**kwargs)


def _build(
    detector: type[Detector],
    depth: int,
    weights: Weights | None,
    weights_backbone: Weights | None,
    num_classes: int,
    *,
    trainable_backbone_layers: int | None = None,
    norm: str | None = None,
    norm_eps: float | None = None,
    **options: Any,
) -> Detector:
    state_dict = None if weights is None else upgrade_keys(read_weights(weights))
    if state_dict is not None:
        _check_classes(state_dict, num_classes)
    trained = weights is not None or weights_backbone is not None
    norm, norm_eps = norm_of_backbone(norm, norm_eps, weights is not None, weights_backbone is not None)
    backbone = resnet_fpn_backbone(depth, norm=norm, eps=norm_eps)
    if weights_backbone is not None and weights is None:
        backbone.body.load_state_dict(without_classifier(read_weights(weights_backbone, "weights_backbone")))
    freeze_all_but(backbone.body, _trainable_layers(trained, trainable_backbone_layers))
    model = detector(backbone, num_classes, **_with_anchors(options))
    if state_dict is not None:
        model.load_state_dict(state_dict)
    return model


def norm_of_backbone(
    norm: str | None, norm_eps: float | None, weights: bool, weights_backbone: bool
) -> tuple[str, float]:
    """The ResNet's norm and its epsilon where None leaves them to the weights that a builder starts from."""
    norm = norm or ("frozen" if weights or weights_backbone else "batch")
    if norm_eps is None:
        # torchvision's published detectors were trained with an epsilon of zero in their frozen norms.
        norm_eps = 0.0 if norm == "frozen" and weights else 1e-5
    return norm, norm_eps


def _with_anchors(options: dict[str, Any]) -> dict[str, Any]:
    """The options with a generator in the place of ``anchor_sizes``."""
    if "anchor_sizes" not in options:
        return options
    others = {name: value for name, value in options.items() if name != "anchor_sizes"}
    if "rpn_anchor_generator" in others:
        raise ValueError("anchor_sizes: expected either anchor_sizes or rpn_anchor_generator, got both")
    sizes = options["anchor_sizes"]
    if len(sizes) != len(DEFAULT_SIZES):
        raise ValueError(
            f"anchor_sizes: expected {len(DEFAULT_SIZES)}, one per pyramid level, got {len(sizes)}"
        )
    return others | {"rpn_anchor_generator": AnchorGenerator(sizes)}


def _trainable_layers(trained: bool, wanted: int | None) -> int:
    """Layers of the ResNet to train: all of a random one, by default the last three of a pretrained one."""
    if trained:
        return 3 if wanted is None else wanted
    if wanted not in (None, 5):
        warnings.warn(
            f"trainable_backbone_layers={wanted} has no effect without weights or weights_backbone: "
            "all layers are trained",
            stacklevel=4,
        )
    return 5


def _check_classes(state_dict: StateDict, num_classes: int) -> None:
    score = state_dict.get("roi_heads.box_predictor.cls_score.weight")
    if score is not None and len(score) != num_classes:
        raise ValueError(
            f"num_classes: expected {len(score)}, the number of classes in weights, got {num_classes}"
        )
