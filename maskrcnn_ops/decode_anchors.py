"""From an RPN's maps to candidate boxes: the best anchors of every level, decoded, clipped and filtered."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_ops._checks import from_host, pair

__all__ = ["decode_anchors"]

_ops = torch.ops.maskrcnn_ops
_CLIP = math.log(1000.0 / 16)


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
    clip: float = _CLIP,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ``top_k`` anchors of highest score of every level of an RPN, as boxes; ready for :func:`padded_nms`.

    The scores are selected first and only the chosen anchors are decoded; anchors are computed from their index
    and never stored. The shapes of the results do not depend on the data.

    Ren, He, Girshick, Sun: Faster R-CNN (NIPS 2015); Lin et al.: Feature Pyramid Networks (CVPR 2017).

    Args:
        objectness: for each of at most 8 levels [N, A, H, W], logits of one floating dtype, contiguous or
            channels_last (other strides are copied).
        deltas: for each level [N, 4 * A, H, W], channel 4 * a + j; as in :func:`decode_boxes`.
        cell_anchors: for each level [A, 4] xyxy, the anchors of the cell at the origin; as in
            :func:`decode_grid`.
        strides: pixels from cell to cell of each level, (y, x) or one number for both.
        image_sizes: [N, 2] (height, width) to which boxes are clipped. On CUDA a tensor there saves a copy, and
            is needed in a CUDA graph.
        top_k: the most anchors to take of each level of each image.
        min_size: boxes of which a side is shorter after clipping are left out.
        score_threshold: the least probability. Compared as logits, ``objectness >= log(p / (1 - p))``.
        weights, clip: as in :func:`decode_boxes`.

    Returns:
        With S the sum of ``min(top_k, H * W * A)`` over the levels:
        boxes: [N, S, 4] xyxy, float32 (float64 for float64 maps);
        scores: [N, S], the logits, in that dtype;
        levels: int64 [N, S];
        counts: int64 [N], the boxes of each image. They come first, level by level by falling score; zeros
            follow.

    Of equal scores the anchor that comes first in (y, x, anchor) order counts as higher. NaN counts as lowest; an
    anchor with a NaN among its score and deltas is never returned.

    Raises:
        RuntimeError, ValueError: for bad shapes, dtypes or devices, and a NaN as threshold or size.

    Not differentiable. Deterministic. Nothing is read back from the GPU.

    Equivalent to:
        for each image n and level ``s, d = (x.permute(1, 2, 0).reshape(-1, c) for x, c in maps[n])``,
        ``i = s.argsort(descending=True, stable=True)[:top_k]``,
        ``b = clip_boxes_to_image(decode_boxes(d[i], anchors[i], weights, clip), image_sizes[n])``, then what
        ``remove_small_boxes(b, min_size)`` and the threshold leave, joined and padded.
    """
    op = "decode_anchors"
    steps = [step for stride in strides for step in pair(stride, op, "strides")]
    maps, codes = [each.detach() for each in objectness], [each.detach() for each in deltas]
    if not maps:
        raise ValueError(f"{op}: expected between 1 and 8 maps of objectness, got 0")
    if not isinstance(image_sizes, Tensor):
        sizes = torch.tensor(image_sizes, dtype=torch.float32).reshape(-1, 2)
        image_sizes = from_host(sizes, maps[0].device, op)
    return _ops.decode_anchors(
        maps, codes, list(cell_anchors), steps, image_sizes, top_k, min_size, score_threshold, weights, clip
    )


@torch.library.register_fake("maskrcnn_ops::decode_anchors")
def _(
    objectness: list[Tensor],
    deltas: list[Tensor],
    cell_anchors: list[Tensor],
    strides: list[float],
    image_sizes: Tensor,
    top_k: int,
    *options: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first = objectness[0]
    images = first.shape[0]
    slots = sum(torch.sym_min(top_k, each.shape[1] * each.shape[2] * each.shape[3]) for each in objectness)
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    return (
        first.new_empty((images, slots, 4), dtype=dtype),
        first.new_empty((images, slots), dtype=dtype),
        first.new_empty((images, slots), dtype=torch.int64),
        first.new_empty(images, dtype=torch.int64),
    )
