"""RoIAlign: the operator's Python face, its fake kernels, gradients and batching rules, and the module.

The operator itself pools from any number of levels; :mod:`maskrcnn_ops.multiscale_roi_align` is its other face.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_ops._batching import fold, fold_maps, fold_rois, unfold
from maskrcnn_ops._checks import as_rois, empty_map, is_channels_last, pair

__all__ = ["RoIAlign", "roi_align"]

# Canonical scale and level, epsilon outside and inside the logarithm, finest and coarsest level: here of one level.
# (Never an empty list: torch takes that for a list of tensors and asks for its gradients.)
SINGLE_LEVEL = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Average or maximum of bilinear samples in each bin of each region, without any rounding.

    He, Gkioxari, Dollár, Girshick: Mask R-CNN (ICCV 2017), section 3.

    Args:
        input: feature map [N, C, H, W], float16, bfloat16, float32 or float64; any strides. channels_last in
            gives channels_last out.
        boxes: regions [R, 5] (image index, x1, y1, x2, y2), or a list with one [L, 4] per image. float32 or
            float64 whatever the features are; half-precision boxes are widened. Pixel edges of the image.
        output_size: P or (P_h, P_w), at least 1.
        spatial_scale: map cells per image pixel, 1/stride.
        sampling_ratio: samples per bin and axis; 0 or less takes ceil(region side / P), at most
            2 · map side + 8.
        aligned: subtract the half pixel (Note [Pixel centres] in ``maskrcnn_ops.reference``). Without it a
            region is at least one cell wide.
        reduction: ``"mean"`` or ``"max"`` of a bin's samples (table 2c of the paper compares them). A sample outside
            the map counts as 0 in both; a NaN is the maximum, as in ``torch.amax``.

    Returns:
        [R, C, P_h, P_w] in the features' dtype. Accumulation is in float32 (float64 for float64). A region with a
        non-finite coordinate gives zeros; so does, on CUDA, one with an image index outside [0, N).

    Raises:
        ValueError, RuntimeError: for bad shapes, dtypes, devices or sizes, and on the CPU for an image index outside
            [0, N) (on CUDA with MASKRCNN_OPS_CHECK=1 in the environment).

    Gradients flow to ``input``; the average is twice differentiable in it. The maximum's go to the cells of the
    sample that won, the first in (y, x) order of equal ones. Boxes that require gradients get them, too, other than
    in torchvision (``boxes.detach()`` gives its behaviour), and then ``sampling_ratio`` must be above 0: the number of
    samples must not depend on the box. They are those of the samples' places: a jump where a sample crosses the
    centre of a cell, none where the border is repeated or a side is widened to one cell; 0 for the image index.
    Forward and backward are deterministic. Under autocast the features keep their dtype and the boxes theirs.

    ``torch.vmap`` folds the new dimension into the batch: one call of the kernel.

    Equivalent to:
        ``A_y @ input[n] @ A_x.mT`` with each region's sampling matrices; see ``maskrcnn_ops.reference.roi_align``.
    """
    rois = as_rois(boxes, "roi_align")
    return pool_levels(
        "roi_align",
        [input],
        rois,
        None,
        output_size,
        [spatial_scale],
        sampling_ratio,
        aligned,
        reduction,
        SINGLE_LEVEL,
    )


def pool_levels(
    op: str,
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    output_size: int | Sequence[int],
    spatial_scales: list[float],
    sampling_ratio: int,
    aligned: bool,
    reduction: str,
    level_rule: list[float],
) -> Tensor:
    """The operator behind both faces; `level_rule` as in SINGLE_LEVEL."""
    height, width = pair(output_size, op)
    if reduction not in ("mean", "max"):
        raise ValueError(f"{op}: expected reduction 'mean' or 'max', got {reduction!r}")
    if torch.is_grad_enabled() and rois.requires_grad and not 0 < sampling_ratio <= 1024:
        raise ValueError(
            f"{op}: expected sampling_ratio between 1 and 1024 for boxes that require gradients, got "
            f"{sampling_ratio}; boxes.detach() gives them none"
        )
    return torch.ops.maskrcnn_ops.roi_align(
        features,
        rois,
        levels,
        spatial_scales,
        height,
        width,
        sampling_ratio,
        aligned,
        reduction == "max",
        level_rule,
    )[0]


class RoIAlign(nn.Module):
    """Module form of :func:`roi_align` with fixed options."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
        *,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.reduction = reduction

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return roi_align(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, reduction={self.reduction!r}"
        )


@torch.library.register_fake("maskrcnn_ops::roi_align")
def _(
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: list[float],
    height: int,
    width: int,
    ratio: int,
    aligned: bool,
    maximum: bool,
    level_rule: list[float],
) -> tuple[Tensor, Tensor]:
    op = "roi_align" if len(features) == 1 else "multiscale_roi_align"
    first = features[0]
    torch._check(first.dim() == 4, lambda: f"{op}: expected input of shape [N, C, H, W], got {first.shape}")
    torch._check(rois.dim() == 2, lambda: f"{op}: expected rois of shape [R, 5], got {rois.shape}")
    output = empty_map(first, (rois.shape[0], first.shape[1], height, width), is_channels_last(first))
    if not maximum:
        return output, torch.empty(0, dtype=torch.int32, device=output.device)
    return output, torch.empty_like(output, dtype=torch.int32)


@torch.library.register_fake("maskrcnn_ops::roi_align_backward")
def _(
    grad_output: Tensor,
    argmax: Tensor | None,
    rois: Tensor,
    levels: Tensor | None,
    scales: list[float],
    ratio: int,
    aligned: bool,
    level_rule: list[float],
    images: int,
    sizes: list[int],
    channels_last: list[int],
) -> list[Tensor]:
    channels = grad_output.shape[1]
    return [
        empty_map(grad_output, (images, channels, sizes[2 * k], sizes[2 * k + 1]), bool(last))
        for k, last in enumerate(channels_last)
    ]


@torch.library.register_fake("maskrcnn_ops::roi_align_backward_boxes")
def _(
    grad_output: Tensor,
    argmax: Tensor | None,
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    scales: list[float],
    ratio: int,
    aligned: bool,
    level_rule: list[float],
) -> Tensor:
    dtype = torch.float64 if features[0].dtype == torch.float64 else torch.float32
    return torch.empty(rois.shape, dtype=dtype, device=rois.device)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, rois, levels, scales, _, _, ratio, aligned, maximum, level_rule = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or every backward would fill a zero gradient of argmax
    maps = features if rois.requires_grad else []  # only the gradients of boxes need the values
    ctx.save_for_backward(rois, levels, output[1] if maximum else None, *maps)
    ctx.options = (scales, ratio, aligned, level_rule)
    sizes = [side for map in features for side in map.shape[2:]]
    ctx.maps = (features[0].shape[0], sizes, [int(is_channels_last(map)) for map in features])


def _backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Any, ...]:
    rois, levels, argmax, *features = ctx.saved_tensors
    kernels = torch.ops.maskrcnn_ops
    grad_features: list[Tensor] | list[None] = [None] * len(ctx.needs_input_grad[0])
    if grad_output is None:
        return grad_features, *[None] * 9
    if any(ctx.needs_input_grad[0]):
        grad_features = kernels.roi_align_backward(grad_output, argmax, rois, levels, *ctx.options, *ctx.maps)
    grad_rois = None
    if ctx.needs_input_grad[1]:
        grad_rois = kernels.roi_align_backward_boxes(
            grad_output, argmax, features, rois, levels, *ctx.options
        ).to(rois.dtype)
    return grad_features, grad_rois, *[None] * 8


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad_output, argmax, rois, levels, scales, ratio, aligned, level_rule = inputs[:8]
    ctx.save_for_backward(rois, levels)
    ctx.options = (scales, *grad_output.shape[2:], ratio, aligned, False, level_rule)
    ctx.maximum = argmax is not None


def _double_backward(ctx: Any, grad_grads: list[Tensor]) -> tuple[Any, ...]:
    # The average's backward is linear in grad_output, and its transpose is the forward.
    if ctx.maximum:
        raise NotImplementedError("roi_align: the maximum has no second derivatives")
    if ctx.needs_input_grad[2]:
        raise NotImplementedError("roi_align: boxes have no second derivatives; detach them")
    rois, levels = ctx.saved_tensors
    pooled, _ = torch.ops.maskrcnn_ops.roi_align(grad_grads, rois, levels, *ctx.options)
    return pooled, *[None] * 10


def _no_second_derivatives(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    raise NotImplementedError("roi_align: boxes have no second derivatives; detach them")


def _fold_levels(levels: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    return None if levels is None else fold(levels, dim, size)


def _batch_forward(
    info: Any,
    in_dims: tuple[Any, ...],
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    *rest: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int | None]]:
    size, images = info.batch_size, _images(features, in_dims[0])
    maps, shift = fold_maps(features, in_dims[0], size)
    output, argmax = torch.ops.maskrcnn_ops.roi_align(
        maps,
        fold_rois(rois, in_dims[1], size, images, shift),
        _fold_levels(levels, in_dims[2], size),
        *rest,
    )
    maximum = rest[-2]
    return (unfold(output, size), unfold(argmax, size) if maximum else argmax), (0, 0 if maximum else None)


def _images(features: Sequence[Tensor], dims: Sequence[int | None]) -> int:
    return features[0].shape[0] if dims[0] is None else features[0].movedim(dims[0], 0).shape[1]


def _batch_backward(
    info: Any,
    in_dims: tuple[Any, ...],
    grad_output: Tensor,
    argmax: Tensor | None,
    rois: Tensor,
    levels: Tensor | None,
    *rest: Any,
) -> tuple[list[Tensor], list[int]]:
    size = info.batch_size
    *options, images, sizes, channels_last = rest
    gradients = torch.ops.maskrcnn_ops.roi_align_backward(
        fold(grad_output, in_dims[0], size),
        None if argmax is None else fold(argmax, in_dims[1], size),
        fold_rois(rois, in_dims[2], size, images, images),
        _fold_levels(levels, in_dims[3], size),
        *options,
        images * size,
        sizes,
        channels_last,
    )
    return [unfold(each, size) for each in gradients], [0] * len(gradients)


def _batch_backward_boxes(
    info: Any,
    in_dims: tuple[Any, ...],
    grad_output: Tensor,
    argmax: Tensor | None,
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, int]:
    size, images = info.batch_size, _images(features, in_dims[2])
    maps, shift = fold_maps(features, in_dims[2], size)
    gradient = torch.ops.maskrcnn_ops.roi_align_backward_boxes(
        fold(grad_output, in_dims[0], size),
        None if argmax is None else fold(argmax, in_dims[1], size),
        maps,
        fold_rois(rois, in_dims[3], size, images, shift),
        _fold_levels(levels, in_dims[4], size),
        *rest,
    )
    return unfold(gradient, size), 0


_OPERATOR, _BACKWARD = "maskrcnn_ops::roi_align", "maskrcnn_ops::roi_align_backward"
_BACKWARD_BOXES = "maskrcnn_ops::roi_align_backward_boxes"
torch.library.register_autograd(_OPERATOR, _backward, setup_context=_save_forward)
torch.library.register_autograd(_BACKWARD, _double_backward, setup_context=_save_backward)
torch.library.register_autograd(_BACKWARD_BOXES, _no_second_derivatives)
torch.library.register_vmap(_OPERATOR, _batch_forward)
torch.library.register_vmap(_BACKWARD, _batch_backward)
torch.library.register_vmap(_BACKWARD_BOXES, _batch_backward_boxes)
