"""Assignment of boxes to ground truth by IoU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import maskrcnn_ops as ops

BELOW = -1  # best IoU under the low threshold: background
BETWEEN = -2  # between the thresholds: left out of the loss


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

    def __call__(self, gt_boxes: Tensor, boxes: Tensor) -> Tensor:
        """Match ``boxes [B, 4]`` with ``gt_boxes [L, 4]``: int64 ``[B]``, a ground truth, -1 or -2."""
        return ops.match_boxes(gt_boxes, boxes, *self._rule())[0]

    def match_anchors(
        self,
        gt_boxes: Tensor,
        cells: list[Tensor],
        grid_sizes: list[tuple[int, int]],
        strides: list[tuple[int, int]],
    ) -> Tensor:
        """The same for the anchors of all levels, which are computed on the way; see
        :func:`maskrcnn_ops.match_anchors`."""
        return ops.match_anchors(gt_boxes, cells, grid_sizes, strides, *self._rule())[0]

    def _rule(self) -> tuple[float, float, bool]:
        return self.high_threshold, self.low_threshold, self.allow_low_quality_matches


def match_labels(matches: Tensor) -> Tensor:
    """1 for a match, 0 for background, -1 for a box left out (int64, same shape)."""
    return torch.where(matches >= 0, 1, torch.where(matches == BELOW, 0, -1))
