"""RoIAlign (He et al., Mask R-CNN, 2017) with average pooling."""

from __future__ import annotations

from collections.abc import Sequence

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
) -> Tensor:
    """Average of bilinear samples in each bin of each RoI.

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
    in its channel.

    A RoI with a non-finite index, coordinate or side gives zeros and no gradient; a finite index outside the
    batch raises RuntimeError. Geometry is computed in the dtype of boxes (half: float32), sums in that of
    input (half: float32). Differentiable in input; not in boxes.
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
    weights_y = _bin_weights(y1, side_y, pooled_h, height, sampling_ratio, finite).to(features.dtype)
    weights_x = _bin_weights(x1, side_x, pooled_w, width, sampling_ratio, finite).to(features.dtype)
    if num_images == 0:
        return input.new_zeros(len(rois), channels, pooled_h, pooled_w)

    pooled = []
    for n in range(num_images):
        rows = torch.einsum("rph,chw->rcpw", weights_y[index == n], features[n])
        pooled.append(torch.einsum("rcpw,rqw->rcpq", rows, weights_x[index == n]))
    grouped_order = index.argsort(stable=True)
    return torch.cat(pooled)[grouped_order.argsort()].to(input.dtype)


def _bin_weights(
    start: Tensor, side: Tensor, pooled: int, size: int, sampling_ratio: int, valid: Tensor
) -> Tensor:
    """[R, pooled, size]: mean interpolation weights of each bin's samples along one axis; 0 if not valid."""
    start, side = start.where(valid, 0), side.where(valid, 0)
    count = _sample_count(side, pooled, size, sampling_ratio)[:, None, None]  # [R, 1, 1]
    bin_size = (side / pooled)[:, None, None]
    p = torch.arange(pooled, device=start.device, dtype=start.dtype)[:, None]  # [P, 1]
    i = torch.arange(int(count.max()) if len(count) else 0, device=start.device, dtype=start.dtype)  # [G]

    u = start[:, None, None] + p * bin_size + (i + 0.5) * bin_size / count.clamp(min=1)  # [R, P, G]
    sampled = (i < count) & (u >= -1) & (u <= size) & valid[:, None, None]
    weights = linear_weights(u.clamp(0, size - 1), size) * sampled[..., None]  # [R, P, G, size]
    return weights.sum(2) / count.clamp(min=1)


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
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)
