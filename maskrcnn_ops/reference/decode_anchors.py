"""From an RPN's maps to candidate boxes, one image and one level at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._common import pair, widen
from .boxes import MAX_LOG_SCALE, clip_boxes_to_image, decode_boxes, grid_anchors


def decode_anchors(
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    cell_anchors: Sequence[Tensor],
    strides: Sequence[int | Sequence[int]],
    image_sizes: Tensor | Sequence[Sequence[int]],
    top_k: int,
    *,
    min_size: float = 0.0,
    score_threshold: float = 0.0,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    clip: float = MAX_LOG_SCALE,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best ``top_k`` anchors of each level, decoded and clipped, without small sides and low scores.

    objectness [N, A, H, W] and deltas [N, 4 A, H, W] a level; image_sizes [N, 2]. Returns boxes [N, S, 4],
    logits [N, S], levels [N, S], counts [N], S = sum of min(top_k, H W A): level by level, best first (ties:
    the lower index, NaN last), then zeros.
    """
    kept = [min(top_k, each.shape[1:].numel()) for each in objectness]
    images, dtype = len(objectness[0]), widen(objectness[0]).dtype
    boxes = torch.zeros(images, sum(kept), 4, dtype=dtype)
    scores = torch.zeros(images, sum(kept), dtype=dtype)
    levels = torch.zeros(images, sum(kept), dtype=torch.int64)
    counts = torch.zeros(images, dtype=torch.int64)
    least = math.log(score_threshold / (1 - score_threshold)) if score_threshold > 0 else -math.inf
    for n in range(images):
        count = 0
        for level, (logits, codes, cells, stride) in enumerate(
            zip(objectness, deltas, cell_anchors, strides, strict=True)
        ):
            anchors = grid_anchors(cells.to(dtype), logits.shape[-2:], pair(stride))
            flat = widen(logits[n]).permute(1, 2, 0).flatten()
            order = flat.where(~flat.isnan(), -math.inf).argsort(descending=True, stable=True)
            order = torch.cat([order[~flat[order].isnan()], order[flat[order].isnan()]])[: kept[level]]
            rows = widen(codes[n]).permute(1, 2, 0).reshape(-1, 4)
            found = clip_boxes_to_image(
                decode_boxes(rows[order], anchors[order], weights, clip),
                [int(side) for side in image_sizes[n]],
            )
            sides = found[:, 2:] - found[:, :2]
            good = ((sides >= min_size).all(1) & (flat[order] >= least)).nonzero().flatten()
            here = slice(count, count + len(good))
            boxes[n, here], scores[n, here], levels[n, here] = found[good], flat[order[good]], level
            count += len(good)
        counts[n] = count
    return boxes, scores, levels, counts
