"""RoIPool: the operator's Python face, its fake kernels and gradients, and the module."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_ops._batching import fold, fold_maps, fold_rois, unfold
from maskrcnn_ops._checks import as_rois, empty_map, is_channels_last, pair

__all__ = ["RoIPool", "roi_pool"]


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Maximum over the cells of each bin of each region, regions and bins rounded to cells.

    Girshick: Fast R-CNN (ICCV 2015), section 2.1. Corners are scaled and rounded, halves away from zero, both
    ends included, so a side has at least one cell. Bin p takes the cells from floor(p · side / P) up to, not
    including, ceil((p + 1) · side / P): neighbours overlap where the bin size is no whole number. A bin
    without cells inside the map gives 0.

    Args:
        input: feature map [N, C, H, W], float16, bfloat16, float32 or float64, H · W below 2^31; any strides.
            channels_last in gives channels_last out.
        boxes: regions [R, 5] (image index, x1, y1, x2, y2), or a list with one [L, 4] per image. float32 or
            float64 whatever the features are; half-precision boxes are widened. Pixel edges of the image.
        output_size: P or (P_h, P_w), at least 1.
        spatial_scale: map cells per image pixel, 1/stride.

    Returns:
        [R, C, P_h, P_w] in the features' dtype. A region with a non-finite coordinate gives zeros; so does,
        on CUDA, one with an image index outside [0, N). As in torchvision a NaN is never greater than
        anything, so a bin ignores its NaNs; one of nothing but NaN or -inf gives the lowest finite number
        (-inf in half precision) and no gradient.

    Raises:
        ValueError, RuntimeError: for bad shapes, dtypes, devices or sizes, and on the CPU for an image index
            outside [0, N) (on CUDA with MASKRCNN_OPS_CHECK=1 in the environment).

    Gradients flow to the maximum of each bin, to the first in row-major order where several are equal (twice
    differentiable), not to ``boxes``. Forward and backward are deterministic. Under autocast the features
    keep their dtype and the boxes theirs. ``torch.vmap`` folds the new dimension into the batch.

    Equivalent to:
        ``input[n, :, top:bottom, left:right].amax((1, 2))`` for each bin; see
        ``maskrcnn_ops.reference.roi_pool``.
    """
    rois = as_rois(boxes, "roi_pool")
    height, width = pair(output_size, "roi_pool")
    return torch.ops.maskrcnn_ops.roi_pool(input, rois, spatial_scale, height, width)[0]


class RoIPool(nn.Module):
    """Module form of :func:`roi_pool` with fixed options."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


@torch.library.register_fake("maskrcnn_ops::roi_pool")
def _(input: Tensor, rois: Tensor, scale: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    torch._check(
        input.dim() == 4, lambda: f"roi_pool: expected input of shape [N, C, H, W], got {input.shape}"
    )
    torch._check(rois.dim() == 2, lambda: f"roi_pool: expected rois of shape [R, 5], got {rois.shape}")
    output = empty_map(input, (rois.shape[0], input.shape[1], height, width), is_channels_last(input))
    return output, torch.empty_like(output, dtype=torch.int32)


@torch.library.register_fake("maskrcnn_ops::roi_pool_backward")
def _(
    grad_output: Tensor,
    argmax: Tensor,
    rois: Tensor,
    scale: float,
    pooled_height: int,
    pooled_width: int,
    images: int,
    channels: int,
    height: int,
    width: int,
    channels_last: bool,
) -> Tensor:
    return empty_map(grad_output, (images, channels, height, width), channels_last)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, rois, *ctx.options = inputs
    ctx.save_for_backward(output[1], rois)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or every backward would fill a zero gradient of argmax
    ctx.map = (*input.shape, is_channels_last(input))


def _backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad_output is None:
        return None, None, None, None, None
    argmax, rois = ctx.saved_tensors
    grad_input = torch.ops.maskrcnn_ops.roi_pool_backward(grad_output, argmax, rois, *ctx.options, *ctx.map)
    return grad_input, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])


def _double_backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    # The backward is linear in grad_output: it scatters to the maxima, so its transpose looks the maxima up.
    argmax, rois = ctx.saved_tensors
    if grad_grad.numel() == 0:
        return (torch.zeros_like(argmax, dtype=grad_grad.dtype), *[None] * 10)
    _, channels, height, width = grad_grad.shape
    found = (argmax >= 0) & (argmax < height * width)
    image = rois[:, 0].nan_to_num(0, 0, 0).long()[:, None]
    plane = (image * channels + torch.arange(channels, device=rois.device))[..., None, None] * (
        height * width
    )
    values = grad_grad.contiguous().take((plane + argmax).where(found, 0))
    return (values.where(found, 0), *[None] * 10)


torch.library.register_autograd("maskrcnn_ops::roi_pool", _backward, setup_context=_save_forward)
torch.library.register_autograd(
    "maskrcnn_ops::roi_pool_backward", _double_backward, setup_context=_save_backward
)


def _batch_forward(
    info: Any, in_dims: tuple[Any, ...], input: Tensor, rois: Tensor, *options: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    size, dim = info.batch_size, in_dims[0]
    images = input.shape[0] if dim is None else input.movedim(dim, 0).shape[1]
    (maps,), shift = fold_maps([input], [dim], size)
    rois = fold_rois(rois, in_dims[1], size, images, shift)
    output, argmax = torch.ops.maskrcnn_ops.roi_pool(maps, rois, *options)
    return (unfold(output, size), unfold(argmax, size)), (0, 0)


def _batch_backward(
    info: Any,
    in_dims: tuple[Any, ...],
    grad_output: Tensor,
    argmax: Tensor,
    rois: Tensor,
    scale: float,
    pooled_height: int,
    pooled_width: int,
    images: int,
    *rest: Any,
) -> tuple[Tensor, int]:
    size = info.batch_size
    gradient = torch.ops.maskrcnn_ops.roi_pool_backward(
        fold(grad_output, in_dims[0], size),
        fold(argmax, in_dims[1], size),
        fold_rois(rois, in_dims[2], size, images, images),
        scale,
        pooled_height,
        pooled_width,
        images * size,
        *rest,
    )
    return unfold(gradient, size), 0


torch.library.register_vmap("maskrcnn_ops::roi_pool", _batch_forward)
torch.library.register_vmap("maskrcnn_ops::roi_pool_backward", _batch_backward)
