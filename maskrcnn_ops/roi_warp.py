"""RoIWarp: RoIPool's rounded regions, sampled as RoIAlign samples. A composition of the RoIAlign kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskrcnn_ops._checks import as_rois
from maskrcnn_ops.roi_align import SINGLE_LEVEL, pool_levels

__all__ = ["RoIWarp", "roi_warp"]


def roi_warp(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Average or maximum of bilinear samples in each bin of each region, the region rounded to cells.

    Dai, He, Sun: Instance-aware Semantic Segmentation via Multi-task Network Cascades (CVPR 2016), section 3.2;
    the layer that Mask R-CNN (ICCV 2017, section 4.1) compares with RoIAlign: what is left of RoIAlign's gain
    without its exact region. A region is RoIPool's: corners scaled and rounded, halves away from zero, both
    ends included, at least one cell wide. Its bins are not rounded; they are sampled as by
    :func:`~maskrcnn_ops.roi_align`, cell centres at .5.

    Args:
        input, boxes, output_size, spatial_scale, sampling_ratio, reduction: as in
            :func:`~maskrcnn_ops.roi_align`.

    Returns, raises, determinism: as :func:`~maskrcnn_ops.roi_align`. Gradients flow to ``input``, not to ``boxes``,
    whose rounding has none.

    Equivalent to:
        ``roi_align(input, rounded_cells, output_size, 1.0, sampling_ratio, aligned=True)`` with
        ``rounded_cells = [round(x1 * scale), round(y1 * scale), round(x2 * scale) + 1, round(y2 * scale) + 1]``.
    """
    rois = _rounded(as_rois(boxes, "roi_warp").detach(), spatial_scale)
    return pool_levels(
        "roi_warp", [input], rois, None, output_size, [1.0], sampling_ratio, True, reduction, SINGLE_LEVEL
    )


def _rounded(rois: Tensor, scale: float) -> Tensor:
    """Regions in cells [R, 5]: whole start and end."""
    if rois.dtype in (torch.float16, torch.bfloat16):
        rois = rois.float()
    scaled = rois[:, 1:] * scale
    whole = scaled.trunc()
    cells = whole + ((scaled - whole).abs() >= 0.5) * scaled.sign()  # torch.round takes halves to even
    start, end = cells[:, :2], cells[:, 2:]
    return torch.cat([rois[:, :1], start, torch.maximum(end, start) + 1], dim=1)


class RoIWarp(nn.Module):
    """Module form of :func:`roi_warp` with fixed options."""

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
        return roi_warp(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, reduction={self.reduction!r}"
        )
