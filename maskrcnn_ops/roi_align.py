"""RoIAlign: the operator's Python face, its fake kernels and gradients, and the module."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_ops._checks import as_rois, empty_map, is_channels_last, pair

__all__ = ["RoIAlign", "roi_align"]


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Average of bilinear samples in each bin of each region, without any rounding.

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

    Returns:
        [R, C, P_h, P_w] in the features' dtype. Accumulation is in float32 (float64 for float64). A region with a
        non-finite coordinate gives zeros; so does, on CUDA, one with an image index outside [0, N).

    Raises:
        ValueError, RuntimeError: for bad shapes, dtypes, devices or sizes, and on the CPU for an image index outside
            [0, N) (on CUDA with MASKRCNN_OPS_CHECK=1 in the environment).

    Gradients flow to ``input`` (twice differentiable), not to ``boxes``. Forward and backward are deterministic.
    Under autocast the features keep their dtype and the boxes theirs.

    Equivalent to:
        ``A_y @ input[n] @ A_x.mT`` with each region's sampling matrices; see ``maskrcnn_ops.reference.roi_align``.
    """
    rois = as_rois(boxes, "roi_align")
    height, width = pair(output_size, "roi_align")
    return torch.ops.maskrcnn_ops.roi_align(
        input, rois, spatial_scale, height, width, sampling_ratio, aligned
    )


class RoIAlign(nn.Module):
    """Module form of :func:`roi_align` with fixed options."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


@torch.library.register_fake("maskrcnn_ops::roi_align")
def _(
    input: Tensor, rois: Tensor, scale: float, height: int, width: int, ratio: int, aligned: bool
) -> Tensor:
    torch._check(
        input.dim() == 4, lambda: f"roi_align: expected input of shape [N, C, H, W], got {input.shape}"
    )
    torch._check(rois.dim() == 2, lambda: f"roi_align: expected rois of shape [R, 5], got {rois.shape}")
    return empty_map(input, (rois.shape[0], input.shape[1], height, width), is_channels_last(input))


@torch.library.register_fake("maskrcnn_ops::roi_align_backward")
def _(
    grad_output: Tensor,
    rois: Tensor,
    scale: float,
    pooled_height: int,
    pooled_width: int,
    ratio: int,
    aligned: bool,
    images: int,
    channels: int,
    height: int,
    width: int,
    channels_last: bool,
) -> Tensor:
    return empty_map(grad_output, (images, channels, height, width), channels_last)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, *ctx.options = inputs
    ctx.save_for_backward(rois)
    ctx.map = (*input.shape, is_channels_last(input))


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    (rois,) = ctx.saved_tensors
    grad_input = torch.ops.maskrcnn_ops.roi_align_backward(grad_output, rois, *ctx.options, *ctx.map)
    return grad_input, None, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rois, *ctx.options = inputs[:7]
    ctx.save_for_backward(rois)


def _double_backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    # The backward is linear in grad_output, and its transpose is the forward.
    (rois,) = ctx.saved_tensors
    return (torch.ops.maskrcnn_ops.roi_align(grad_grad, rois, *ctx.options), *[None] * 11)


torch.library.register_autograd("maskrcnn_ops::roi_align", _backward, setup_context=_save_forward)
torch.library.register_autograd(
    "maskrcnn_ops::roi_align_backward", _double_backward, setup_context=_save_backward
)
