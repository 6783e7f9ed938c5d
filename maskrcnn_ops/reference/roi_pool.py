"""RoI max pooling (Girshick, Fast R-CNN, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._common import FAR, as_rois, image_indices, pair


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Maximum over the cells of each bin of each RoI.

    input [N, C, H, W]; boxes [R, 5] (image index, xyxy) or a list with one [L, 4] per image -> [R, C, P, P]
    (or output_size = (height, width)) in the dtype of input.

    Corners are scaled and rounded to cells, halves away from zero, both ends included, so a side has at least
    one cell: side = max(end - start + 1, 1). Bin p takes the cells from floor(p * side / P) up to, not
    including, ceil((p + 1) * side / P) after start: neighbours overlap where the bin size is no whole number.
    A bin without cells inside the map gives 0. The gradient goes to the first maximum in row-major order. A
    NaN is never the maximum; cells of nothing but NaN or -inf give the dtype's lowest finite number and no
    gradient.

    A RoI with a non-finite index or scaled coordinate gives zeros and no gradient; a finite index outside the
    batch raises RuntimeError. Rounded coordinates are clamped to +-2^30, so no box overflows. Geometry is
    computed in the dtype of boxes (half: float32). Differentiable in input; not in boxes.
    """
    pooled_h, pooled_w = pair(output_size)
    num_images, channels, height, width = input.shape
    rois = as_rois(boxes).to(input.device)
    index = image_indices("roi_pool", rois, num_images)

    scaled = rois[:, 1:] * spatial_scale
    finite = scaled.isfinite().all(1) & rois[:, 0].isfinite()
    x1, y1, x2, y2 = _round_half_away(scaled.where(finite[:, None], 0)).clamp(-FAR, FAR).long().unbind(1)
    bins_y = _bin_ranges(y1, y2, pooled_h, height, rois.dtype).tolist()
    bins_x = _bin_ranges(x1, x2, pooled_w, width, rois.dtype).tolist()

    # The position of every maximum first, in the [H * W] plane, so that one differentiable look-up gives value and
    # gradient.
    argmax = torch.full((len(rois), channels, pooled_h, pooled_w), -1, device=input.device)
    output = torch.zeros(argmax.shape, dtype=input.dtype, device=input.device)
    lowest = torch.finfo(input.dtype).min
    for r in finite.nonzero().flatten().tolist():
        plane = input[int(index[r])].detach()
        for p, (top, bottom) in enumerate(bins_y[r]):
            for q, (left, right) in enumerate(bins_x[r]):
                if top < bottom and left < right:
                    cells = plane[:, top:bottom, left:right].flatten(1)
                    value, best = cells.where(cells > lowest, lowest).max(1)  # [C]
                    y, x = best // (right - left), best % (right - left)
                    argmax[r, :, p, q] = ((top + y) * width + left + x).where(value > lowest, -1)
                    output[r, :, p, q] = value

    found = argmax >= 0
    plane_start = (index[:, None] * channels + torch.arange(channels, device=input.device)) * (height * width)
    flat = input.contiguous().flatten()
    return output.index_put((found,), flat[(plane_start[..., None, None] + argmax)[found]])


def _round_half_away(x: Tensor) -> Tensor:
    """Round to the nearest integer, halves away from zero (``torch.round`` takes halves to even)."""
    whole = x.trunc()
    return whole + ((x - whole).abs() >= 0.5) * x.sign()


def _bin_ranges(start: Tensor, end: Tensor, pooled: int, size: int, dtype: torch.dtype) -> Tensor:
    """int64 [R, pooled, 2]: first and one past the last cell of each bin along one axis, in [0, size]."""
    side = (end - start + 1).clamp(min=1)
    bin_size = (side.to(dtype) / pooled)[:, None]
    p = torch.arange(pooled, device=start.device, dtype=dtype)
    first = (p * bin_size).floor().long() + start[:, None]
    last = ((p + 1) * bin_size).ceil().long() + start[:, None]
    return torch.stack([first, last], dim=2).clamp(0, size)


class RoIPool(nn.Module):
    """``roi_pool`` with its options fixed."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return roi_pool(input, rois, self.output_size, self.spatial_scale)
