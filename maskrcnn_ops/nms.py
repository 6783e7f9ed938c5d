"""Non-maximum suppression: greedy, within groups, of padded batches, and Fast NMS."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["batched_nms", "fast_nms", "nms", "padded_nms"]

_ops = torch.ops.maskrcnn_ops


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive when each kept box suppresses those of lower score that overlap it.

    Boxes are visited by descending score, equal scores by ascending index. A box that no kept box suppresses is
    kept, and suppresses each later box with
    ``intersection / (area_a + area_b - intersection) > iou_threshold``.

    Girshick, Donahue, Darrell, Malik: Rich Feature Hierarchies (CVPR 2014), section 2.2.

    Args:
        boxes: [L, 4] xyxy in pixels, float32 or float64 (half precision is widened to float32).
        scores: [L], floating point.
        iou_threshold: IoU above which a box is suppressed, [0, 1] in practice. The IoU is computed and rounded
            in the dtype of the boxes and compared exactly with the threshold, a float64: the float32 nearest to
            0.1 is larger than 0.1, so boxes of that IoU are suppressed at 0.1. As on torchvision's CPU, on every
            device.

    Returns:
        int64 [D], indices into ``boxes`` by descending score.

    A box with a NaN coordinate or score is never kept and suppresses nothing, nor does an IoU of 0/0.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices, and a threshold of NaN.

    Not differentiable. Deterministic. On CUDA the number of kept boxes is read back, once.

    Equivalent to:
        ``for i in scores.argsort(descending=True, stable=True):``
        ``if alive[i]: alive[visited_later(i) & (box_iou(boxes, boxes)[i] > iou_threshold)] = False``
    """
    return _ops.nms(boxes, scores, None, iou_threshold)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    *,
    image_idxs: Tensor | None = None,
    max_output: int | None = None,
    score_threshold: float | None = None,
) -> Tensor:
    """:func:`nms` in which only boxes of the same group (class, pyramid level) and image suppress each other.

    Groups are compared as integers; boxes are not shifted apart, so coordinates keep their precision and may
    be negative.

    Args:
        boxes, scores, iou_threshold: as in :func:`nms`.
        idxs: [L], the group of each box: any values of an integer dtype.
        image_idxs: [L], the image of each box, likewise; by default all boxes are of one image.
        max_output: the most boxes to keep of each image, over all its groups those of highest score. Boxes
            behind them are not visited on the CPU, nor on CUDA if all are of one image.
        score_threshold: boxes take part whose score is above it, compared as ``scores > score_threshold`` in
            the dtype of the scores (float32 for half precision).

    Returns:
        int64 [D], indices into ``boxes`` of all groups' and images' kept boxes together, by descending score.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices, a threshold of NaN, a negative ``max_output``.

    Not differentiable. Deterministic. On CUDA the number of kept boxes is read back, once;
    :func:`padded_nms` reads nothing back.

    Equivalent to:
        ``nms(boxes[mine], scores[mine], iou_threshold)`` for each group g of each image n with
        ``mine = (idxs == g) & (image_idxs == n) & (scores > score_threshold)``, merged by score, and of each
        image the first ``max_output``.
    """
    return _ops.nms(boxes, scores, idxs, iou_threshold, image_idxs, score_threshold, max_output)


def padded_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    *,
    classes: Tensor | None = None,
    counts: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """NMS of a batch of images into a result of fixed size, for use without host synchronisation.

    Nothing is read back, so a call can be captured in a CUDA graph. :func:`torch.vmap` over images runs as one
    batched call.

    Args:
        boxes: [N, L, 4] as in :func:`nms`, or [L, 4] for one image; then every other shape is without N, too.
        scores: [N, L], floating point.
        iou_threshold: as in :func:`nms`.
        max_output: M, the most boxes to keep of each image; boxes behind them are not visited.
        classes: [N, L], integers of any dtype: only boxes of one class suppress each other.
        counts: [N], integers: the boxes that are there in each image, its first; others are ignored. By default
            L. Values outside [0, L] are taken as the nearest in it.
        score_threshold: as in :func:`batched_nms`.

    Returns:
        indices: int64 [N, M], into the image's L boxes by descending score; -1 behind the last kept one. (To
        gather, use ``indices.clamp(min=0)``; L = 0 leaves nothing to gather.)
        counts: int64 [N], the number of kept boxes.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices, a threshold of NaN, a negative ``max_output``.

    Not differentiable. Deterministic.

    Equivalent to:
        ``k = batched_nms(boxes[n, :c], scores[n, :c], classes[n, :c], iou_threshold, max_output=M)``,
        ``indices[n] = pad(k, (0, M - len(k)), value=-1)``, ``counts[n] = len(k)`` with ``c = counts[n]``.
    """
    if boxes.dim() != 2:
        return _ops.padded_nms(boxes, scores, classes, counts, iou_threshold, score_threshold, max_output)
    batch = (None if each is None else each[None] for each in (boxes, scores, classes, counts))
    indices, kept = _ops.padded_nms(*batch, iou_threshold, score_threshold, max_output)
    return indices[0], kept[0]


def fast_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    idxs: Tensor | None = None,
    max_output: int | None = None,
    score_threshold: float | None = None,
) -> Tensor:
    """Fast NMS: a box is dropped if any box of higher score overlaps it, be that one dropped or not.

    It keeps a subset of what :func:`nms` keeps. There all pairs can be decided at the same time; here that is
    done without the [L, L] matrix of IoUs.

    Bolya, Zhou, Xiao, Lee: YOLACT (ICCV 2019), section 5.

    Args:
        boxes, scores, iou_threshold: as in :func:`nms`; dropped are boxes with an IoU above the threshold.
        idxs: [L], the class of each box, integers: only boxes of one class overlap. By default there is one.
        max_output: the most boxes to keep, over all classes those of highest score.
        score_threshold: as in :func:`batched_nms`; boxes that do not take part drop none.

    Returns:
        int64 [D], indices into ``boxes`` of the kept boxes of all classes, by descending score.

    A box with a NaN coordinate or score is never kept and drops nothing.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices, a threshold of NaN, a negative ``max_output``.

    Not differentiable. Deterministic. On CUDA the number of kept boxes is read back, once.

    Equivalent to:
        ``order = scores.argsort(descending=True, stable=True)``,
        ``order[box_iou(boxes[order], boxes[order]).triu(1).amax(0) <= iou_threshold]`` for each class.
    """
    return _ops.nms(boxes, scores, idxs, iou_threshold, None, score_threshold, max_output, True)


@torch.library.register_fake("maskrcnn_ops::nms")
def _(boxes: Tensor, *arguments: Any, **options: Any) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return torch.empty(kept, dtype=torch.int64, device=boxes.device)


@torch.library.register_fake("maskrcnn_ops::padded_nms")
def _(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor | None,
    counts: Tensor | None,
    iou_threshold: float,
    score_threshold: float | None,
    max_output: int,
) -> tuple[Tensor, Tensor]:
    indices = boxes.new_empty((boxes.shape[0], max_output), dtype=torch.int64)
    return indices, boxes.new_empty(boxes.shape[0], dtype=torch.int64)


@torch.library.register_vmap("maskrcnn_ops::padded_nms")
def _(
    info: Any,
    in_dims: tuple[int | None, ...],
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor | None,
    counts: Tensor | None,
    *options: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """The mapped dimension joins the images: [B, N, ...] as [B * N, ...]."""

    def joined(tensor: Tensor | None, dim: int | None) -> Tensor | None:
        if tensor is None:
            return None
        mapped = tensor.movedim(dim, 0) if dim is not None else tensor.expand(info.batch_size, *tensor.shape)
        return mapped.flatten(0, 1)

    tensors = [joined(*each) for each in zip((boxes, scores, classes, counts), in_dims, strict=False)]
    indices, kept = _ops.padded_nms(*tensors, *options)
    split = (info.batch_size, -1) if info.batch_size else (0, 0)
    return (indices.reshape(*split, indices.shape[1]), kept.reshape(split)), (0, 0)
