"""Position-sensitive RoIPool (Dai et al., R-FCN, 2016) and RoIAlign (Li et al., Light-Head R-CNN, 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._common import FAR, as_rois, image_indices, pair, widen
from .roi_align import roi_align
from .roi_pool import _bin_ranges, _round_half_away


def ps_roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
) -> Tensor:
    """``roi_align``, aligned, of which every bin keeps the channel of its own: bin (p, q) of output channel c is that
    bin of input channel (c * P_h + p) * P_w + q.

    input [N, C * P_h * P_w, H, W] -> [R, C, P_h, P_w] in the dtype of input. Differentiable in input; not in boxes.
    """
    pooled_h, pooled_w = pair(output_size)
    rois = as_rois(boxes).detach()
    every = roi_align(input, rois, (pooled_h, pooled_w), spatial_scale, sampling_ratio, True)
    own = every.unflatten(
        1, (every.shape[1] // (pooled_h * pooled_w), pooled_h, pooled_w)
    )  # [R, C, P, P, P, P]
    return own.diagonal(dim1=2, dim2=4).diagonal(dim1=2, dim2=3)


def ps_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Average over the cells of each bin of each RoI, bin (p, q) of output channel c in input channel
    (c * P_h + p) * P_w + q.

    input [N, C * P_h * P_w, H, W]; boxes [R, 5] (image index, xyxy) or a list with one [L, 4] per image ->
    [R, C, P_h, P_w] in the dtype of input.

    Corners are scaled and rounded to cells, halves away from zero; side = max(end - start, 1), the end's cell left
    out (``roi_pool`` counts it). Bins as in ``roi_pool``, but with both ends clamped to the map's last row and column
    and not past them: these are never read, as in torchvision. A bin without cells gives 0.

    Geometry, non-finite RoIs and image indices as in ``roi_pool``; sums in the dtype of input (half: float32).
    Differentiable in input; not in boxes.
    """
    pooled_h, pooled_w = pair(output_size)
    num_images, channels, height, width = input.shape
    rois = as_rois(boxes).to(input.device).detach()
    index = image_indices("ps_roi_pool", rois, num_images)

    scaled = rois[:, 1:] * spatial_scale
    finite = scaled.isfinite().all(1) & rois[:, 0].isfinite()
    x1, y1, x2, y2 = _round_half_away(scaled.where(finite[:, None], 0)).clamp(-FAR, FAR).long().unbind(1)
    bins_y = _bin_ranges(y1, y2 - 1, pooled_h, max(height - 1, 0), rois.dtype)
    bins_x = _bin_ranges(x1, x2 - 1, pooled_w, max(width - 1, 0), rois.dtype)
    if num_images == 0:
        return input.new_zeros(len(rois), channels // (pooled_h * pooled_w), pooled_h, pooled_w)

    # Each bin is the sum over y and x of in_y * in_x * cell, divided by their number.
    features = widen(input).unflatten(1, (channels // (pooled_h * pooled_w), pooled_h, pooled_w))
    in_y, in_x = (
        _cells_of(bins, size, finite, features.dtype) for bins, size in ((bins_y, height), (bins_x, width))
    )
    number = in_y.sum(2)[:, :, None] * in_x.sum(2)[:, None]  # [R, P_h, P_w]
    sums = torch.einsum("rph,rcpqhw,rqw->rcpq", in_y, features[index], in_x)
    return (sums / number.clamp(min=1)[:, None]).to(input.dtype)


def _cells_of(bins: Tensor, size: int, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """[R, P, size]: 1 on the cells of each bin [R, P, 2], else 0."""
    cells = torch.arange(size, device=bins.device)
    return ((cells >= bins[..., :1]) & (cells < bins[..., 1:]) & valid[:, None, None]).to(dtype)


class PSRoIAlign(nn.Module):
    """``ps_roi_align`` with its options fixed."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return ps_roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)


class PSRoIPool(nn.Module):
    """``ps_roi_pool`` with its options fixed."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return ps_roi_pool(input, rois, self.output_size, self.spatial_scale)
