"""Half precision of the pooling operators: float32's result of the same numbers, rounded once, in every layout."""

import pytest
import torch
from cases import random_map, random_rois

import maskrcnn_ops as ops

HALVES = [torch.bfloat16, torch.float16]
CHANNELS = 83  # several lines of channels at once, one, and some that fill none
POOLS = {
    "roi_align": lambda input, rois: ops.roi_align(input, rois, 7, 0.5, 2),
    "roi_align_adaptive": lambda input, rois: ops.roi_align(input, rois, 7, 0.5, aligned=True),
    "roi_align_maximum": lambda input, rois: ops.roi_align(input, rois, 7, 0.5, 2, reduction="max"),
    "multiscale_roi_align": lambda input, rois: ops.multiscale_roi_align(
        [input, input.detach()[..., ::2, ::2]], rois, 7, [0.5, 0.25], 2, canonical_scale=16, canonical_level=2
    ),
    "roi_pool": lambda input, rois: ops.roi_pool(input, rois, 7, 0.5),
    "roi_warp": lambda input, rois: ops.roi_warp(input, rois, 7, 0.5, 2),
    "ps_roi_align": lambda input, rois: ops.ps_roi_align(input, rois, (2, 3), 0.5, 2),
    "ps_roi_pool": lambda input, rois: ops.ps_roi_pool(input, rois, (2, 3), 0.5),
}


@pytest.mark.parametrize("count", [2, 60])  # few regions gather patches, many a whole plane
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_half_is_float32_rounded_once(device, name, dtype, layout, count):
    """Where a compiler sums in another order for one type, a number in a hundred may round to its neighbour."""
    channels = CHANNELS * 6 if name.startswith("ps_") else CHANNELS
    input = random_map(2, channels, 15, 20, dtype=dtype).to(device, memory_format=layout).requires_grad_()
    wide = input.detach().float().requires_grad_()
    rois = random_rois(count, 2, 40, 30).to(device)
    output, exact = POOLS[name](input, rois), POOLS[name](wide, rois)
    check(output, exact)
    arriving = random_map(*output.shape, dtype=dtype, seed=1).to(device, memory_format=layout)
    (gradient,) = torch.autograd.grad(output, input, arriving)
    (exact,) = torch.autograd.grad(exact, wide, arriving.float())
    check(gradient, exact)


def check(actual, exact):
    rounded = exact.to(actual.dtype)
    wrong = (actual != rounded).float().mean().item()
    assert wrong <= 0.01
    torch.testing.assert_close(actual, rounded, rtol=2 * torch.finfo(actual.dtype).eps, atol=1e-6)
    assert rounded.abs().max() > 0.1
