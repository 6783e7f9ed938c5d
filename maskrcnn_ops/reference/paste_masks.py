"""Masks of M x M probabilities pasted into the image at their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._common import FAR, linear_weights, widen


def paste_masks(
    masks: Tensor,
    boxes: Tensor,
    image_size: Sequence[int],
    threshold: float | None = 0.5,
    convention: str = "continuous",
) -> Tensor:
    """Each mask stretched bilinearly over its box.

    masks [D, M, M] or [D, 1, M, M] probabilities; boxes [D, 4] xyxy in pixels; image_size (H, W)
    -> bool [D, H, W], probability > threshold; with threshold None the probabilities in the dtype of masks.

    ``continuous`` (as detectron2): pixel x takes its centre to the mask,
    u = (x + 0.5 - x1) / (x2 - x1) * M - 0.5 (Note [Pixel centres] in ``maskrcnn_ops.reference``); outside the
    mask's cells is zero. A box without positive width and height gives an empty mask.

    ``integer`` (as torchvision): a ring of zeros around the mask, the box enlarged by (M + 2) / M about its
    centre and truncated to whole pixels, both ends included; over its n = last - first + 1 pixels
    u = (x - first + 0.5) * (M + 2) / n - 0.5, border repeated. Truncated coordinates are clamped to +-2^30.

    Rows and columns are independent: out = A_y @ mask @ A_x^T. A box with a non-finite coordinate or side
    gives an empty mask. Geometry is computed in the dtype of boxes (half: float32), sums and the comparison
    with the threshold, rounded to that dtype, in that of masks (half: float32). With threshold None
    differentiable in masks; never in boxes.
    """
    axis_weights = {"continuous": _continuous_weights, "integer": _integer_weights}[convention]
    height, width = image_size
    rows, columns = masks.shape[-2:]
    probabilities = widen(masks.reshape(len(masks), rows, columns))
    x1, y1, x2, y2 = widen(boxes.detach()).unbind(1)
    weights_y = axis_weights(y1, y2, height, rows).to(probabilities.dtype)
    weights_x = axis_weights(x1, x2, width, columns).to(probabilities.dtype)
    image = torch.einsum("dym,dmn,dxn->dyx", weights_y, probabilities, weights_x)
    return image.to(masks.dtype) if threshold is None else image > threshold


def _continuous_weights(low: Tensor, high: Tensor, size: int, side: int) -> Tensor:
    """[D, size, side]: weights of the mask's cells on each pixel along one axis."""
    extent = high - low
    valid = (extent > 0) & extent.isfinite()
    low, extent = low.where(valid, 0)[:, None], extent.where(valid, 1)[:, None]
    centres = torch.arange(size, device=low.device, dtype=low.dtype) + 0.5
    u = (centres - low) / extent * side - 0.5
    return linear_weights(u, side) * valid[:, None, None]


def _integer_weights(low: Tensor, high: Tensor, size: int, side: int) -> Tensor:
    """[D, size, side]: weights of the mask's cells on each pixel along one axis."""
    padded = side + 2
    valid = (high - low).isfinite()
    low, high = low.where(valid, 0), high.where(valid, 0)
    half, centre = (high - low) * 0.5 * (padded / side), (high + low) * 0.5
    first = (centre - half).clamp(-FAR, FAR).long()[:, None]
    last = (centre + half).clamp(-FAR, FAR).long()[:, None]
    pixels = torch.arange(size, device=low.device)
    covered = (pixels >= first) & (pixels <= last) & valid[:, None]
    scale = padded / (last - first + 1).clamp(min=1).to(low.dtype)
    u = ((pixels - first).to(low.dtype) + 0.5) * scale - 0.5
    weights = linear_weights(u.clamp(0, padded - 1), padded) * covered[..., None]
    return weights[..., 1:-1]  # the ring is zero
