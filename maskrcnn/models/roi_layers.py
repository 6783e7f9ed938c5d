"""The region layers that the paper compares: RoIAlign, RoIPool and RoIWarp, for a pyramid or a single map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.models.geometry import Geometry
from maskrcnn_ops.reference import assign_levels

SAMPLING_RATIO = 2  # samples per bin and axis


class RegionOperator(Protocol):
    """Such as :func:`maskrcnn_ops.roi_pool`."""

    def __call__(self, input: Tensor, boxes: Tensor, output_size: int, spatial_scale: float) -> Tensor: ...


class LevelwiseRoILayer(nn.Module):
    """Any region operator of one map, on the pyramid level that fits each box.

    One call per level; :class:`maskrcnn_ops.MultiScaleRoIAlign`, which has the same interface and the same rule for
    the level, does its work in a single one.

    Args:
        operator: ``(input, boxes [R, 5], output_size, spatial_scale) -> [R, C, P, P]``.
        featmap_names: of the maps to pool from, finest first.
        output_size: P.
    """

    def __init__(self, operator: RegionOperator, featmap_names: Sequence[str], output_size: int) -> None:
        super().__init__()
        self.operator = operator
        self.featmap_names = tuple(featmap_names)
        self.output_size = output_size

    def forward(
        self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Pool boxes, one ``[L, 4]`` per image in pixels of the batch, to ``[R, C, P, P]`` in their order."""
        maps = [features[name] for name in self.featmap_names]
        height = max(size[0] for size in image_sizes)
        exponents = [round(math.log2(height / each.shape[-2])) for each in maps]
        rois = torch.cat([nn.functional.pad(each, (1, 0), value=i) for i, each in enumerate(boxes)])
        levels = assign_levels(rois[:, 1:], exponents[0], exponents[-1])
        result = maps[0].new_zeros((len(rois), maps[0].shape[1], self.output_size, self.output_size))
        for level, (each, exponent) in enumerate(zip(maps, exponents, strict=True)):
            chosen = torch.where(levels == level)[0]
            pooled = self.operator(each, rois[chosen], self.output_size, 2.0**-exponent)
            result = result.index_copy(0, chosen, pooled)
        return result

    def extra_repr(self) -> str:
        return f"{self.operator}, featmap_names={self.featmap_names}, output_size={self.output_size}"


def _levelwise(operator: RegionOperator) -> Callable[[Geometry, Sequence[str], int], nn.Module]:
    return lambda _, featmap_names, output_size: LevelwiseRoILayer(operator, featmap_names, output_size)


ROI_LAYERS: dict[str, Callable[[Geometry, Sequence[str], int], nn.Module]] = {
    "align": Geometry.roi_pool,
    "align_max": _levelwise(partial(ops.roi_align, sampling_ratio=SAMPLING_RATIO, reduction="max")),
    "pool": _levelwise(ops.roi_pool),
    "warp": _levelwise(partial(ops.roi_warp, sampling_ratio=SAMPLING_RATIO)),
    "warp_max": _levelwise(partial(ops.roi_warp, sampling_ratio=SAMPLING_RATIO, reduction="max")),
}
"""Constructors ``(geometry, featmap_names, output_size) -> module`` of the rows of the paper's Table 2 (c). The
geometry is that of the first; the others are the paper's own."""


def roi_layer(name: str, geometry: Geometry, featmap_names: Sequence[str], output_size: int) -> nn.Module:
    """The module of a name in :data:`ROI_LAYERS`.

    Raises:
        ValueError: another name.
    """
    if name not in ROI_LAYERS:
        raise ValueError(f"roi_layer: expected one of {', '.join(ROI_LAYERS)}, got {name!r}")
    return ROI_LAYERS[name](geometry, featmap_names, output_size)
