"""RoIAlign over the levels of a feature pyramid."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from maskrcnn_ops._checks import as_rois, is_channels_last, pair
from maskrcnn_ops.roi_align import roi_align

__all__ = ["MultiScaleRoIAlign"]


class MultiScaleRoIAlign(nn.Module):
    """Pools each box by :func:`roi_align` (not aligned) from the pyramid level that fits its size.

    Lin et al.: Feature Pyramid Networks for Object Detection (CVPR 2017), equation 1. A box of area A is
    pooled from level ``floor(canonical_level + log2(sqrt(A) / canonical_scale) + 1e-6)``, clamped to the
    levels given; a box without area, or turned inside out, from the finest. A single level takes every box.

    The scales are inferred at the first call and kept: that of a level is the power of two nearest to the
    map's height over the height of the batch (the largest of ``image_shapes``), and level k has scale 2^-k.
    Maps are expected one level apart; where a level is left out, maps are still counted from the finest, and
    boxes beyond the last map take the last (torchvision gives zeros for those).

    Args:
        featmap_names: names of the maps to pool from; ``forward`` takes them in its
            dictionary's order, finest first.
        output_size: P or (P_h, P_w), at least 1.
        sampling_ratio: samples per bin and axis; 0 or less: adaptive. As for :func:`roi_align`.
        canonical_scale: side in pixels of a box that belongs to ``canonical_level``.
        canonical_level: level of a box of ``canonical_scale``.
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
        self.output_size = pair(output_size, "MultiScaleRoIAlign")
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.scales: list[float] | None = None

    def forward(
        self, x: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Pool every box.

        Args:
            x: maps by name, each [N, C, H_k, W_k]; names not in ``featmap_names`` are left aside.
            boxes: one [L, 4] per image, (x1, y1, x2, y2) in pixels of the image; float32 or float64.
            image_shapes: (height, width) of each image as the backbone saw it.

        Returns:
            [R, C, P_h, P_w] in the order of the boxes and in the dtype of the finest map.

        Raises:
            ValueError: for no images, or if no map has one of the names; RuntimeError: as :func:`roi_align`.

        Gradients flow to every map, zeros to one that no box falls on; not to ``boxes``. Deterministic. With
        several levels on CUDA the number of boxes of each level is read back, one synchronisation.
        """
        maps = [features for name, features in x.items() if name in self.featmap_names]
        if not maps:
            raise ValueError(
                f"MultiScaleRoIAlign: expected a map named one of {self.featmap_names}, got {list(x)}"
            )
        if self.scales is None:
            self.scales = _infer_scales(maps, image_shapes)
        if len(maps) != len(self.scales):
            raise ValueError(
                f"MultiScaleRoIAlign: expected {len(self.scales)} maps as in the first call, got {len(maps)}"
            )
        rois = as_rois(boxes, "MultiScaleRoIAlign")
        if len(maps) == 1:
            return roi_align(maps[0], rois, self.output_size, self.scales[0], self.sampling_ratio)

        # RoIs sorted by level: each level pools one slice, and all results move to their places at once.
        levels = self._levels(rois)
        order = levels.argsort(stable=True)
        counts = torch.bincount(levels, minlength=len(maps)).tolist()
        slices = rois[order].split(counts)
        pooled = torch.cat(
            [
                roi_align(features, part, self.output_size, scale, self.sampling_ratio).to(maps[0].dtype)
                for features, part, scale in zip(maps, slices, self.scales, strict=True)
            ]
        )
        # Said again, because cat forgets channels_last where a level has no boxes.
        layout = torch.channels_last if is_channels_last(maps[0]) else torch.contiguous_format
        return torch.empty_like(pooled, memory_format=layout).index_copy_(0, order, pooled)

    def _levels(self, rois: Tensor) -> Tensor:
        """Index of each RoI's map: int64 [R]."""
        assert self.scales is not None
        finest, coarsest = (round(-math.log2(scale)) for scale in (self.scales[0], self.scales[-1]))
        sides = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
        level = torch.floor(self.canonical_level + torch.log2(sides / self.canonical_scale) + 1e-6)
        index = level.nan_to_num(nan=finest).clamp(finest, coarsest).long() - finest
        return index.clamp(max=len(self.scales) - 1)

    def extra_repr(self) -> str:
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"sampling_ratio={self.sampling_ratio}, canonical_scale={self.canonical_scale}, "
            f"canonical_level={self.canonical_level}"
        )


def _infer_scales(maps: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]) -> list[float]:
    if not image_shapes:
        raise ValueError("MultiScaleRoIAlign: expected image_shapes of at least one image, got none")
    height = max(shape[0] for shape in image_shapes)
    return [2.0 ** round(math.log2(features.shape[-2] / height)) for features in maps]
