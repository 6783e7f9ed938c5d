"""Boxes: areas, overlaps, formats, and the box code of Faster R-CNN.

Half-precision boxes and deltas are widened to float32 on entry and results are then float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._common import widen

MAX_LOG_SCALE = math.log(1000.0 / 16)


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Width times height: [..., 4] -> [...]; negative where one side is. fmt: xyxy, xywh or cxcywh."""
    sides = _sides(widen(boxes)) if _checked(fmt) == "xyxy" else widen(boxes)[..., 2:]
    return sides[..., 0] * sides[..., 1]


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """[..., 4] from one format to another: xyxy (corners), xywh (corner, sides), cxcywh (centre, sides)."""
    boxes = widen(boxes)
    if _checked(in_fmt) == _checked(out_fmt):
        return boxes.clone()
    first, second = boxes[..., :2], boxes[..., 2:]
    if in_fmt == "xywh":
        second = first + second
    elif in_fmt == "cxcywh":
        first, second = first - 0.5 * second, first + 0.5 * second
    if out_fmt == "xywh":
        second = second - first
    elif out_fmt == "cxcywh":
        first, second = (first + second) / 2, second - first
    return torch.cat([first, second], dim=-1)


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair: [..., L, 4], [..., M, 4] -> [..., L, M]. 0/0 is NaN.

    Equivalent to: inter / (area1 + area2 - inter). The gradient of two equal edges is shared equally.
    """
    inter, union = _inter_union(box_convert(boxes1, fmt, "xyxy"), box_convert(boxes2, fmt, "xyxy"))
    return inter / union


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU minus the empty part of the smallest enclosing box: [..., L, 4], [..., M, 4] -> [..., L, M].

    (Rezatofighi et al., 2019.) From -1 to 1; 0/0 is NaN.
    """
    boxes1, boxes2 = widen(boxes1), widen(boxes2)
    inter, union = _inter_union(boxes1, boxes2)
    low = torch.minimum(boxes1[..., :, None, :2], boxes2[..., None, :, :2])
    high = torch.maximum(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])
    enclosing = (high - low).clamp(min=0).prod(-1)
    return inter / union - (enclosing - union) / enclosing


def clip_boxes_to_image(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Corners moved into the image of size (height, width): [..., 4] -> [..., 4]. NaN stays NaN."""
    height, width = size
    x1, y1, x2, y2 = widen(boxes).unbind(-1)
    return torch.stack(
        [x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=-1
    )


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """int64 indices of the boxes [L, 4] whose two sides are both >= min_size, ascending."""
    return (_sides(widen(boxes)) >= min_size).all(-1).nonzero().flatten()


def masks_to_boxes(masks: Tensor) -> Tensor:
    """First and last non-zero column and row: [L, H, W] -> float32 [L, 4]; zeros for an empty mask.

    Pixel *indices*, both ends included, as torchvision gives them: one less than the edges of Note [Pixel
    centres] on the lower right.
    """
    boxes = torch.zeros(len(masks), 4, device=masks.device)
    for box, mask in zip(boxes, masks, strict=True):
        y, x = mask.nonzero(as_tuple=True)
        if len(y):
            box.copy_(torch.stack([x.min(), y.min(), x.max(), y.max()]))
    return boxes


def encode_boxes(
    reference_boxes: Tensor, proposals: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Deltas (dx, dy, dw, dh) that move each proposal onto its reference box: [L, 4], [L, 4] -> [L, 4].

    dx = wx (x_ref - x_prop) / w_prop, dw = ww log(w_ref / w_prop) between centres and sides, likewise for y
    and h. Inverse of ``decode_boxes`` as long as the latter does not clip. A side of 0 gives inf or NaN.
    """
    reference_boxes, proposals = widen(reference_boxes), widen(proposals)
    sides, centres = _sides(proposals), _centres(proposals)
    shift = (_centres(reference_boxes) - centres) / sides
    log_scale = (_sides(reference_boxes) / sides).log()
    deltas = torch.cat([shift, log_scale], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    clip: float = MAX_LOG_SCALE,
) -> Tensor:
    """Boxes from deltas: [L, 4] or [L, K * 4] (one box a class), anchors [L, 4] -> the deltas' shape.

    Centre = delta / weight * side + centre of the anchor; side = exp(min(delta / weight, clip)) * side of the
    anchor.
    """
    deltas, anchors = widen(deltas), widen(anchors)
    codes = deltas.unflatten(-1, (-1, 4))  # [L, K, 4]
    codes = codes / codes.new_tensor(weights)
    sides, centres = _sides(anchors)[..., None, :], _centres(anchors)[..., None, :]
    centre = codes[..., :2] * sides + centres
    half = 0.5 * (codes[..., 2:].clamp(max=clip).exp() * sides)
    return torch.cat([centre - half, centre + half], dim=-1).flatten(-2)


def decode_grid(
    deltas: Tensor,
    cell_anchors: Tensor,
    grid_size: Sequence[int],
    stride: Sequence[float],
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    clip: float = MAX_LOG_SCALE,
) -> Tensor:
    """``decode_boxes`` for one level of an RPN, the anchors being computed from the position in the grid.

    deltas [N, H * W * A, 4] in (y, x, anchor) order; cell_anchors [A, 4] around the origin; grid_size (H, W);
    stride (y, x) in pixels -> boxes [N, H * W * A, 4]. The anchor of (y, x, a) is
    ``cell_anchors[a] + (x * stride_x, y * stride_y, x * stride_x, y * stride_y)``.
    """
    return decode_boxes(deltas, grid_anchors(cell_anchors, grid_size, stride), weights, clip)


def grid_anchors(cell_anchors: Tensor, grid_size: Sequence[int], stride: Sequence[float]) -> Tensor:
    """All anchors of a level, [H * W * A, 4] in (y, x, anchor) order: cell anchors [A, 4], moved."""
    (height, width), (stride_y, stride_x) = grid_size, stride
    cell_anchors = widen(cell_anchors)
    y = torch.arange(height).to(cell_anchors)[:, None].expand(height, width) * stride_y
    x = torch.arange(width).to(cell_anchors)[None, :].expand(height, width) * stride_x
    return (torch.stack([x, y, x, y], dim=-1)[:, :, None, :] + cell_anchors).flatten(0, 2)


def _checked(fmt: str) -> str:
    if fmt not in ("xyxy", "xywh", "cxcywh"):
        raise ValueError(f"boxes: expected a format among xyxy, xywh, cxcywh, got {fmt!r}")
    return fmt


def _sides(boxes: Tensor) -> Tensor:
    """(width, height) of xyxy boxes: [..., 4] -> [..., 2]."""
    return boxes[..., 2:] - boxes[..., :2]


def _centres(boxes: Tensor) -> Tensor:
    """(x, y) of the centre of xyxy boxes: [..., 4] -> [..., 2]."""
    return boxes[..., :2] + 0.5 * _sides(boxes)


def _inter_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of every pair: two times [..., L, M]."""
    low = torch.maximum(boxes1[..., :, None, :2], boxes2[..., None, :, :2])
    high = torch.minimum(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    return inter, box_area(boxes1)[..., :, None] + box_area(boxes2)[..., None, :] - inter
