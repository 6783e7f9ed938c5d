"""Greedy non-maximum suppression, within all boxes or within each group of boxes."""

import torch
from torch import Tensor

__all__ = ["batched_nms", "nms"]

_nms = torch.ops.maskrcnn_ops.nms


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
    return _nms(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` in which only boxes of the same group (class, pyramid level, image) suppress each other.

    Groups are compared as integers; boxes are not shifted apart, so coordinates keep their precision and may
    be negative.

    Args:
        boxes, scores, iou_threshold: as in :func:`nms`.
        idxs: [L], the group of each box: any values of an integer dtype.

    Returns:
        int64 [D], indices into ``boxes`` of all groups' kept boxes together, by descending score.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices, and a threshold of NaN.

    Not differentiable. Deterministic. On CUDA the number of kept boxes is read back, once.

    Equivalent to:
        ``nms(boxes[idxs == g], scores[idxs == g], iou_threshold)`` for each group g, merged by score.
    """
    return _nms(boxes, scores, idxs, iou_threshold)


@torch.library.register_fake("maskrcnn_ops::nms")
def _(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return torch.empty(kept, dtype=torch.int64, device=boxes.device)
