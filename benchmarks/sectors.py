"""What a pooling kernel fetches on a GPU: the sectors of 32 bytes of the map that the samples of each RoI read.

Within a RoI a sector counts once, for the L1 cache keeps it; each RoI fetches its own from the L2 cache.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SECTOR = 32
_CHUNK = 64  # RoIs at a time

Axis = Callable[[Tensor, Tensor, int], Tensor]
"""Lower and upper coordinates of RoIs [R] in pixels and a map's extent -> the cells that are read, bool [R, extent]."""


def sampled(low: Tensor, high: Tensor, extent: int, *, scale: float, bins: int, ratio: int) -> Tensor:
    """Cells that RoIAlign's bilinear samples read on one axis."""
    steps = (torch.arange(bins * ratio, device=low.device) + 0.5) / (bins * ratio)
    at = low[:, None] * scale + steps * ((high - low)[:, None] * scale).clamp(min=1)
    roi, sample = ((at >= -1) & (at <= extent)).nonzero(as_tuple=True)
    first = at[roi, sample].clamp(0, extent - 1).long()
    cells = torch.zeros(len(low), extent, dtype=torch.bool, device=low.device)
    cells[roi, first] = True
    cells[roi, (first + 1).clamp(max=extent - 1)] = True
    return cells


def covered(low: Tensor, high: Tensor, extent: int, *, scale: float) -> Tensor:
    """Cells of RoIPool's rounded region on one axis."""
    start, end = ((side * scale + 0.5).floor()[:, None] for side in (low, high))
    cells = torch.arange(extent, device=low.device)
    return (cells >= start) & (cells <= torch.maximum(start, end))


def fetched(features: Tensor, rois: Tensor, axis: Axis) -> dict[str, int]:
    """Bytes of the sectors that the RoIs [R, 5] fetch ("gathered_bytes"), and of the map [N, C, H, W], contiguous or
    channels_last, what none of them reads ("untouched_bytes").

    Where a plane of a contiguous map does not begin with a sector it is counted as if it did.
    """
    _, channels, height, width = features.shape
    # A sector holds neighbours of one channel, or a cell has some of its own.
    cells, planes = SECTOR // features.itemsize, channels
    if not features.is_contiguous():
        cells, planes = 1, -(-channels * features.itemsize // SECTOR)
    gathered, touched = 0, 0
    for image in rois[:, 0].unique():
        read = torch.zeros(-(-height * width // cells), dtype=torch.bool, device=rois.device)
        for boxes in rois[rois[:, 0] == image, 1:].split(_CHUNK):
            x1, y1, x2, y2 = boxes.unbind(1)
            mask = (axis(y1, y2, height)[:, :, None] & axis(x1, x2, width)[:, None]).flatten(1)
            mask = torch.nn.functional.pad(mask, (0, -mask.shape[1] % cells)).unflatten(1, (-1, cells)).any(2)
            gathered += int(mask.sum())
            read |= mask.any(0)
        touched += int(read.sum())
    per_sector = SECTOR * planes
    return {
        "gathered_bytes": gathered * per_sector,
        "untouched_bytes": max(0, features.nbytes - touched * per_sector),
    }
