"""Position-sensitive RoIAlign and RoIPool: functions, modules, fake kernels, gradients and batching rules."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_ops._batching import fold, fold_maps, fold_rois, unfold
from maskrcnn_ops._checks import as_rois, empty_map, is_channels_last, pair

__all__ = ["PSRoIAlign", "PSRoIPool", "ps_roi_align", "ps_roi_pool"]


def ps_roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
) -> Tensor:
    """Average of bilinear samples in each bin of each region, every bin from a channel of its own.

    Dai, Li, He, Sun: R-FCN (NIPS 2016), section 2, with the samples of RoIAlign in place of rounded bins, as in
    Li et al.: Light-Head R-CNN (2017). Bin (p, q) of output channel c reads input channel (c · P_h + p) · P_w + q
    and no other.

    Args:
        input: feature map [N, C · P_h · P_w, H, W], float16, bfloat16, float32 or float64; any strides. channels_last
            in gives channels_last out.
        boxes: regions [R, 5] (image index, x1, y1, x2, y2), or a list with one [L, 4] per image. float32 or
            float64 whatever the features are; half-precision boxes are widened. Pixel edges of the image
            (Note [Pixel centres] in ``maskrcnn_ops.reference``): always what RoIAlign calls aligned.
        output_size: P or (P_h, P_w), at least 1.
        spatial_scale: map cells per image pixel, 1/stride.
        sampling_ratio: samples per bin and axis; 0 or less takes ceil(region side / P), at most
            2 · map side + 8.

    Returns:
        [R, C, P_h, P_w] in the features' dtype. Accumulation is in float32 (float64 for float64). A region with a
        non-finite coordinate gives zeros; so does, on CUDA, one with an image index outside [0, N). A bin without
        samples (side 0 or less, no ``sampling_ratio``) gives 0, where torchvision may give NaN.

    Raises:
        ValueError, RuntimeError: for bad shapes, dtypes, devices or sizes, channels that are no multiple of P_h · P_w,
            and on the CPU for an image index outside [0, N) (on CUDA with MASKRCNN_OPS_CHECK=1 in the environment).

    Gradients flow to ``input`` (twice differentiable), not to ``boxes``. Forward and backward are deterministic. Under
    autocast the features keep their dtype and the boxes theirs. ``torch.vmap`` folds the new dimension into the batch.

    Equivalent to:
        ``roi_align(input, boxes, output_size, spatial_scale, sampling_ratio, aligned=True)`` of which bin (p, q) of
        channel c keeps channel (c · P_h + p) · P_w + q; see ``maskrcnn_ops.reference.ps_roi_align``.
    """
    rois = as_rois(boxes, "ps_roi_align")
    height, width = pair(output_size, "ps_roi_align")
    return torch.ops.maskrcnn_ops.ps_roi_align(input, rois, spatial_scale, sampling_ratio, height, width)


def ps_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Average of the cells of each bin of each region, every bin from a channel of its own, all rounded to cells.

    Dai, Li, He, Sun: R-FCN (NIPS 2016), section 2. Bin (p, q) of output channel c reads input channel
    (c · P_h + p) · P_w + q and no other. Corners are scaled and rounded, halves away from zero; a side is
    end - start, at least 1. Bin p takes the cells from floor(p · side / P) up to, not including,
    ceil((p + 1) · side / P): neighbours overlap where the bin size is no whole number. Both ends are then limited
    to [0, H - 1] or [0, W - 1], so that, as in torchvision, the map's last row and column are never read. A bin
    without cells gives 0.

    Args:
        input, boxes, output_size, spatial_scale: as in :func:`ps_roi_align`.

    Returns, raises, gradients, determinism, autocast, vmap: as :func:`ps_roi_align`.

    Equivalent to:
        ``input[n, (c * P_h + p) * P_w + q, top:bottom, left:right].mean()`` for each bin; see
        ``maskrcnn_ops.reference.ps_roi_pool``.
    """
    rois = as_rois(boxes, "ps_roi_pool")
    height, width = pair(output_size, "ps_roi_pool")
    return torch.ops.maskrcnn_ops.ps_roi_pool(input, rois, spatial_scale, height, width)


class PSRoIAlign(nn.Module):
    """Module form of :func:`ps_roi_align` with fixed options."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float, sampling_ratio: int) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return ps_roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}"
        )


class PSRoIPool(nn.Module):
    """Module form of :func:`ps_roi_pool` with fixed options."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return ps_roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


def _register(name: str) -> None:
    """The rules of one operator and of its backward. Both operators take (input, rois, *options, height, width), their
    backwards (grad_output, rois, *options, images, height, width, channels_last)."""
    operator, backward_operator = f"maskrcnn_ops::{name}", f"maskrcnn_ops::{name}_backward"
    kernel = getattr(torch.ops.maskrcnn_ops, name)
    backward_kernel = getattr(torch.ops.maskrcnn_ops, f"{name}_backward")

    def fake(input: Tensor, rois: Tensor, *rest: Any) -> Tensor:
        *_, height, width = rest
        torch._check(
            input.dim() == 4, lambda: f"{name}: expected input of shape [N, C, H, W], got {input.shape}"
        )
        torch._check(rois.dim() == 2, lambda: f"{name}: expected rois of shape [R, 5], got {rois.shape}")
        torch._check(
            input.shape[1] % (height * width) == 0,
            lambda: (
                f"{name}: expected input with a multiple of {height} * {width} channels (output_size), got "
                f"{input.shape[1]}"
            ),
        )
        shape = (rois.shape[0], input.shape[1] // (height * width), height, width)
        return empty_map(input, shape, is_channels_last(input))

    def backward_fake(grad_output: Tensor, rois: Tensor, *rest: Any) -> Tensor:
        *_, images, height, width, channels_last = rest
        _, channels, pooled_height, pooled_width = grad_output.shape
        shape = (images, channels * pooled_height * pooled_width, height, width)
        return empty_map(grad_output, shape, channels_last)

    def save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, rois, *options, _, _ = inputs
        ctx.save_for_backward(rois)
        ctx.arguments = len(inputs)
        images, _, height, width = input.shape
        ctx.options = (*options, images, height, width, is_channels_last(input))

    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradient = backward_kernel(grad_output, *ctx.saved_tensors, *ctx.options)
        return gradient, *[None] * (ctx.arguments - 1)

    def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad_output, rois, *options, _, _, _, _ = inputs
        ctx.save_for_backward(rois)
        ctx.arguments = len(inputs)
        ctx.options = (*options, *grad_output.shape[2:])

    def double_backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
        # The backward is linear in grad_output, and its transpose is the forward.
        return kernel(grad_grad, *ctx.saved_tensors, *ctx.options), *[None] * (ctx.arguments - 1)

    def batch(
        info: Any, in_dims: tuple[Any, ...], input: Tensor, rois: Tensor, *rest: Any
    ) -> tuple[Tensor, int]:
        size, dim = info.batch_size, in_dims[0]
        images = input.shape[0] if dim is None else input.movedim(dim, 0).shape[1]
        (maps,), shift = fold_maps([input], [dim], size)
        return unfold(kernel(maps, fold_rois(rois, in_dims[1], size, images, shift), *rest), size), 0

    def batch_backward(
        info: Any, in_dims: tuple[Any, ...], grad_output: Tensor, rois: Tensor, *rest: Any
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        *options, images, height, width, channels_last = rest
        gradient = backward_kernel(
            fold(grad_output, in_dims[0], size),
            fold_rois(rois, in_dims[1], size, images, images),
            *options,
            images * size,
            height,
            width,
            channels_last,
        )
        return unfold(gradient, size), 0

    torch.library.register_fake(operator)(fake)
    torch.library.register_fake(backward_operator)(backward_fake)
    torch.library.register_autograd(operator, backward, setup_context=save_forward)
    torch.library.register_autograd(backward_operator, double_backward, setup_context=save_backward)
    torch.library.register_vmap(operator, batch)
    torch.library.register_vmap(backward_operator, batch_backward)


_register("ps_roi_align")
_register("ps_roi_pool")
