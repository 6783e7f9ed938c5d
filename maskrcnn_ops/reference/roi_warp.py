"""RoIWarp (Dai, He, Sun, Multi-task Network Cascades, 2016): RoIPool's region, RoIAlign's samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._common import as_rois, widen
from .roi_align import roi_align
from .roi_pool import _round_half_away


def roi_warp(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    reduction: str = "mean",
) -> Tensor:
    """``roi_align``, aligned, of the cells that ``roi_pool`` takes as the RoI: whole cells from the rounded start
    to the rounded end, both included. Differentiable in input; not in boxes."""
    rois = widen(as_rois(boxes)).detach()
    x1, y1, x2, y2 = _round_half_away(rois[:, 1:] * spatial_scale).unbind(1)
    cells = [rois[:, 0], x1, y1, torch.maximum(x1, x2) + 1, torch.maximum(y1, y2) + 1]
    return roi_align(
        input, torch.stack(cells, 1), output_size, 1.0, sampling_ratio, True, reduction=reduction
    )


class RoIWarp(nn.Module):
    """``roi_warp`` with its options fixed."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        *,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.reduction = reduction

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        options = (self.output_size, self.spatial_scale, self.sampling_ratio)
        return roi_warp(input, rois, *options, reduction=self.reduction)
