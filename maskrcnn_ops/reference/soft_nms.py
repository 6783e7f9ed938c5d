"""Soft-NMS."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import widen
from .nms import iou_with


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    method: str = "gaussian",
    *,
    idxs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Indices [D] of the boxes [L, 4] that remain, by descending lowered score, and these scores [D].

    The box of highest score is kept (ties: lowest index), and the scores of the others of its group become

        linear:    s · (1 - iou) where iou >= iou_threshold, else s
        gaussian:  s · exp(-iou² / sigma)

    Boxes whose score is not above score_threshold are dropped. An IoU of 0/0 counts as 0. Not differentiable.
    """
    boxes, scores = widen(boxes.detach()), widen(scores.detach())
    dtype = torch.promote_types(boxes.dtype, scores.dtype)
    boxes, scores = boxes.to(dtype), scores.to(dtype, copy=True)
    groups = torch.zeros_like(scores, dtype=torch.int64) if idxs is None else idxs
    rest = (scores > score_threshold) & ~boxes.isnan().any(1)
    kept = []
    while rest.any():
        i = int(scores.where(rest, -torch.inf).argmax())  # the first of equal ones
        kept.append(i)
        rest[i] = False
        iou = iou_with(boxes[i], boxes).nan_to_num(0).clamp(min=0)
        if method == "gaussian":
            factor = torch.exp(-(iou * iou) / sigma)
        else:
            factor = (1 - iou).clamp(min=0).where(iou.double() >= iou_threshold, 1)
        factor = factor.where((iou > 0) & (groups == groups[i]), 1)
        scores = (scores * factor).where(rest, scores)
        rest &= scores > score_threshold
    indices = torch.tensor(kept, dtype=torch.int64, device=boxes.device).sort().values
    indices = indices[scores[indices].sort(stable=True, descending=True).indices]
    return indices, scores[indices]
