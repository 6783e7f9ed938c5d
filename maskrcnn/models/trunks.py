"""What the heads of a detector stand on: a ResNet with a pyramid (FPN) or with one map (C4, C5, DC5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from maskrcnn.models.anchors import AnchorGenerator
from maskrcnn.models.backbones import (
    BackboneWithFPN,
    BackboneWithOneMap,
    CoarsePyramid,
    FeaturePyramidNetwork,
)
from maskrcnn.models.base import BaseDetector
from maskrcnn.models.geometry import GEOMETRIES, PYRAMID_MAPS, PYRAMID_STRIDES, Geometry
from maskrcnn.models.norm import NormFactory, norm_factory
from maskrcnn.models.resnet import Res5Head, ResNet
from maskrcnn.models.roi_layers import roi_layer


@dataclass(frozen=True)
class Trunk:
    """A backbone and what its maps ask of the parts above them.

    Attributes:
        backbone: the module that a detector takes.
        maps: names of the maps that regions are pooled from, finest first.
        strides: of the maps that the RPN looks at.
        channels: of the features that a head gets.
        shared_head: between pooling and the heads; None: nothing.
        shrinks: side of pooled regions over the side of what a head gets.
        geometry: where regions, anchors and masks lie.
    """

    backbone: BackboneWithFPN | BackboneWithOneMap
    maps: tuple[str, ...]
    strides: tuple[int, ...]
    channels: int
    geometry: Geometry
    shared_head: nn.Module | None = None
    shrinks: int = 1

    def roi_pool(self, layer: str, side: int) -> nn.Module:
        """Pooling of a name in :data:`~maskrcnn.models.roi_layers.ROI_LAYERS` after which a head gets ``side``."""
        return roi_layer(layer, self.geometry, self.maps, side * self.shrinks)

    def anchor_generator(self, sizes: Sequence[float]) -> AnchorGenerator:
        """One side (pixels) for each level of a pyramid, or all on the one map; ratios 0.5, 1, 2.

        Raises:
            ValueError: as many sizes are not there as levels.
        """
        levels = len(self.strides)
        if levels == 1:
            return self.geometry.anchors((tuple(sizes),), self.strides)
        if len(sizes) != levels:
            raise ValueError(f"anchor_sizes: expected {levels}, one per pyramid level, got {len(sizes)}")
        return self.geometry.anchors(sizes, self.strides)


@dataclass(frozen=True)
class TrunkOptions:
    """A ResNet's, see :class:`~maskrcnn.models.resnet.ResNet`, and the geometry of what stands on it."""

    body: str
    norm: NormFactory
    stride_in_1x1: bool = False
    geometry: Geometry = GEOMETRIES["torchvision"]

    def resnet(self, *, dilated: bool = False, stages: int = 4) -> ResNet:
        return ResNet(self.body, self.norm, stride_in_1x1=self.stride_in_1x1, dilated=dilated, stages=stages)


@dataclass(frozen=True)
class FPN:
    """A pyramid of strides 4 to 32, and 64 for the RPN.

    Args:
        out_channels: of every level.
        fpn_norm: normalisation of its convolutions; None: none.
        extra_level: the one of stride 64.
    """

    out_channels: int = 256
    fpn_norm: str | None = None
    extra_level: bool = True

    def __call__(self, options: TrunkOptions) -> Trunk:
        resnet = options.resnet()
        norm = None if self.fpn_norm is None else norm_factory(self.fpn_norm)
        fpn = FeaturePyramidNetwork(
            resnet.out_channels, self.out_channels, norm, extra_level=self.extra_level
        )
        backbone = BackboneWithFPN(resnet, fpn, self.out_channels)
        strides = PYRAMID_STRIDES[: len(PYRAMID_MAPS) + self.extra_level]
        return Trunk(backbone, PYRAMID_MAPS, strides, self.out_channels, options.geometry)


@dataclass(frozen=True)
class CoarseFPN:
    """A pyramid of strides 8 to 128, all of them its heads' (YOLACT's).

    Args:
        out_channels: of every level.
    """

    out_channels: int = 256

    def __call__(self, options: TrunkOptions) -> Trunk:
        resnet = options.resnet()
        fpn = CoarsePyramid(resnet.out_channels, self.out_channels)
        backbone = BackboneWithFPN(resnet, fpn, self.out_channels)
        strides = tuple(2 * stride for stride in PYRAMID_STRIDES)
        return Trunk(backbone, PYRAMID_MAPS[1:], strides, self.out_channels, options.geometry)


@dataclass(frozen=True)
class C4:
    """The map of stride 16; the last stage of the ResNet works on each region, for all heads.

    Args:
        res5_stride: 1 on regions of 7 x 7 (the paper's figure 4), or 2 on 14 x 14 as its implementations have it.
        res5_width: channels of that stage's 3x3 convolutions; None: the ResNet's.
    """

    res5_stride: int = 1
    res5_width: int | None = None

    def __call__(self, options: TrunkOptions) -> Trunk:
        backbone = BackboneWithOneMap(options.resnet(stages=3))
        head = Res5Head(
            options.body,
            options.norm,
            stride_in_1x1=options.stride_in_1x1,
            stride=self.res5_stride,
            width=self.res5_width,
        )
        return Trunk(backbone, ("2",), (16,), head.out_channels, options.geometry, head, self.res5_stride)


@dataclass(frozen=True)
class C5:
    """The last map alone, of stride 32.

    Args:
        dilated: of stride 16 with dilated convolutions ("DC5").
    """

    dilated: bool = False

    def __call__(self, options: TrunkOptions) -> Trunk:
        backbone = BackboneWithOneMap(options.resnet(dilated=self.dilated))
        return Trunk(backbone, ("3",), (16 if self.dilated else 32,), backbone.out_channels, options.geometry)


Neck = FPN | CoarseFPN | C4 | C5


def whole_resnet(model: BaseDetector) -> nn.Module:
    """The layers of a detector's ResNet in one module under their usual names, wherever they stand.

    The layers are shared, not copied: to load a classifier's weights or freeze them here does it to the detector.
    """
    whole = nn.Module()
    for part in (model.backbone.body, model.shared_head):
        for name, layer in part.named_children() if isinstance(part, nn.Module) else ():
            whole.add_module(name, layer)
    return whole
