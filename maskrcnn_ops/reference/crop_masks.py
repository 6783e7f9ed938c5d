"""Masks and polygons cropped to regions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ._common import widen
from .roi_align import roi_align


def crop_masks(
    masks: Tensor,
    boxes: Tensor,
    size: int | Sequence[int],
    matches: Tensor | None = None,
    *,
    aligned: bool = False,
) -> Tensor:
    """Bitmaps [L, H, W], boxes [R, 4], size M or (rows, columns), matches [R] -> [R, M, M]: RoIAlign
    with adaptive sampling of each box's bitmap as a map of zeros and ones."""
    boxes = widen(boxes)
    index = torch.arange(len(boxes), device=boxes.device) if matches is None else matches
    rows, columns = (size, size) if isinstance(size, int) else size
    if len(boxes) == 0 or masks.numel() == 0:
        return boxes.new_zeros(len(boxes), rows, columns)
    rois = torch.cat([index[:, None].to(boxes), boxes], dim=1)
    return roi_align((masks != 0)[:, None].to(boxes), rois, (rows, columns), aligned=aligned)[:, 0]


def rasterize_polygons(
    polygons: Sequence[Sequence[Sequence[float]]],
    boxes: Tensor,
    size: int | Sequence[int],
    image_size: Sequence[int],
    matches: Tensor | None = None,
    *,
    aligned: bool = False,
) -> Tensor:
    """COCO polygons, a list of rings per object, through their bitmaps."""
    bitmaps = polygon_bitmaps(polygons, image_size).to(boxes.device)
    return crop_masks(bitmaps, boxes, size, matches, aligned=aligned)


def polygon_bitmaps(polygons: Sequence[Sequence[Sequence[float]]], image_size: Sequence[int]) -> Tensor:
    """bool [L, H, W]. COCO's rule: the outline is walked in fifths of a pixel, one step at a time along the
    longer side of each edge; between fifths 5 x + 2 and 5 x + 3 it passes the middle of column x, and there the
    column changes from the first row whose middle is not above the upper of the two points."""
    height, width = image_size
    bitmaps = torch.zeros(len(polygons), height, width, dtype=torch.bool)
    for bitmap, rings in zip(bitmaps, polygons, strict=True):
        for ring in rings:
            changes = torch.zeros(height + 1, width, dtype=torch.int64)
            walk = _walk([int(5 * number + 0.5) for number in ring])
            for (u, v), (next_u, next_v) in pairwise(walk):
                x, rest = divmod(min(u, next_u), 5)
                if u != next_u and rest == 2 and 0 <= x < width:
                    row = -((2 - min(v, next_v)) // 5)  # ceil((v + 0.5) / 5 - 0.5)
                    changes[min(max(row, 0), height), x] += 1
            bitmap |= changes[:height].cumsum(0) % 2 == 1
    return bitmaps


def _walk(fifths: list[int]) -> list[tuple[int, int]]:
    """The points of a closed outline."""
    corners = list(zip(fifths[::2], fifths[1::2], strict=True))
    points = []
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        steps, steep = max(abs(x1 - x0), abs(y1 - y0)), abs(x1 - x0) < abs(y1 - y0)
        if steps == 0:
            continue
        backwards = y0 > y1 if steep else x0 > x1  # an edge has the same points in both directions
        (xs, ys), (xe, ye) = ((x1, y1), (x0, y0)) if backwards else ((x0, y0), (x1, y1))
        slope = (xe - xs) / steps if steep else (ye - ys) / steps
        for d in range(steps + 1):
            t = steps - d if backwards else d
            across = int((xs if steep else ys) + slope * t + 0.5)
            points.append((across, ys + t) if steep else (xs + t, across))
    return points
