"""RoIAlign (He et al., Mask R-CNN, 2017): average or maximum of bilinear samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ._common import as_rois, image_indices, linear_weights, pair, widen


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Average (or maximum) of bilinear samples in each bin of each RoI.

    input [N, C, H, W]; boxes [R, 5] (image index, xyxy) or a list with one [L, 4] per image, in coordinates
    that ``spatial_scale`` brings to the map -> [R, C, P, P] (or output_size = (height, width)) in the dtype
    of input.

    The map is a grid of cells (Note [Pixel centres] in ``maskrcnn_ops.reference``). A RoI is
    ``box * spatial_scale - offset`` with offset 0.5 if ``aligned``, else 0 and its sides at least 1. Its
    sides are cut into P bins, each bin into ``sampling_ratio`` samples a side, or if that is <= 0 into

        count = min(ceil(side / P), 2 * map_side + 8)

    for that axis. The bound keeps the work finite for any box; it changes nothing for a RoI shorter than P
    times twice its map. A count of 0 (aligned, side <= 0) gives zeros. Samples below -1 or above the map's
    side give zero; the rest repeat the border.

    Rows and columns are independent, so the whole is a product: out = A_y @ F @ A_x^T, with A [P, map_side]
    the mean interpolation weights of the samples of each bin. Being a product, one non-finite feature spreads
    in its channel. The maximum takes the same product with the weights of single samples, then the largest of
    each bin, the first of equal ones in (y, x) order.

    A RoI with a non-finite index, coordinate or side gives zeros and no gradient; a finite index outside the
    batch raises RuntimeError. Geometry is computed in the dtype of boxes (half: float32), sums in that of
    input (half: float32). Differentiable in input, and with a fixed number of samples in boxes.
    """
    pooled_h, pooled_w = pair(output_size)
    num_images, channels, height, width = input.shape
    rois = as_rois(boxes).to(input.device)
    index = image_indices("roi_align", rois, num_images)

    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - offset).unbind(1)
    side_x, side_y = x2 - x1, y2 - y1
    finite = torch.stack([rois[:, 0], x1, y1, side_x, side_y]).isfinite().all(0)
    if not aligned:
        side_x, side_y = side_x.clamp(min=1), side_y.clamp(min=1)

    features = widen(input)
    samples_y = _sample_weights(y1, side_y, pooled_h, height, sampling_ratio, finite)
    samples_x = _sample_weights(x1, side_x, pooled_w, width, sampling_ratio, finite)
    if num_images == 0:
        return input.new_zeros(len(rois), channels, pooled_h, pooled_w)

    pool = {"mean": _mean_of_samples, "max": _maximum_of_samples}[reduction]
    pooled = [
        pool(features[n], samples_y.of(index == n), samples_x.of(index == n)) for n in range(num_images)
    ]
    grouped_order = index.argsort(stable=True)
    return torch.cat(pooled)[grouped_order.argsort()].to(input.dtype)


class _Samples(NamedTuple):
    """Samples of R RoIs along one axis: interpolation weights [R, P, G, side], and how many count [R]."""

    weights: Tensor
    number: Tensor

    def of(self, chosen: Tensor) -> _Samples:
        return _Samples(self.weights[chosen], self.number[chosen])


def _mean_of_samples(features: Tensor, samples_y: _Samples, samples_x: _Samples) -> Tensor:
    """[C, H, W] -> [R, C, P_h, P_w]."""
    mean_y, mean_x = (
        (each.weights.sum(2) / each.number.clamp(min=1)[:, None, None]).to(features.dtype)
        for each in (samples_y, samples_x)
    )
    return torch.einsum("rcpw,rqw->rcpq", torch.einsum("rph,chw->rcpw", mean_y, features), mean_x)


def _maximum_of_samples(features: Tensor, samples_y: _Samples, samples_x: _Samples) -> Tensor:
    """[C, H, W] -> [R, C, P_h, P_w]."""
    rows = torch.einsum("rpih,chw->rcpiw", samples_y.weights.to(features.dtype), features)
    values = torch.einsum("rcpiw,rqjw->rcpqij", rows, samples_x.weights.to(features.dtype))
    i, j = (torch.arange(size, device=features.device) for size in values.shape[-2:])
    counts = (i < samples_y.number[:, None])[:, :, None] & (j < samples_x.number[:, None])[:, None]
    flat = values.masked_fill(~counts[:, None, None, None], -math.inf).flatten(-2)
    if flat.shape[-1] == 0:
        return flat.new_zeros(flat.shape[:-1])
    best = flat.gather(-1, flat.argmax(-1, keepdim=True)).squeeze(-1)  # argmax: the first of equal ones
    return best.where(counts.flatten(1).any(1)[:, None, None, None], 0)


def _sample_weights(
    start: Tensor, side: Tensor, pooled: int, size: int, sampling_ratio: int, valid: Tensor
) -> _Samples:
    """Samples along one axis with `size` cells. What reads nothing, or is not valid, has weight 0."""
    start, side = start.where(valid, 0), side.where(valid, 0)
    count = _sample_count(side.detach(), pooled, size, sampling_ratio)
    bin_size = (side / pooled)[:, None, None]  # [R, 1, 1]
    p = torch.arange(pooled, device=start.device, dtype=start.dtype)[:, None]  # [P, 1]
    i = torch.arange(int(count.max()) if len(count) else 0, device=start.device, dtype=start.dtype)  # [G]

    u = start[:, None, None] + p * bin_size + (i + 0.5) * bin_size / count.clamp(min=1)[:, None, None]
    sampled = (i < count[:, None, None]) & (u >= -1) & (u <= size) & valid[:, None, None]
    return _Samples(linear_weights(u.clamp(0, size - 1), size) * sampled[..., None], count)


def _sample_count(side: Tensor, pooled: int, size: int, sampling_ratio: int) -> Tensor:
    """[R], whole numbers: samples of one bin along one axis; see ``roi_align`` for the bound."""
    if sampling_ratio > 0:
        return torch.full_like(side, sampling_ratio)
    return (side / pooled).ceil().clamp(0, 2 * size + 8)


class RoIAlign(nn.Module):
    """``roi_align`` with its options fixed."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
        *,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.reduction = reduction

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return roi_align(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            reduction=self.reduction,
        )
