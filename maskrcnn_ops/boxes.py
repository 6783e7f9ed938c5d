"""Boxes: areas, formats, clipping, and the overlap of pairs.

Boxes lie in image pixels, at pixel edges (Note [Pixel centres] in ``maskrcnn_ops.reference``). ``box_area``,
``box_convert``, ``clip_boxes_to_image`` and ``remove_small_boxes`` are elementwise and composed of torch's
own operators; the overlaps are kernels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn_ops._coordinates import no_second_derivative, same_coordinates, widen

__all__ = [
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "generalized_box_iou",
    "remove_small_boxes",
]

_ops = torch.ops.maskrcnn_ops
_FORMATS = ("xyxy", "xywh", "cxcywh")
_NARROW_INTEGERS = (torch.uint8, torch.int8, torch.int16)


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Width times height of each box; negative where one side is.

    Args:
        boxes: [..., 4]; float32, float64, int32 or int64 (half precision is widened to float32, narrow
            integers to int32).
        fmt: ``xyxy`` (corners), ``xywh`` (corner, sides) or ``cxcywh`` (centre, sides).

    Returns:
        [...] in the (widened) dtype of the boxes.

    Raises:
        ValueError: for another last dimension or format.

    Gradients flow to the boxes. Deterministic.

    Equivalent to:
        ``(boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])`` for xyxy.
    """
    x1, y1, x2, y2 = _checked(boxes, "box_area").unbind(-1)
    if _format(fmt, "box_area", "fmt") == "xyxy":
        return (x2 - x1) * (y2 - y1)
    return x2 * y2


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Boxes in another format; between any two of ``xyxy``, ``xywh`` and ``cxcywh``.

    Args:
        boxes: [..., 4] in ``in_fmt``; dtypes as in :func:`box_area`.
        in_fmt, out_fmt: ``xyxy`` (corners), ``xywh`` (corner, sides) or ``cxcywh`` (centre, sides).

    Returns:
        [..., 4], always a new tensor, in the (widened) dtype of the boxes; a centre of integer boxes makes
        it float.

    Raises:
        ValueError: for another last dimension or format.

    Gradients flow to the boxes. Deterministic.

    Equivalent to:
        ``cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)`` for xyxy to xywh.
    """
    boxes = _checked(boxes, "box_convert")
    source, target = _format(in_fmt, "box_convert", "in_fmt"), _format(out_fmt, "box_convert", "out_fmt")
    if source == target:
        return boxes.clone()
    first, second = boxes[..., :2], boxes[..., 2:]
    if source == "cxcywh":
        first, second = first - 0.5 * second, first + 0.5 * second
    elif source == "xywh":
        second = first + second
    if target == "cxcywh":
        first, second = (first + second) / 2, second - first
    elif target == "xywh":
        second = second - first
    return torch.cat([first, second], dim=-1)


def clip_boxes_to_image(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Boxes with their corners moved into the image.

    Args:
        boxes: [..., 4] xyxy; dtypes as in :func:`box_area`.
        size: (height, width) of the image in pixels.

    Returns:
        [..., 4]; x in [0, width], y in [0, height]. A NaN stays NaN.

    Raises:
        ValueError: for another last dimension or size.

    Gradients flow to the coordinates that lie in the image or on its edge. Deterministic.

    Equivalent to:
        ``boxes[..., 0::2].clamp(0, width)`` and ``boxes[..., 1::2].clamp(0, height)``.
    """
    boxes = _checked(boxes, "clip_boxes_to_image")
    if len(size) != 2:
        raise ValueError(f"clip_boxes_to_image: expected size (height, width), got {tuple(size)}")
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], dim=-1).flatten(-2)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Indices of the boxes whose two sides are both at least ``min_size``.

    Args:
        boxes: [L, 4] xyxy; dtypes as in :func:`box_area`.
        min_size: pixels. A side that is NaN is never long enough.

    Returns:
        int64 [at most L], ascending. Its length depends on the data: on CUDA one number is read back.

    Raises:
        ValueError: for another shape.

    Not differentiable. Deterministic.

    Equivalent to:
        ``((boxes[:, 2:] - boxes[:, :2]) >= min_size).all(1).nonzero()[:, 0]``.
    """
    boxes = _checked(boxes, "remove_small_boxes")
    if boxes.dim() != 2:
        raise ValueError(f"remove_small_boxes: expected boxes of shape [L, 4], got {list(boxes.shape)}")
    return ((boxes[:, 2:] - boxes[:, :2]) >= min_size).all(dim=1).nonzero()[:, 0]


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair of boxes.

    Args:
        boxes1: [..., L, 4], float32 or float64 (half precision is widened to float32, and float32 beside
            float64 to float64).
        boxes2: [..., M, 4]; leading dimensions are broadcast.
        fmt: ``xyxy``, ``xywh`` or ``cxcywh``, as in :func:`box_convert`.

    Returns:
        [..., L, M]. Two boxes without area give 0/0, NaN; so does a NaN coordinate.

    Raises:
        ValueError, RuntimeError: for bad shapes, formats, dtypes or devices.

    Gradients flow to both boxes, once. Two equal edges share theirs; a pair whose union is zero or not
    finite passes none on. Forward and backward are deterministic.

    Equivalent to:
        ``inter / (area1[:, None] + area2 - inter)``, the operations in torchvision's order.
    """
    if _format(fmt, "box_iou", "fmt") != "xyxy":
        boxes1, boxes2 = box_convert(boxes1, fmt, "xyxy"), box_convert(boxes2, fmt, "xyxy")
    return _ops.box_iou(*_pairable(boxes1, boxes2))


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU minus the empty part of the smallest box that encloses both, of every pair of boxes: from -1 to 1.

    Rezatofighi et al.: Generalized Intersection over Union (CVPR 2019).

    Args:
        boxes1: [..., L, 4] xyxy; dtypes as in :func:`box_iou`.
        boxes2: [..., M, 4]; leading dimensions are broadcast.

    Returns:
        [..., L, M]. Two boxes without area, or a NaN coordinate, give NaN.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices.

    Gradients flow to both boxes, once, with the rules of :func:`box_iou` for the union and the enclosing
    box. Forward and backward are deterministic.

    Equivalent to:
        ``iou - (enclosing - union) / enclosing``.
    """
    return _ops.generalized_box_iou(*_pairable(boxes1, boxes2))


def _checked(boxes: Tensor, op: str) -> Tensor:
    """Boxes for the elementwise functions, widened."""
    if boxes.dim() == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"{op}: expected boxes of shape [..., 4], got {list(boxes.shape)}")
    return boxes.int() if boxes.dtype in _NARROW_INTEGERS else widen(boxes)


def _format(fmt: str, op: str, argument: str) -> str:
    if fmt not in _FORMATS:
        raise ValueError(f"{op}: expected {argument} among xyxy, xywh, cxcywh, got {fmt!r}")
    return fmt


def _pairable(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """One dtype, and the leading dimensions broadcast; bad shapes are left for the operator to refuse."""
    boxes1, boxes2 = same_coordinates(boxes1, boxes2)
    if boxes1.dim() < 2 or boxes2.dim() < 2 or boxes1.shape[:-2] == boxes2.shape[:-2]:
        return boxes1, boxes2
    try:
        leading = torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
    except RuntimeError:
        return boxes1, boxes2
    return boxes1.expand(*leading, *boxes1.shape[-2:]), boxes2.expand(*leading, *boxes2.shape[-2:])


def _fake(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    torch._check(boxes1.dim() >= 2, lambda: f"expected boxes1 of shape [..., L, 4], got {boxes1.shape}")
    torch._check(boxes2.dim() >= 2, lambda: f"expected boxes2 of shape [..., L, 4], got {boxes2.shape}")
    return boxes1.new_empty((*boxes1.shape[:-1], boxes2.shape[-2]))


@torch.library.register_fake("maskrcnn_ops::box_iou_backward")
def _(grad: Tensor, boxes: Tensor, others: Tensor, generalized: bool) -> Tensor:
    return boxes.new_empty(boxes.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _register(name: str, generalized: bool) -> None:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        boxes1, boxes2 = ctx.saved_tensors
        wanted1, wanted2 = ctx.needs_input_grad
        # The overlap is symmetric, so the second gradient is the first with the roles swapped.
        return (
            _ops.box_iou_backward(grad, boxes1, boxes2, generalized) if wanted1 else None,
            _ops.box_iou_backward(grad.mT, boxes2, boxes1, generalized) if wanted2 else None,
        )

    torch.library.register_fake(f"maskrcnn_ops::{name}", _fake)
    torch.library.register_autograd(f"maskrcnn_ops::{name}", backward, setup_context=_save)


_register("box_iou", generalized=False)
_register("generalized_box_iou", generalized=True)
no_second_derivative("box_iou")
