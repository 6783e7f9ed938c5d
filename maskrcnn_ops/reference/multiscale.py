"""RoIAlign over the levels of a feature pyramid (Lin et al., FPN, 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._common import as_rois, pair, widen
from .boxes import box_area
from .roi_align import roi_align


def assign_levels(
    boxes: Tensor,
    k_min: int,
    k_max: int,
    canonical_scale: float = 224,
    canonical_level: float = 4,
    eps: float = 1e-6,
    *,
    eps_inside: float = 0.0,
) -> Tensor:
    """Pyramid level of each box: [R, 4] -> int64 [R], counted from k_min (0 is level k_min).

    level = floor(canonical_level + log2(sqrt(area) / canonical_scale + eps_inside) + eps), clamped to [k_min,
    k_max] (FPN, equation 1). ``eps`` keeps a box of exactly the canonical size on its level in spite of
    rounding (torchvision: 1e-6 outside; detectron2: 1e-8 inside). A box without area, or with a NaN, goes to
    k_min.
    """
    side = box_area(boxes.detach()).sqrt()
    level = (canonical_level + torch.log2(side / canonical_scale + eps_inside) + eps).floor()
    return level.nan_to_num(nan=k_min, posinf=k_max, neginf=k_min).clamp(k_min, k_max).long() - k_min


def multiscale_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    levels: Tensor | None = None,
    canonical_scale: float = 224,
    canonical_level: float = 4,
    epsilon: float = 1e-6,
    epsilon_inside: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """``roi_align`` of each RoI from its level: [R, C, P, P] in the order of the boxes and the first map's dtype.

    Without ``levels`` (index into features, [R]) ``assign_levels`` chooses between the levels -log2(scale) of the
    first and of the last map, and a level beyond the last map is the last.
    """
    rois = as_rois(boxes)
    if levels is None:
        finest, coarsest = (round(-math.log2(scale)) for scale in (spatial_scales[0], spatial_scales[-1]))
        levels = assign_levels(
            rois[:, 1:],
            finest,
            coarsest,
            canonical_scale,
            canonical_level,
            epsilon,
            eps_inside=epsilon_inside,
        ).clamp(max=len(features) - 1)
    output = widen(features[0]).new_zeros(len(rois), features[0].shape[1], *pair(output_size))
    for k, (map, scale) in enumerate(zip(features, spatial_scales, strict=True)):
        pooled = roi_align(
            map, rois[levels == k], output_size, scale, sampling_ratio, aligned, reduction=reduction
        )
        output = output.index_put((levels == k,), pooled.to(output.dtype))
    return output.to(features[0].dtype)


class MultiScaleRoIAlign(nn.Module):
    """Each box pooled by ``roi_align`` (not aligned) from the pyramid level that fits its size.

    Levels are the maps of ``featmap_names``, finest first. The scale of a level is the power of two nearest
    to map height / height of the batch, the latter being the largest of ``image_shapes``.
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.featmap_names = list(featmap_names)
        self.output_size = pair(output_size)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level

    def forward(
        self, x: dict[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """x: name -> [N, C, H_k, W_k]; boxes: one [L, 4] per image, in image coordinates -> [R, C, P, P]."""
        maps = [features for name, features in x.items() if name in self.featmap_names]
        image_height = max(height for height, _ in image_shapes)
        strides = [round(math.log2(image_height / features.shape[-2])) for features in maps]
        return multiscale_roi_align(
            maps,
            as_rois(boxes),
            self.output_size,
            [2.0**-stride for stride in strides],
            self.sampling_ratio,
            canonical_scale=self.canonical_scale,
            canonical_level=self.canonical_level,
        )
