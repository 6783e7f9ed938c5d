"""What a builder of one architecture is: a detector, and the names and numbers of its parts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

from torch import nn

from maskrcnn.models.backbones import BackboneWithFPN
from maskrcnn.models.base import BaseDetector
from maskrcnn.models.geometry import geometry_named
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.published import backbone_weights, detector_weights
from maskrcnn.models.recipes import AnchorRecipe, BoxRecipe, KeypointRecipe, MaskIoURecipe, MaskRecipe
from maskrcnn.models.resnet import freeze_all_but
from maskrcnn.models.trunks import FPN, Neck, TrunkOptions, whole_resnet
from maskrcnn.models.weights import (
    StateDict,
    check_conventions,
    read_weights,
    upgrade_keys,
    without_classifier,
)

Weights = str | os.PathLike[str] | StateDict
Detector = TypeVar("Detector", bound=BaseDetector)
Branch = MaskRecipe | MaskIoURecipe | KeypointRecipe
Recipe = TypeVar("Recipe", bound=Neck | AnchorRecipe | BoxRecipe | Branch)


def resnet_fpn_backbone(
    body: str, out_channels: int = 256, norm: str = "batch", eps: float = 1e-5, fpn_norm: str | None = None
) -> BackboneWithFPN:
    """A ResNet or ResNeXt with a pyramid of five levels, strides 4 to 64.

    Args:
        body: a name of :data:`maskrcnn.models.resnet.BODIES`, such as ``"resnet50"``.
        out_channels: of every level.
        norm: normalisation of the ResNet: ``"batch"``, ``"frozen"``, ``"group"`` or ``"sync"``.
        eps: of the normalisation.
        fpn_norm: normalisation of the pyramid; None: none.
    """
    backbone = FPN(out_channels, fpn_norm)(TrunkOptions(body, norm_factory(norm, eps))).backbone
    assert isinstance(backbone, BackboneWithFPN)
    return backbone


@dataclass(frozen=True)
class Preset(Generic[Detector]):
    """A builder of one architecture, called like a function: ``maskrcnn_resnet50_fpn(num_classes=2)``.

    Parameter names and defaults are those of torchvision's function of the same name. Arguments of the call:

        weights: state dict of the whole detector, or the path of a file with one (``.safetensors``,
            ``.pth``); torchvision's published files load, in both generations of their names. ``"coco"``
            fetches the published file, as do torchvision's names and enumerations of them, see
            :mod:`maskrcnn.models.published`; else nothing is downloaded.
        weights_backbone: the same for the ResNet alone (a classifier's ``fc`` is left out); unused beside
            ``weights``. ``"imagenet"`` and ``"imagenet_v2"`` fetch torchvision's.
        num_classes: K, the background included; must agree with ``weights``. By default 91, for keypoints 2.
        options: ``trainable_backbone_layers`` (0 to 5, counted from the last; 3 with pretrained weights, else
            5), ``norm`` of the ResNet (``"batch"``, ``"frozen"``, ``"group"``, ``"sync"``; batch norm without
            pretrained weights; with them ``pretrained_norm``), ``norm_eps`` (0 for frozen norm under
            ``weights``, as the published files expect; else 1e-5), ``stride_in_1x1`` (see
            :class:`~maskrcnn.models.resnet.Bottleneck`), ``geometry`` (``"torchvision"`` or ``"detectron2"``, see
            :class:`~maskrcnn.models.geometry.Geometry`), every field of the preset's recipes and neck
            (``anchor_sizes``, ``roi_layer``, ``box_head``, ``mask_head``, ``class_agnostic_masks``,
            ``num_keypoints``, ``extra_level`` ...), all JSON values, and every keyword of :attr:`detector`, such as
            :class:`~maskrcnn.models.detector.MaskRCNN`; a module given there takes the place of the recipe's.

    A call raises ``FileNotFoundError`` for a missing file, ``TypeError`` for weights that are neither file, state
    dict nor name,
    :class:`~maskrcnn.models.published.PublishedWeightsError` for published weights that cannot be had, and
    ``ValueError`` or ``RuntimeError`` for options or weights that do not fit.

    Attributes:
        detector: the class that is built.
        body: of the backbone, see :data:`maskrcnn.models.resnet.BODIES`.
        neck: what makes the body's maps those of the heads.
        boxes: the RPN's and the box head; for YOLACT, which builds its own, the anchors.
        branches: the heads beside them.
        pretrained_norm: normalisation of a ResNet that starts from weights.
        num_classes: where the call names none.
        options: of the detector, where they differ from its defaults.
    """

    detector: Callable[..., Detector]
    body: str
    neck: Neck = field(default_factory=FPN)
    boxes: BoxRecipe | AnchorRecipe = field(default_factory=BoxRecipe)
    branches: tuple[Branch, ...] = ()
    pretrained_norm: str = "frozen"
    num_classes: int = 91
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        weights: Weights | None = None,
        weights_backbone: Weights | None = None,
        num_classes: int | None = None,
        *,
        trainable_backbone_layers: int | None = None,
        norm: str | None = None,
        norm_eps: float | None = None,
        stride_in_1x1: bool = False,
        geometry: str = "torchvision",
        **options: Any,
    ) -> Detector:
        weights = detector_weights(weights, self.name)
        weights_backbone = backbone_weights(weights_backbone, self.body) if weights is None else None
        given = {"geometry": geometry, "stride_in_1x1": stride_in_1x1}
        check_conventions("weights", weights, given)
        check_conventions("weights_backbone", weights_backbone, given)
        num_classes = self.num_classes if num_classes is None else num_classes
        state_dict = None if weights is None else upgrade_keys(read_weights(weights))
        if state_dict is not None:
            _check_classes(state_dict, num_classes)
        norm, norm_eps = self.norm(norm, norm_eps, weights is not None, weights_backbone is not None)
        model = self._build(
            TrunkOptions(self.body, norm_factory(norm, norm_eps), stride_in_1x1, geometry_named(geometry)),
            num_classes,
            options,
        )
        resnet = whole_resnet(model)
        if weights_backbone is not None:
            resnet.load_state_dict(without_classifier(read_weights(weights_backbone, "weights_backbone")))
        trained = weights is not None or weights_backbone is not None
        freeze_all_but(resnet, _trainable_layers(trained, trainable_backbone_layers))
        if state_dict is not None:
            model.load_state_dict(state_dict)
        return model

    def _build(self, body: TrunkOptions, num_classes: int, options: dict[str, Any]) -> Detector:
        anchors = options.get("rpn_anchor_generator")
        if anchors is not None and "anchor_sizes" in options:
            raise ValueError("anchor_sizes: expected either anchor_sizes or rpn_anchor_generator, got both")
        neck, options = _changed(self.neck, options)
        boxes, options = _changed(self.boxes, options)
        trunk = neck(body)
        parts = boxes.parts(trunk, num_classes, anchors)
        for each in self.branches:
            assert isinstance(boxes, BoxRecipe)
            branch, options = _changed(each, options)
            parts |= branch.parts(trunk, num_classes, boxes)
        if trunk.shared_head is not None:
            parts["shared_head"] = trunk.shared_head
        parts |= {**self.options, **body.geometry.detector_options(), **options}
        return self.detector(trunk.backbone, **parts)

    @property
    def name(self) -> str:
        """Its key in :data:`maskrcnn.models.builders.BUILDERS`, ``""`` outside."""
        from maskrcnn.models.builders import BUILDERS

        return next((name for name, builder in BUILDERS.items() if builder is self), "")

    def norm(
        self, norm: str | None, norm_eps: float | None, weights: bool, weights_backbone: bool
    ) -> tuple[str, float]:
        """The ResNet's norm and its epsilon where None leaves them to the weights that the model starts from."""
        norm = norm or (self.pretrained_norm if weights or weights_backbone else "batch")
        if norm_eps is None:
            # torchvision's published detectors were trained with an epsilon of zero in their frozen norms.
            norm_eps = 0.0 if norm == "frozen" and weights else 1e-5
        return norm, norm_eps


def _changed(recipe: Recipe, options: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with its fields among the options, and the options that are left; modules are not its fields."""
    names = {each.name for each in fields(recipe)}
    own = {
        name: value for name, value in options.items() if name in names and not isinstance(value, nn.Module)
    }
    return replace(recipe, **own), {name: value for name, value in options.items() if name not in own}


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
