"""Builders of whole detectors: short compositions of the same parts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import maskrcnn_ops as ops
from maskrcnn.models.anchors import DEFAULT_RATIOS, DEFAULT_SIZES, AnchorGenerator
from maskrcnn.models.base import BaseDetector
from maskrcnn.models.detector import (
    FEATURE_MAPS,
    FasterRCNN,
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
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.resnet import ResNet, freeze_all_but
from maskrcnn.models.rpn import RPNHead
from maskrcnn.models.weights import (
    StateDict,
    read_weights,
    upgrade_keys,
    without_classifier,
)
from maskrcnn.models.yolact import YOLACT

Weights = str | os.PathLike[str] | StateDict
Detector = TypeVar("Detector", bound=BaseDetector)


def resnet_fpn_backbone(
    body: str,
    out_channels: int = 256,
    norm: str = "batch",
    eps: float = 1e-5,
    fpn_norm: str | None = None,
    pyramid: type[FeaturePyramidNetwork] = FeaturePyramidNetwork,
) -> BackboneWithFPN:
    """A ResNet or ResNeXt with a pyramid of five levels, by default of strides 4 to 64.

    Args:
        body: a name of :data:`maskrcnn.models.resnet.BODIES`, such as ``"resnet50"``.
        out_channels: of every level.
        norm: normalisation of the ResNet: ``"batch"``, ``"frozen"``, ``"group"`` or ``"sync"``.
        eps: of the normalisation.
        fpn_norm: normalisation of the pyramid; None: none.
        pyramid: its class.
    """
    resnet = ResNet(body, norm_factory(norm, eps))
    pyramid_norm = None if fpn_norm is None else norm_factory(fpn_norm)
    fpn = pyramid(resnet.out_channels, out_channels, pyramid_norm)
    return BackboneWithFPN(resnet, fpn, out_channels)


@dataclass(frozen=True)
class Preset(Generic[Detector]):
    """A builder of one architecture, called like a function: ``maskrcnn_resnet50_fpn(num_classes=2)``.

    Parameter names and defaults are those of torchvision's function of the same name. Arguments of the call:

        weights: state dict of the whole detector, or the path of a file with one (``.safetensors``,
            ``.pth``); torchvision's published files load, in both generations of their names. Nothing is
            downloaded.
        weights_backbone: the same for the ResNet alone (a classifier's ``fc`` is left out); unused beside
            ``weights``.
        num_classes: K, the background included; must agree with ``weights``. By default 91, for keypoints 2.
        options: ``trainable_backbone_layers`` (0 to 5, counted from the last; 3 with pretrained weights, else
            5), ``norm`` of the ResNet (``"batch"``, ``"frozen"``, ``"group"``, ``"sync"``; batch norm without
            pretrained weights; with them ``pretrained_norm``), ``norm_eps`` (0 for frozen norm under
            ``weights``, as the published files expect; else 1e-5), ``anchor_sizes`` (pixels, one per pyramid
            level: a JSON value in place of ``rpn_anchor_generator``), and every keyword of
            :attr:`detector`, such as :class:`~maskrcnn.models.detector.MaskRCNN`.

    A call raises ``FileNotFoundError`` for a missing file or the name of published weights, and
    ``ValueError`` or ``RuntimeError`` for options or weights that do not fit.

    Attributes:
        detector: the class that is built.
        body: of the backbone, see :data:`maskrcnn.models.resnet.BODIES`.
        fpn_norm: normalisation of the pyramid; None: none.
        pretrained_norm: normalisation of a ResNet that starts from weights.
        parts: gives the options of the detector that differ from its defaults.
        num_classes: where the call names none.
        pyramid: class of the feature pyramid.
    """

    detector: Callable[..., Detector]
    body: str
    fpn_norm: str | None = None
    pretrained_norm: str = "frozen"
    parts: Callable[[], dict[str, Any]] = dict
    num_classes: int = 91
    pyramid: type[FeaturePyramidNetwork] = FeaturePyramidNetwork

    def __call__(
        self,
        weights: Weights | None = None,
        weights_backbone: Weights | None = None,
        num_classes: int | None = None,
        *,
        trainable_backbone_layers: int | None = None,
        norm: str | None = None,
        norm_eps: float | None = None,
        **options: Any,
    ) -> Detector:
        num_classes = self.num_classes if num_classes is None else num_classes
        state_dict = None if weights is None else upgrade_keys(read_weights(weights))
        if state_dict is not None:
            _check_classes(state_dict, num_classes)
        norm, norm_eps = self.norm(norm, norm_eps, weights is not None, weights_backbone is not None)
        backbone = resnet_fpn_backbone(
            self.body, norm=norm, eps=norm_eps, fpn_norm=self.fpn_norm, pyramid=self.pyramid
        )
        if weights_backbone is not None and weights is None:
            classifier = read_weights(weights_backbone, "weights_backbone")
            backbone.body.load_state_dict(without_classifier(classifier))
        trained = weights is not None or weights_backbone is not None
        freeze_all_but(backbone.body, _trainable_layers(trained, trainable_backbone_layers))
        model = self.detector(backbone, num_classes, **(self.parts() | _with_anchors(options)))
        if state_dict is not None:
            model.load_state_dict(state_dict)
        return model

    def norm(
        self, norm: str | None, norm_eps: float | None, weights: bool, weights_backbone: bool
    ) -> tuple[str, float]:
        """The ResNet's norm and its epsilon where None leaves them to the weights that the model starts from."""
        norm = norm or (self.pretrained_norm if weights or weights_backbone else "batch")
        if norm_eps is None:
            # torchvision's published detectors were trained with an epsilon of zero in their frozen norms.
            norm_eps = 0.0 if norm == "frozen" and weights else 1e-5
        return norm, norm_eps


def _v2_parts() -> dict[str, Any]:
    """The heads of torchvision's second recipe: two RPN convolutions, and a normalised 4conv1fc box head."""
    return {
        "rpn_head": RPNHead(256, len(DEFAULT_RATIOS), conv_depth=2),
        "box_head": FastRCNNConvFCHead((256, 7, 7), (256,) * 4, (1024,), norm_factory("batch")),
    }


def _v2_mask_parts() -> dict[str, Any]:
    return _v2_parts() | {"mask_head": MaskRCNNHeads(256, (256,) * 4, norm=norm_factory("batch"))}


maskrcnn_resnet18_fpn = Preset(MaskRCNN, "resnet18")
maskrcnn_resnet34_fpn = Preset(MaskRCNN, "resnet34")
maskrcnn_resnet50_fpn = Preset(MaskRCNN, "resnet50")
maskrcnn_resnet101_fpn = Preset(MaskRCNN, "resnet101")
maskrcnn_resnet152_fpn = Preset(MaskRCNN, "resnet152")
maskrcnn_resnext50_32x4d_fpn = Preset(MaskRCNN, "resnext50_32x4d")
maskrcnn_resnext101_32x8d_fpn = Preset(MaskRCNN, "resnext101_32x8d")
maskrcnn_resnext101_64x4d_fpn = Preset(MaskRCNN, "resnext101_64x4d")
maskrcnn_resnet50_fpn_v2 = Preset(MaskRCNN, "resnet50", "batch", "batch", _v2_mask_parts)
fasterrcnn_resnet18_fpn = Preset(FasterRCNN, "resnet18")
fasterrcnn_resnet34_fpn = Preset(FasterRCNN, "resnet34")
fasterrcnn_resnet50_fpn = Preset(FasterRCNN, "resnet50")
fasterrcnn_resnet101_fpn = Preset(FasterRCNN, "resnet101")
fasterrcnn_resnet50_fpn_v2 = Preset(FasterRCNN, "resnet50", "batch", "batch", _v2_parts)
# A person and the background, as torchvision's builder has it.
keypointrcnn_resnet50_fpn = Preset(KeypointRCNN, "resnet50", num_classes=2)
keypointmaskrcnn_resnet50_fpn = Preset(KeypointMaskRCNN, "resnet50", num_classes=2)
yolact_resnet50_fpn = Preset(YOLACT, "resnet50", num_classes=91, pyramid=CoarsePyramid)


TINY_WIDTH = 64


def _tiny_parts(num_classes: int) -> dict[str, Any]:
    """What the tiny detectors share: they train on a CPU."""
    return {
        "min_size": 256,
        "max_size": 400,
        "rpn_anchor_generator": AnchorGenerator((8, 16, 32, 64, 128), (0.5, 1.0, 2.0)),
        "rpn_pre_nms_top_n_train": 1000,
        "rpn_pre_nms_top_n_test": 1000,
        "rpn_post_nms_top_n_train": 500,
        "rpn_post_nms_top_n_test": 500,
        "box_roi_pool": ops.MultiScaleRoIAlign(list(FEATURE_MAPS), output_size=7, sampling_ratio=2),
        "box_head": TwoMLPHead(TINY_WIDTH * 7 * 7, 256),
        "box_predictor": FastRCNNPredictor(256, num_classes),
        "box_batch_size_per_image": 128,
        "box_detections_per_img": 300,
        "mask_convention": "continuous",
    }


def _tiny_mask_parts(num_classes: int) -> dict[str, Any]:
    return {
        "mask_head": MaskRCNNHeads(TINY_WIDTH, (TINY_WIDTH,) * 2),
        "mask_predictor": MaskRCNNPredictor(TINY_WIDTH, TINY_WIDTH, num_classes),
    }


def _tiny_keypoint_parts(num_keypoints: int) -> dict[str, Any]:
    return {
        "keypoint_head": KeypointRCNNHeads(TINY_WIDTH, (TINY_WIDTH,) * 4),
        "keypoint_predictor": KeypointRCNNPredictor(TINY_WIDTH, num_keypoints),
    }


def maskrcnn_tiny(num_classes: int = 91, *, norm: str = "batch", **options: Any) -> MaskRCNN:
    """A Mask R-CNN that trains on a CPU: ResNet-18, 64 channels, small heads, anchors of 8 to 128 pixels.

    Args:
        num_classes: K, the background included.
        norm: normalisation of the ResNet.
        options: ``anchor_sizes`` (see :class:`Preset`) and every other keyword of
            :class:`~maskrcnn.models.detector.MaskRCNN`; they replace the ones set here (``min_size`` 256 and
            ``max_size`` 400 pixels among them).
    """
    parts = _tiny_parts(num_classes) | _tiny_mask_parts(num_classes) | _with_anchors(options)
    return MaskRCNN(resnet_fpn_backbone("resnet18", TINY_WIDTH, norm), **parts)


def keypointrcnn_tiny(
    num_classes: int = 2, *, num_keypoints: int = 17, norm: str = "batch", **options: Any
) -> KeypointRCNN:
    """A Keypoint R-CNN of the size of :func:`maskrcnn_tiny`, with four convolutions in the keypoint head.

    Args:
        num_classes: K, the background included.
        num_keypoints: of each object.
        norm: normalisation of the ResNet.
        options: as for :func:`maskrcnn_tiny`, of :class:`~maskrcnn.models.detector.KeypointRCNN`.
    """
    parts = _tiny_parts(num_classes) | _tiny_keypoint_parts(num_keypoints) | _with_anchors(options)
    return KeypointRCNN(resnet_fpn_backbone("resnet18", TINY_WIDTH, norm), **parts)


def keypointmaskrcnn_tiny(
    num_classes: int = 2, *, num_keypoints: int = 17, norm: str = "batch", **options: Any
) -> KeypointMaskRCNN:
    """:func:`maskrcnn_tiny` and :func:`keypointrcnn_tiny` in one detector; arguments as for the latter."""
    branches = _tiny_mask_parts(num_classes) | _tiny_keypoint_parts(num_keypoints)
    parts = _tiny_parts(num_classes) | branches | _with_anchors(options)
    return KeypointMaskRCNN(resnet_fpn_backbone("resnet18", TINY_WIDTH, norm), **parts)


def yolact_tiny(num_classes: int = 91, *, norm: str = "batch", **options: Any) -> YOLACT:
    """A YOLACT of the size of :func:`maskrcnn_tiny`: the same backbone and sizes of images.

    Its finest level has stride 4, and so its prototypes stride 2. Anchors have three times the stride, as in
    the paper: 12 to 192 pixels. The head is normalised by groups: it trains from scratch in few steps.

    Args:
        num_classes: K, the background included.
        norm: normalisation of the ResNet.
        options: as for :func:`maskrcnn_tiny`, of :class:`~maskrcnn.models.yolact.YOLACT`.
    """
    parts: dict[str, Any] = {
        "min_size": 256,
        "max_size": 400,
        "rpn_anchor_generator": AnchorGenerator((12, 24, 48, 96, 192), DEFAULT_RATIOS),
        "head_norm": "group",
        "box_detections_per_img": 300,
        "mask_side": 56,
    }
    return YOLACT(
        resnet_fpn_backbone("resnet18", TINY_WIDTH, norm), num_classes, **(parts | _with_anchors(options))
    )


BUILDERS: dict[str, Callable[..., BaseDetector]] = {
    "maskrcnn_tiny": maskrcnn_tiny,
    "keypointrcnn_tiny": keypointrcnn_tiny,
    "keypointmaskrcnn_tiny": keypointmaskrcnn_tiny,
    "yolact_tiny": yolact_tiny,
    **{name: value for name, value in globals().items() if isinstance(value, Preset)},
}


def without_weights(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A builder's arguments for the same architecture without the weight files that it once started from."""
    files = ("weights", "weights_backbone")
    started_from = {key for key in files if kwargs.get(key) is not None}
    kept = {key: value for key, value in kwargs.items() if key not in started_from}
    builder = BUILDERS.get(name)
    if not started_from or not isinstance(builder, Preset):
        return kept
    kept.pop("trainable_backbone_layers", None)  # has no effect on, and no place in, a model without weights
    norm = builder.norm(kept.get("norm"), kept.get("norm_eps"), *(key in started_from for key in files))
    return kept | dict(zip(("norm", "norm_eps"), norm, strict=True))


def build_model(name: str, **kwargs: Any) -> BaseDetector:
    """Call the builder of this name.

    Raises:
        ValueError: no such builder; the message lists them.
    """
    if name not in BUILDERS:
        raise ValueError(f"model: expected one of {', '.join(BUILDERS)}, got {name!r}")
    return BUILDERS[name](**kwargs)


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
            stacklevel=3,
        )
    return 5


def _check_classes(state_dict: StateDict, num_classes: int) -> None:
    score = state_dict.get("roi_heads.box_predictor.cls_score.weight")
    if score is not None and len(score) != num_classes:
        raise ValueError(
            f"num_classes: expected {len(score)}, the number of classes in weights, got {num_classes}"
        )
