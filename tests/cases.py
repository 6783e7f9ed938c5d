"""Named inputs, tolerances and comparisons shared by the operators' tests."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import maskrcnn_ops as ops
from maskrcnn_ops import reference

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# Largest error against the float64 reference computed from the same (already rounded) inputs of order 1.
# float64: sums in another order. float32: 7 digits after sums of a few dozen terms and coordinates in float32.
# Halves: accumulated in float32, rounded once on output, so half an ulp (2^-9 and 2^-12) of values up to 4.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def random_boxes(
    count: int, width: float, height: float, generator: torch.Generator, dtype=torch.float32
) -> Tensor:
    """Boxes [count, 4] with corners anywhere in and a little outside the picture."""
    corners = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    corners = corners.sort(dim=1).values * torch.tensor([width, height], dtype=torch.float64)
    return corners.reshape(count, 4).to(dtype)


def random_rois(
    count: int, images: int, width: float, height: float, seed: int = 0, dtype=torch.float32
) -> Tensor:
    """RoIs [count, 5] spread over the images."""
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(count, width, height, generator, dtype)
    index = torch.randint(images, (count, 1), generator=generator).to(dtype)
    return torch.cat([index, boxes], dim=1)


def random_map(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


INF, NAN = float("inf"), float("nan")

# Boxes in a picture of 40 x 30 pixels whose handling is easy to get wrong.
SPECIAL_BOXES = {
    "inside": [4.3, 5.1, 20.7, 18.2],
    "whole": [0.0, 0.0, 40.0, 30.0],
    "point": [7.0, 9.0, 7.0, 9.0],
    "thin": [3.0, 3.0, 3.2, 29.0],
    "inverted": [20.0, 18.0, 4.0, 5.0],
    "left": [-30.0, 2.0, 5.0, 12.0],
    "outside": [100.0, 100.0, 140.0, 120.0],
    "border": [39.0, 29.0, 41.0, 31.0],
    "enclosing": [-50.0, -50.0, 90.0, 80.0],
}
NON_FINITE_BOXES = {
    "nan": [NAN, 1.0, 5.0, 6.0],
    "inf": [0.0, 0.0, INF, 5.0],
    "minus_inf": [-INF, -INF, -INF, -INF],
    "all_nan": [NAN] * 4,
}
HUGE_BOXES = {
    "huge": [-1e30, -1e30, 1e30, 1e30],
    "huge_right": [0.0, 0.0, 1e30, 1e30],
    "huge_far": [1e30, 1e30, 2e30, 2e30],
    "huge_inverted": [1e30, 1e30, -1e30, -1e30],
}


def rois_of(boxes: dict[str, list[float]], dtype: torch.dtype = torch.float32) -> Tensor:
    """RoIs [R, 5] of image 0."""
    return torch.tensor([[0.0, *box] for box in boxes.values()], dtype=dtype)


def hostile_rois(images: int, width: float, height: float, seed: int, count: int = 9) -> Tensor:
    """float64 RoIs over the images, and among them four that are degenerate, far out or not finite."""
    generator = torch.Generator().manual_seed(seed)
    strays = rois_of({**SPECIAL_BOXES, **NON_FINITE_BOXES}, torch.float64)
    strays = strays[torch.randperm(len(strays), generator=generator)[:4]]
    strays[:, 0] = torch.randint(images, (len(strays),), generator=generator)
    rois = torch.cat([random_rois(count, images, width, height, seed, torch.float64), strays])
    return rois[torch.randperm(len(rois), generator=generator)]


def assert_as_reference(run: Callable[..., Tensor], *inputs: Tensor, tolerance: float = 1e-12) -> None:
    """``run(package, *inputs)`` gives in float64 what the reference gives, and for one gradient of the output the same
    gradients of the inputs."""
    mine = [each.detach().requires_grad_() for each in inputs]
    theirs = [each.detach().cpu().requires_grad_() for each in inputs]
    actual, expected = run(ops, *mine), run(reference, *theirs)
    torch.testing.assert_close(actual.cpu(), expected, rtol=tolerance, atol=tolerance)
    weight = random_map(*expected.shape, dtype=torch.float64, seed=1)
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    gradients = torch.autograd.grad(actual, mine, weight.to(actual.device), **options)
    for ours, other in zip(gradients, torch.autograd.grad(expected, theirs, weight, **options), strict=True):
        scale = other.abs().amax().clamp(min=1).item() if other.numel() else 1.0
        torch.testing.assert_close(ours.cpu(), other, rtol=10 * tolerance, atol=10 * tolerance * scale)


def layouts(map: Tensor) -> dict[str, Tensor]:
    """The same map in every memory layout that kernels may meet."""
    n, c, h, w = map.shape
    padded = map.new_zeros(n, c + 1, h + 2, 2 * w)
    padded[:, 1:, 1:-1, ::2] = map
    return {
        "contiguous": map.contiguous(),
        "channels_last": map.contiguous(memory_format=torch.channels_last),
        "strided": padded[:, 1:, 1:-1, ::2],
        "transposed": map.transpose(2, 3).contiguous().transpose(2, 3),
        "expanded": map[:1, :1].expand(n, c, h, w),
    }
