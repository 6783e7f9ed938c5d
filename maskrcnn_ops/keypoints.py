"""Keypoints from heatmaps, and the heatmap cells that keypoints are trained on (Mask R-CNN, section 5)."""

import torch
from torch import Tensor

from maskrcnn_ops._coordinates import same_coordinates

__all__ = ["heatmaps_to_keypoints", "keypoints_to_heatmap_targets"]


def heatmaps_to_keypoints(heatmaps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The place and the height of each heatmap's peak, after enlarging the map to its box.

    A map is enlarged by bicubic interpolation (a = -0.75, no aligned corners) to ``ceil(width)`` x
    ``ceil(height)`` positions of its box, of which each side counts as one pixel at least. The enlarged maps
    are never stored.

    Args:
        heatmaps: [R, K, M, M], floating point: one map (logits) for each keypoint of each region.
        boxes: [R, 4] (x1, y1, x2, y2), float32 or float64, pixels.

    Returns:
        keypoints [R, K, 3]: x, y of the peak's centre in the picture, and 1; scores [R, K]: the peak's value.
        float64 for float64 heatmaps, else float32; boxes are taken in that dtype.

        Of equal peaks the first in (y, x) order counts. NaN is never the largest; a map of NaN alone has the
        score -inf. A box with a non-finite number gives zeros. A side of more than 8192 pixels is searched at
        8192 positions evenly spread over it, so that no box costs unbounded time.

    Raises:
        RuntimeError: for other shapes, integer heatmaps or boxes, different devices, or maps without a pixel.

    Not differentiable. Deterministic. Works in a CUDA graph.

    Equivalent to:
        for each region, ``F.interpolate(heatmaps[r][None], (h, w), mode="bicubic")``, its argmax, and
        ``(argmax + 0.5) * side / positions + corner``.
    """
    return torch.ops.maskrcnn_ops.heatmaps_to_keypoints(heatmaps, boxes)


def keypoints_to_heatmap_targets(
    keypoints: Tensor, boxes: Tensor, heatmap_size: int
) -> tuple[Tensor, Tensor]:
    """The heatmap cell in which each keypoint lies: the class of a softmax over a region's cells.

    Args:
        keypoints: [R, K, 3] (x, y, visibility), float32 or float64, pixels.
        boxes: [R, 4] (x1, y1, x2, y2), float32 or float64, pixels.
        heatmap_size: M, cells a side.

    Returns:
        targets int64 [R, K]: ``row * M + column`` of the cell, 0 where there is none; valid bool [R, K]: the
        keypoint is visible (visibility above 0) and inside its box. The right and lower edge of a box
        belong to its last cells.

    Raises:
        ValueError: for other shapes or a ``heatmap_size`` below 1.

    Not differentiable. Deterministic.

    Equivalent to:
        ``floor((xy - corner) * M / side)``, with M - 1 on the right and lower edge.
    """
    op = "keypoints_to_heatmap_targets"
    if keypoints.dim() != 3 or keypoints.shape[2] != 3:
        raise ValueError(f"{op}: expected keypoints of shape [R, K, 3], got {list(keypoints.shape)}")
    if boxes.dim() != 2 or boxes.shape[0] != keypoints.shape[0] or boxes.shape[1] != 4:
        raise ValueError(f"{op}: expected boxes of shape [{keypoints.shape[0]}, 4], got {list(boxes.shape)}")
    if heatmap_size < 1:
        raise ValueError(f"{op}: expected heatmap_size of at least 1, got {heatmap_size}")
    keypoints, boxes = same_coordinates(keypoints.detach(), boxes.detach())
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    xy = keypoints[..., :2]
    cells = ((xy - low) * (heatmap_size / (high - low))).floor()
    cells = torch.where(xy == high, heatmap_size - 1, cells)
    inside = ((cells >= 0) & (cells < heatmap_size)).all(dim=-1)  # also False for NaN
    valid = inside & (keypoints[..., 2] > 0)
    x, y = torch.where(valid[..., None], cells, 0).long().unbind(-1)
    return y * heatmap_size + x, valid


@torch.library.register_fake("maskrcnn_ops::heatmaps_to_keypoints")
def _(heatmaps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    torch._check(
        heatmaps.dim() == 4,
        lambda: f"heatmaps_to_keypoints: expected heatmaps of shape [R, K, M, M], got {heatmaps.shape}",
    )
    dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    shape = heatmaps.shape[:2]
    return heatmaps.new_empty((*shape, 3), dtype=dtype), heatmaps.new_empty(shape, dtype=dtype)
