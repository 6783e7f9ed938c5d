"""Mask pasting: the operator's Python face, its fake kernels and gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn_ops._checks import pair

__all__ = ["paste_masks"]

_CONVENTIONS = ("continuous", "integer")


def paste_masks(
    masks: Tensor,
    boxes: Tensor,
    image_size: Sequence[int],
    threshold: float | None = 0.5,
    convention: str = "continuous",
) -> Tensor:
    """Each mask stretched bilinearly over its box in an image of zeros.

    He, Gkioxari, Dollár, Girshick: Mask R-CNN (ICCV 2017), section 3.1, "Inference".

    Args:
        masks: probabilities [D, M, M] or [D, 1, M, M], float16, bfloat16, float32 or float64; any strides.
            Height and width may differ.
        boxes: [D, 4] xyxy in pixels (Note [Pixel centres] in ``maskrcnn_ops.reference``), float32 or float64
            whatever the masks are; half-precision boxes are widened.
        image_size: (H, W) in pixels; 0 gives an empty output.
        threshold: pixels of greater probability are True; a probability equal to it is not. Rounded to the
            type of the comparison: float32, for float64 masks float64. None asks for the probabilities.
        convention: ``"continuous"`` (detectron2's) maps pixel centres to the mask,
            u = (x + 0.5 - x1) / (x2 - x1) * M - 0.5. ``"integer"`` (torchvision's) puts a ring of zeros
            around the mask, enlarges the box by (M + 2) / M about its centre and truncates it to whole
            pixels, both ends included; edges at ±2^30 at most.

    Returns:
        bool [D, H, W], or with ``threshold=None`` probabilities [D, H, W] in the masks' dtype. Outside its
        box a mask has probability 0. A box with a non-finite coordinate or side gives an empty mask; so does,
        in the continuous convention, one without positive sides. Interpolation is in float32 (float64 for
        float64 masks). A NaN in a mask is above no threshold.

    Raises:
        ValueError, RuntimeError: for bad shapes, dtypes, devices or sizes, a NaN threshold, an unknown
            convention.

    With ``threshold=None`` gradients flow to ``masks`` (twice differentiable), never to ``boxes``. Forward
    and backward are deterministic. Under autocast masks and boxes keep their dtypes.

    Equivalent to:
        ``A_y @ masks @ A_x.mT > threshold`` with each box's interpolation matrices; see
        ``maskrcnn_ops.reference.paste_masks``.
    """
    if convention not in _CONVENTIONS:
        raise ValueError(
            f"paste_masks: expected convention of {' or '.join(map(repr, _CONVENTIONS))}, got {convention!r}"
        )
    height, width = pair(image_size, "paste_masks", "image_size")
    integer = convention == "integer"
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks.squeeze(1)
    if threshold is None:
        return torch.ops.maskrcnn_ops.paste_probabilities(masks, boxes, height, width, integer)
    return torch.ops.maskrcnn_ops.paste_masks(masks, boxes, height, width, threshold, integer)


def _check(masks: Tensor, boxes: Tensor) -> None:
    torch._check(
        masks.dim() == 3,
        lambda: f"paste_masks: expected masks of shape [D, M, M] or [D, 1, M, M], got {list(masks.shape)}",
    )
    torch._check(
        boxes.dim() == 2, lambda: f"paste_masks: expected boxes of shape [D, 4], got {list(boxes.shape)}"
    )


@torch.library.register_fake("maskrcnn_ops::paste_masks")
def _(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, integer: bool) -> Tensor:
    _check(masks, boxes)
    return masks.new_empty((masks.shape[0], height, width), dtype=torch.bool)


@torch.library.register_fake("maskrcnn_ops::paste_probabilities")
def _(masks: Tensor, boxes: Tensor, height: int, width: int, integer: bool) -> Tensor:
    _check(masks, boxes)
    return masks.new_empty((masks.shape[0], height, width))


@torch.library.register_fake("maskrcnn_ops::paste_probabilities_backward")
def _(grad_output: Tensor, boxes: Tensor, mask_height: int, mask_width: int, integer: bool) -> Tensor:
    return grad_output.new_empty((grad_output.shape[0], mask_height, mask_width))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, boxes, _, _, ctx.integer = inputs
    ctx.save_for_backward(boxes)
    ctx.size = values.shape[1:]


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    (boxes,) = ctx.saved_tensors
    grad = torch.ops.maskrcnn_ops.paste_probabilities_backward(grad_output, boxes, *ctx.size, ctx.integer)
    return grad, None, None, None, None


def _double_backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    # The backward is linear in grad_output, and its transpose is the forward.
    (boxes,) = ctx.saved_tensors
    grad = torch.ops.maskrcnn_ops.paste_probabilities(grad_grad, boxes, *ctx.size, ctx.integer)
    return grad, None, None, None, None


torch.library.register_autograd("maskrcnn_ops::paste_probabilities", _backward, setup_context=_save)
torch.library.register_autograd(
    "maskrcnn_ops::paste_probabilities_backward", _double_backward, setup_context=_save
)
