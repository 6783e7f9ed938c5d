"""Matching the anchors of an RPN's five levels, and proposals, to ground truth."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Case, Row, Setting, Target
from maskrcnn_ops import reference

_RPN = (0.7, 0.3, True)
_HEAD = (0.5, 0.5, False)


def _peer_match(gt_boxes: Tensor, boxes: Tensor, rule: tuple[float, float, bool]) -> Tensor:
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    return Matcher(*rule)(box_iou(gt_boxes, boxes))


def _case(
    setting: Setting, gt_boxes: Tensor, boxes: Tensor, rule: tuple[float, float, bool], ours: Any
) -> Case:
    peer = partial(_peer_match, gt_boxes, boxes, rule)
    expected = peer if setting.peer else lambda: reference.match_boxes(gt_boxes, boxes, *rule)[0]
    count = operations.TEST * operations.overlaps(gt_boxes, boxes)
    return Case(ours, peer if setting.peer else None, expected, [gt_boxes, boxes], operations=count)


def _anchors(setting: Setting, kind: str) -> Case:
    """`kind`: from the grid's index, stored, or stored in random order."""
    levels = inputs.pyramid(setting.sizes, setting.device)
    gt_boxes = inputs.boxes(setting.sizes.masks, setting.sizes, seed=3).to(setting.device)
    anchors = torch.cat([level.anchors for level in levels])
    if kind == "shuffled":
        order = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(1))
        anchors = anchors[order.to(anchors.device)]
    cells = [level.cell_anchors for level in levels]
    grids, strides = [level.grid for level in levels], [level.stride for level in levels]

    def ours() -> Tensor:
        if kind == "grid":
            return ops.match_anchors(gt_boxes, cells, grids, strides, *_RPN)[0]
        return ops.match_boxes(gt_boxes, anchors, *_RPN)[0]

    return _case(setting, gt_boxes, anchors, _RPN, ours)


def _proposals(setting: Setting) -> Case:
    gt_boxes = inputs.boxes(setting.sizes.masks, setting.sizes, seed=3).to(setting.device)
    boxes = inputs.boxes(2 * setting.sizes.rois, setting.sizes).to(setting.device)
    return _case(setting, gt_boxes, boxes, _HEAD, lambda: ops.match_boxes(gt_boxes, boxes, *_HEAD)[0])


ROWS = [
    *(
        Row(
            name=f"match_boxes/240,000 anchors to 100/{kind}",
            prepare=partial(_anchors, kind=kind),
            tolerance=0,
            targets={"cpu": Target(10.0)},
            what="five levels, with low-quality matches; torchvision's box_iou and Matcher are given all anchors "
            f"in one tensor; ours: {what}",
        )
        for kind, what in (
            ("grid", "computed from the grid index"),
            ("stored", "the same tensor"),
            ("shuffled", "the same tensor, in random order for both"),
        )
    ),
    Row(
        name="match_boxes/2000 proposals to 100",
        prepare=_proposals,
        tolerance=0,
        what="as the RoI heads match; torchvision's box_iou and Matcher",
    ),
]
