"""Position-sensitive RoIAlign and RoIPool beside torchvision: values, and gradients where torchvision's are right."""

import pytest
import torch
from torch import Tensor

import maskrcnn_ops as ops

torchvision = pytest.importorskip("torchvision")

pytestmark = [pytest.mark.peer, pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)]

# Sums of the same numbers in another order.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
HEIGHT, WIDTH, SCALE = 17, 23, 0.25
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(channels: int, output_size: tuple[int, int], dtype: torch.dtype, layout) -> Tensor:
    shape = (2, channels * output_size[0] * output_size[1], HEIGHT, WIDTH)
    return torch.randn(shape, generator=generator(), dtype=dtype).to(memory_format=layout).requires_grad_()


def regions(count: int, dtype: torch.dtype, low: float = -8, high: float = 100) -> Tensor:
    """[R, 5] in pixels; every third of whole pixels: at scale 1/4 halves and whole bins are then common."""
    corner = torch.rand(count, 2, generator=generator(1), dtype=dtype) * (high - low) / 2 + low
    side = torch.rand(count, 2, generator=generator(2), dtype=dtype) * (high - low) / 2 + 2
    index = torch.randint(0, 2, (count, 1), generator=generator(3)).to(dtype)
    rois = torch.cat([index, corner, corner + side], dim=1)
    rois[::3] = rois[::3].round()
    return rois


def assert_close(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def assert_same_gradient(actual: Tensor, expected: Tensor, input: Tensor) -> None:
    weight = torch.randn(expected.shape, generator=generator(4), dtype=input.dtype)
    assert_close(
        torch.autograd.grad(actual, input, weight)[0], torch.autograd.grad(expected, input, weight)[0]
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("output_size", [(1, 1), (7, 7), (3, 5)], ids=str)
@pytest.mark.parametrize("ratio", [-1, 0, 1, 2])
def test_ps_roi_align(dtype: torch.dtype, ratio: int, output_size: tuple[int, int], layout) -> None:
    input = features(5, output_size, dtype, layout)
    for count in (3, 150):
        rois = regions(count, dtype)
        actual = ops.ps_roi_align(input, rois, output_size, SCALE, ratio)
        expected = torchvision.ops.ps_roi_align(input, rois, output_size, SCALE, ratio)
        assert_close(actual, expected)
        assert_same_gradient(actual, expected, input)


def test_ps_roi_align_of_no_samples(dtype: torch.dtype) -> None:
    # Where torchvision divides 0 by 0 samples, ours is 0.
    input = features(2, (2, 2), dtype, torch.contiguous_format)
    rois = torch.tensor([[0, 9, 9, 9, 9], [0, 20, 20, 9, 30], [0, 30, 30, 9, 9]], dtype=dtype)
    expected = torchvision.ops.ps_roi_align(input, rois, 2, SCALE)
    assert expected[:2].isnan().any()
    assert torch.equal(ops.ps_roi_align(input, rois, 2, SCALE), expected.nan_to_num(0))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("output_size", [(1, 1), (7, 7), (3, 5)], ids=str)
def test_ps_roi_pool(dtype: torch.dtype, output_size: tuple[int, int], layout) -> None:
    input = features(5, output_size, dtype, layout)
    for count in (3, 150):
        rois = regions(count, dtype)
        rois[0, 3:] = rois[0, 1:3]
        rois[1, 1:] = rois[1, 1:].roll(2)
        actual = ops.ps_roi_pool(input, rois, output_size, SCALE)
        expected = torchvision.ops.ps_roi_pool(input, rois, output_size, SCALE)
        assert torch.equal(actual, expected)  # also the order of the sums is torchvision's
        inside = regions(count, dtype, high=(HEIGHT - 3) / SCALE)
        assert_same_gradient(
            ops.ps_roi_pool(input, inside, output_size, SCALE),
            torchvision.ops.ps_roi_pool(input, inside, output_size, SCALE),
            input,
        )


def test_ps_roi_pool_gradient_at_the_border(dtype: torch.dtype) -> None:
    """torchvision's backward limits bins to H and W, its forward to H - 1 and W - 1: at the border its gradient is not
    that of its forward. Ours is: the forward is linear, so pooling the maps of one 1 each gives all its weights."""
    height, width = 4, 5
    rois = torch.tensor([[0, 0, 0, 5, 4], [0, 2, 1, 9, 9], [0, 1, 1, 3, 2]], dtype=dtype)
    ones = torch.eye(4 * height * width, dtype=dtype).reshape(-1, 4, height, width)
    images = torch.arange(len(ones), dtype=dtype).repeat_interleave(len(rois))[:, None]
    pooled = torchvision.ops.ps_roi_pool(ones, torch.cat([images, rois[:, 1:].repeat(len(ones), 1)], 1), 2)
    weights = pooled.reshape(len(ones), -1)  # [cells, bins of all regions]

    input = torch.randn(1, 4, height, width, generator=generator(), dtype=dtype, requires_grad=True)
    output, peer = ops.ps_roi_pool(input, rois, 2), torchvision.ops.ps_roi_pool(input, rois, 2)
    weight = torch.randn(output.shape, generator=generator(4), dtype=dtype)
    (actual,) = torch.autograd.grad(output, input, weight)
    (theirs,) = torch.autograd.grad(peer, input, weight)
    expected = (weights @ weight.flatten()).reshape(input.shape)
    assert_close(actual, expected)
    assert not torch.allclose(
        theirs, expected
    )  # if this fails, torchvision is mended: compare with it everywhere


def test_modules(dtype: torch.dtype) -> None:
    input = features(3, (4, 2), dtype, torch.contiguous_format)
    lists = [regions(4, dtype)[:, 1:], regions(3, dtype)[:, 1:]]
    for name, options in (("PSRoIAlign", ((4, 2), SCALE, 2)), ("PSRoIPool", ((4, 2), SCALE))):
        ours, theirs = getattr(ops, name)(*options), getattr(torchvision.ops, name)(*options)
        assert_close(ours(input, lists), theirs(input, lists))
        assert repr(ours) == repr(theirs)
