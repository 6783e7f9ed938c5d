"""Keypoints from heatmaps and back, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import widen

MOST_POSITIONS = 8192


def heatmaps_to_keypoints(heatmaps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`maskrcnn_ops.heatmaps_to_keypoints`."""
    heatmaps = widen(heatmaps.detach())
    boxes = boxes.detach().to(heatmaps.dtype)
    regions, kinds = heatmaps.shape[:2]
    keypoints = heatmaps.new_zeros(regions, kinds, 3)
    scores = heatmaps.new_zeros(regions, kinds)
    for r in range(regions):
        if not boxes[r].isfinite().all():
            continue
        sides = (boxes[r, 2:] - boxes[r, :2]).clamp(min=1)
        columns, rows = (int(count) for count in sides.ceil().clamp(max=MOST_POSITIONS))
        large = enlarge(heatmaps[r], rows, columns).flatten(1)
        large = large.where(~large.isnan(), -torch.inf)
        scores[r], place = large.max(dim=1)
        # The first of equals, whatever order max looks in.
        place = (large == scores[r][:, None]).int().argmax(dim=1)
        at = torch.stack([place % columns, place // columns], dim=1).to(boxes.dtype) + 0.5
        keypoints[r, :, :2] = boxes[r, :2] + at * sides / torch.tensor([columns, rows]).to(boxes)
        keypoints[r, :, 2] = 1
    return keypoints, scores


def enlarge(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Maps [K, H, W] interpolated to [K, rows, columns]."""
    weights_y = _cubic_weights(rows, maps.shape[1], maps.dtype)
    weights_x = _cubic_weights(columns, maps.shape[2], maps.dtype)
    return weights_y @ maps @ weights_x.T


def _cubic_weights(positions: int, size: int, dtype: torch.dtype) -> Tensor:
    """Interpolation matrix [positions, size] of cubic convolution (Keys, 1981), a = -0.75, border repeated."""
    a = -0.75
    u = (torch.arange(positions, dtype=torch.float64) + 0.5) * (size / positions) - 0.5
    weights = torch.zeros(positions, size, dtype=torch.float64)
    for k in range(-1, 3):
        cell = u.floor() + k
        t = (u - cell).abs()
        near = ((a + 2) * t - (a + 3)) * t**2 + 1
        far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        index = cell.clamp(0, size - 1).long()[:, None]
        weights.scatter_add_(1, index, torch.where(t <= 1, near, far)[:, None])
    return weights.to(dtype)


def keypoints_to_heatmap_targets(
    keypoints: Tensor, boxes: Tensor, heatmap_size: int
) -> tuple[Tensor, Tensor]:
    """See :func:`maskrcnn_ops.keypoints_to_heatmap_targets`."""
    targets = torch.zeros(keypoints.shape[:2], dtype=torch.int64)
    valid = torch.zeros(keypoints.shape[:2], dtype=torch.bool)
    for r, box in enumerate(boxes.tolist()):
        for k, (*point, visibility) in enumerate(keypoints[r].tolist()):
            cells = []
            for axis in range(2):
                low, high, at = box[axis], box[axis + 2], point[axis]
                if at == high:
                    cells.append(heatmap_size - 1)
                elif low <= at < high:
                    cells.append(int((at - low) * (heatmap_size / (high - low))))
            if len(cells) == 2 and visibility > 0:
                targets[r, k], valid[r, k] = cells[1] * heatmap_size + cells[0], True
    return targets, valid
