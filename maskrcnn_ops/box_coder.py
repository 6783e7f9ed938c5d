"""The box code of Faster R-CNN: boxes as deltas from anchors, and back."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn_ops._checks import pair
from maskrcnn_ops._coordinates import no_second_derivative, same_coordinates

__all__ = ["decode_boxes", "decode_grid", "encode_boxes"]

_ops = torch.ops.maskrcnn_ops
_CLIP = math.log(1000.0 / 16)


def encode_boxes(
    reference_boxes: Tensor, proposals: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Deltas (dx, dy, dw, dh) that move each proposal onto its reference box.

    Ren, He, Girshick, Sun: Faster R-CNN (NIPS 2015), equation 2.

    Args:
        reference_boxes: the boxes to code, [L, 4] xyxy, float32 or float64 (half precision is widened to
            float32, and float32 beside float64 to float64).
        proposals: the boxes relative to which they are coded, [L, 4].
        weights: factors of dx, dy, dw, dh; (10, 10, 5, 5) in the RoI head.

    Returns:
        [L, 4]; dx = wx · (x_ref - x_prop) / w_prop between centres, dw = ww · log(w_ref / w_prop), likewise
        y and h. A side of 0 gives what the division gives, infinity or NaN.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices.

    Gradients flow to both boxes, once; a side of 0 or a non-finite one passes no gradient on. Deterministic.

    Equivalent to:
        ``cat([(c_ref - c_prop) / s_prop, log(s_ref / s_prop)], 1) * weights`` with centres c and sides s.
    """
    return _ops.encode_boxes(*same_coordinates(reference_boxes, proposals), weights)


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    clip: float = _CLIP,
) -> Tensor:
    """Boxes from deltas, the inverse of :func:`encode_boxes`.

    Ren, He, Girshick, Sun: Faster R-CNN (NIPS 2015), equation 2.

    Args:
        deltas: [L, 4], or [L, K * 4] with one (dx, dy, dw, dh) for each of K classes; float32 or float64
            (half precision is widened to float32, and float32 beside float64 to float64).
        anchors: [L, 4] xyxy; shared by the classes.
        weights: the factors with which the deltas were encoded.
        clip: dw / ww and dh / wh are cut here, by default where a side grows 62.5-fold.

    Returns:
        Boxes of the deltas' shape, xyxy, float32 or float64. Non-finite deltas give non-finite boxes of
        their own row.

    Raises:
        RuntimeError: for bad shapes, dtypes or devices.

    Gradients flow to deltas and anchors, once; a clipped delta has none. Deterministic.

    Equivalent to:
        ``c, h = dxy / wxy * s + c, exp(clamp(dwh / wwh, max=clip)) * s / 2; cat([c - h, c + h], 1)`` with
        the anchors' centres c and sides s.
    """
    return _ops.decode_boxes(*same_coordinates(deltas, anchors), weights, clip)


def decode_grid(
    deltas: Tensor,
    cell_anchors: Tensor,
    grid_size: Sequence[int],
    stride: int | Sequence[int],
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    clip: float = _CLIP,
) -> Tensor:
    """:func:`decode_boxes` for a level of an RPN, with anchors computed from the grid index and never stored.

    Args:
        deltas: [N, H * W * A, 4] in (y, x, anchor) order; dtypes as in :func:`decode_boxes`.
        cell_anchors: [A, 4] xyxy, the anchors of the cell at the origin. A constant: no gradient.
        grid_size: (H, W).
        stride: pixels from cell to cell, (y, x) or one number for both.
        weights, clip: as in :func:`decode_boxes`.

    Returns:
        Boxes [N, H * W * A, 4]; the anchor of (y, x, a) is cell anchor a moved by (x · stride_x, y · stride_y)
        pixels.

    Raises:
        RuntimeError, ValueError: for bad shapes, dtypes or devices.

    Gradients flow to the deltas, once. Deterministic.

    Equivalent to:
        ``decode_boxes(deltas[n], (shifts[:, None] + cell_anchors).reshape(-1, 4), weights, clip)`` for each
        image n, to the bit.
    """
    height, width = pair(grid_size, "decode_grid", "grid_size")
    stride_y, stride_x = pair(stride, "decode_grid", "stride")
    deltas, cell_anchors = same_coordinates(deltas, cell_anchors)
    return _ops.decode_grid(deltas, cell_anchors, height, width, stride_y, stride_x, weights, clip)


@torch.library.register_fake("maskrcnn_ops::encode_boxes")
def _(reference_boxes: Tensor, proposals: Tensor, weights: Sequence[float]) -> Tensor:
    return torch.empty_like(reference_boxes, memory_format=torch.contiguous_format)


@torch.library.register_fake("maskrcnn_ops::encode_boxes_backward")
def _(grad: Tensor, boxes: Tensor, proposals: Tensor, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    return boxes.new_empty(boxes.shape), boxes.new_empty(boxes.shape)


@torch.library.register_fake("maskrcnn_ops::decode_boxes")
def _(deltas: Tensor, anchors: Tensor, weights: Sequence[float], clip: float) -> Tensor:
    return deltas.new_empty(deltas.shape)


@torch.library.register_fake("maskrcnn_ops::decode_boxes_backward")
def _(grad: Tensor, deltas: Tensor, anchors: Tensor, weights: Sequence[float], clip: float) -> Tensor:
    return deltas.new_empty(deltas.shape)


@torch.library.register_fake("maskrcnn_ops::decode_boxes_backward_anchors")
def _(grad: Tensor, deltas: Tensor, anchors: Tensor, weights: Sequence[float], clip: float) -> Tensor:
    return anchors.new_empty(anchors.shape)


@torch.library.register_fake("maskrcnn_ops::decode_grid")
def _(deltas: Tensor, cell_anchors: Tensor, *options: Any) -> Tensor:
    return deltas.new_empty(deltas.shape)


@torch.library.register_fake("maskrcnn_ops::decode_grid_backward")
def _(grad: Tensor, deltas: Tensor, cell_anchors: Tensor, *options: Any) -> Tensor:
    return deltas.new_empty(deltas.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *ctx.options = inputs
    ctx.save_for_backward(first, second)


def _encode_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_ops.encode_boxes_backward(grad, *ctx.saved_tensors, *ctx.options), None)


def _decode_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    inputs = (grad, *ctx.saved_tensors, *ctx.options)
    wanted = ctx.needs_input_grad
    grad_deltas = _ops.decode_boxes_backward(*inputs) if wanted[0] else None
    grad_anchors = _ops.decode_boxes_backward_anchors(*inputs) if wanted[1] else None
    return grad_deltas, grad_anchors, None, None


def _decode_grid_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (_ops.decode_grid_backward(grad, *ctx.saved_tensors, *ctx.options), *[None] * 7)


torch.library.register_autograd("maskrcnn_ops::encode_boxes", _encode_backward, setup_context=_save)
torch.library.register_autograd("maskrcnn_ops::decode_boxes", _decode_backward, setup_context=_save)
torch.library.register_autograd("maskrcnn_ops::decode_grid", _decode_grid_backward, setup_context=_save)
no_second_derivative("encode_boxes", "decode_boxes", "decode_grid")
no_second_derivative("decode_boxes", suffix="_backward_anchors")
