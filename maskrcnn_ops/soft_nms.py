"""Soft-NMS: overlapping boxes lose score instead of being dropped."""

from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["soft_nms"]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    method: Literal["linear", "gaussian"] = "gaussian",
    *,
    idxs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Boxes and their scores after each kept box has lowered the scores of those that overlap it.

    Again and again the box of highest score is kept, of equal scores the one of lowest index, and the score of
    every other box is multiplied by a factor of its IoU with that box: ``1 - iou`` if ``iou >= iou_threshold``
    and 1 otherwise (linear), or ``exp(-iou² / sigma)`` (gaussian). A box is dropped as soon as its score is not
    above ``score_threshold``.

    Bodla, Singh, Chellappa, Davis: Soft-NMS (ICCV 2017), section 3.

    Args:
        boxes: [L, 4] xyxy in pixels, float32 or float64 (half precision is widened to float32).
        scores: [L], likewise, not negative; beside boxes of another dtype both become float64.
        iou_threshold: for the linear method; compared exactly with the IoU in the dtype of the boxes.
        sigma: for the gaussian method, above 0.
        score_threshold: scores above it remain.
        method: "linear" or "gaussian".
        idxs: [L], the group (class, image) of each box, integers of any dtype: only boxes of one group lower
            each other's scores. By default there is one group.

    Returns:
        indices: int64 [D], into ``boxes``, by descending score, equal scores by ascending index. Within a group
        of scores that are not negative this is the order in which boxes were kept.
        scores: [D], the lowered scores, float32 or float64.

    A box with a NaN coordinate or score is never kept and lowers no score, nor does an IoU of 0/0.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices, a threshold of NaN, a ``sigma`` of 0 or less.
        ValueError: for an unknown ``method``.

    Not differentiable. Deterministic. On CUDA the number of kept boxes is read back, once.

    Equivalent to:
        ``while len(rest): i = rest[scores[rest].argmax()]; kept += [i]; rest.remove(i)``
        ``scores[rest] *= exp(-box_iou(boxes[rest], boxes[[i]])[:, 0] ** 2 / sigma)``
        ``rest = rest[scores[rest] > score_threshold]``
    """
    if method not in ("linear", "gaussian"):
        raise ValueError(f"soft_nms: expected method 'linear' or 'gaussian', got {method!r}")
    gaussian = method == "gaussian"
    return torch.ops.maskrcnn_ops.soft_nms(
        boxes, scores, idxs, iou_threshold, sigma, score_threshold, gaussian
    )


@torch.library.register_fake("maskrcnn_ops::soft_nms")
def _(boxes: Tensor, scores: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    kept = torch.library.get_ctx().new_dynamic_size()
    dtype = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    return boxes.new_empty(kept, dtype=torch.int64), boxes.new_empty(kept, dtype=dtype)
