"""Assignment of boxes to ground truth by IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import maskrcnn_ops as ops

BELOW = -1  # best IoU under the low threshold: background
BETWEEN = -2  # between the thresholds: left out of the loss

_MATRIX_ELEMENTS = 1 << 22  # IoU values held at once: 16 MB


@dataclass(frozen=True)
class Matcher:
    """Gives each box its best ground truth, or :data:`BELOW` or :data:`BETWEEN`.

    Args:
        high_threshold: IoU from which on a box is a match.
        low_threshold: IoU under which it is background.
        allow_low_quality_matches: also keep, for every ground truth, the boxes that tie its best IoU; such a
            box keeps its own best ground truth, whatever that IoU is.
    """

    high_threshold: float
    low_threshold: float
    allow_low_quality_matches: bool = False

    def __post_init__(self) -> None:
        if self.low_threshold > self.high_threshold:
            raise ValueError(
                f"Matcher: expected low_threshold <= high_threshold, "
                f"got {self.low_threshold} > {self.high_threshold}"
            )

    @torch.no_grad()
    def __call__(self, gt_boxes: Tensor, boxes: Tensor) -> Tensor:
        """Match ``boxes [B, 4]`` with ``gt_boxes [L, 4]``: int64 ``[B]``, a ground truth, -1 or -2."""
        matches = torch.full((len(boxes),), BELOW, dtype=torch.int64, device=boxes.device)
        if len(gt_boxes) == 0 or len(boxes) == 0:
            return matches
        best, index, forced = self._best(gt_boxes, boxes)
        matches = torch.where(best >= self.low_threshold, BETWEEN, matches)
        return torch.where((best >= self.high_threshold) | forced, index, matches)

    def _best(self, gt_boxes: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each box's best IoU, its ground truth, whether it ties a ground truth's best; by blocks of L."""
        best = torch.full((len(boxes),), -1.0, device=boxes.device)
        index = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        forced = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        block = max(1, _MATRIX_ELEMENTS // len(boxes))
        for start in range(0, len(gt_boxes), block):
            iou = ops.box_iou(gt_boxes[start : start + block], boxes)
            value, row = iou.max(dim=0)
            better = value > best
            best = torch.where(better, value, best)
            index = torch.where(better, row + start, index)
            if self.allow_low_quality_matches:
                forced |= (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)
        return best, index, forced


def match_labels(matches: Tensor) -> Tensor:
    """1 for a match, 0 for background, -1 for a box left out (int64, same shape)."""
    return torch.where(matches >= 0, 1, torch.where(matches == BELOW, 0, -1))
