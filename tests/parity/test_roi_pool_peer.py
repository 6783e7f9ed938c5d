"""RoIPool and MultiScaleRoIAlign beside torchvision: equal maxima and positions, and gradients up to rounding."""

import pytest
import torch
from torch import Tensor

import maskrcnn_ops as ops

torchvision = pytest.importorskip("torchvision")

pytestmark = [pytest.mark.peer, pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)]

# Sums of the same gradients in another order.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(count: int, dtype: torch.dtype, extent: float = 90.0, seed: int = 1) -> Tensor:
    corners = torch.rand(count, 2, generator=generator(seed), dtype=dtype) * extent - 8
    sides = torch.rand(count, 2, generator=generator(seed + 100), dtype=dtype) * extent / 2
    return torch.cat([corners, corners + sides], dim=1)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("output_size", [(1, 1), (7, 7), (3, 5)], ids=str)
@pytest.mark.parametrize("count", [3, 150])
def test_roi_pool(dtype: torch.dtype, count: int, output_size: tuple[int, int], layout, ties: bool) -> None:
    features = torch.randn(2, 21, 17, 23, generator=generator(), dtype=dtype)
    features = (features.mul(2).round() if ties else features).to(memory_format=layout).requires_grad_()
    index = torch.randint(0, 2, (count, 1), generator=generator(2)).to(dtype)
    rois = torch.cat([index, boxes(count, dtype)], dim=1)
    rois[::3] = rois[::3].round()  # at scale 1/4, halves and whole bins are then common
    rois[0, 3:] = rois[0, 1:3]
    rois[1, 1:] = rois[1, 1:].roll(2)
    actual, argmax = torch.ops.maskrcnn_ops.roi_pool(features, rois, 0.25, *output_size)
    expected, expected_argmax = torch.ops.torchvision.roi_pool(features, rois, 0.25, *output_size)
    assert torch.equal(actual, expected)
    assert torch.equal(argmax, expected_argmax)
    weight = torch.randn(expected.shape, generator=generator(4), dtype=dtype)
    assert_close(
        torch.autograd.grad(actual, features, weight)[0], torch.autograd.grad(expected, features, weight)[0]
    )


def test_roi_pool_nan_features(dtype: torch.dtype) -> None:
    features = torch.randn(1, 20, 17, 23, generator=generator(), dtype=dtype)
    features[torch.rand(features.shape, generator=generator(1)) < 0.5] = float("nan")
    features[:, :, 0] = 1  # no bin of these RoIs is all NaN in its first row
    rois = torch.cat([torch.zeros(40, 1, dtype=dtype), boxes(40, dtype).abs()], dim=1)
    rois[:, 2] = 0
    actual, argmax = torch.ops.maskrcnn_ops.roi_pool(features, rois, 0.25, 1, 3)
    expected, expected_argmax = torch.ops.torchvision.roi_pool(features, rois, 0.25, 1, 3)
    assert torch.equal(actual, expected)
    assert torch.equal(argmax, expected_argmax)


def test_roi_pool_module(dtype: torch.dtype) -> None:
    features, lists = torch.randn(2, 3, 17, 23, dtype=dtype), [boxes(4, dtype), boxes(3, dtype, seed=7)]
    ours, theirs = ops.RoIPool((4, 2), 0.25), torchvision.ops.RoIPool((4, 2), 0.25)
    assert torch.equal(ours(features, lists), theirs(features, lists))


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["2", "3", "4", "5"], {}),
        (["3", "4"], {"canonical_scale": 112}),
        (["2", "3"], {"canonical_level": 2}),
        (["4"], {}),
    ],
)
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_multiscale_roi_align(
    dtype: torch.dtype, names: list[str], options: dict, sampling_ratio: int
) -> None:
    maps = {
        str(k): torch.randn(2, 3, 512 >> k, 768 >> k, generator=generator(k), dtype=dtype, requires_grad=True)
        for k in range(2, 6)
    }
    lists = [boxes(40, dtype, 700.0), boxes(30, dtype, 100.0, seed=5)]
    sizes = [(500, 768), (512, 640)]
    ours = ops.MultiScaleRoIAlign(names, 5, sampling_ratio, **options)
    theirs = torchvision.ops.MultiScaleRoIAlign(names, 5, sampling_ratio, **options)
    actual, expected = ours(maps, lists, sizes), theirs(maps, lists, sizes)
    assert ours.scales == theirs.scales
    assert_close(actual, expected)
    weight = torch.randn(expected.shape, generator=generator(9), dtype=dtype)
    used = [maps[name] for name in names]
    for mine, other in zip(
        torch.autograd.grad(actual, used, weight), torch.autograd.grad(expected, used, weight), strict=True
    ):
        assert_close(mine, other)


def test_levels(dtype: torch.dtype) -> None:
    # Squares around every border between levels, to a few millionths of a level.
    level = torch.arange(1, 8, dtype=dtype)[:, None] + torch.linspace(-3e-6, 3e-6, 25, dtype=dtype)
    sides = 224 * torch.exp2(level.flatten() - 4)
    squares = torch.cat([torch.zeros(len(sides), 2, dtype=dtype), sides[:, None].expand(-1, 2)], dim=1)
    maps = {str(k): torch.full((1, 1, 1024 >> k, 1024 >> k), float(k), dtype=dtype) for k in range(2, 6)}
    sizes = [(1024, 1024)]
    ours, theirs = (
        package.MultiScaleRoIAlign(list(maps), 1, 1)(maps, [squares], sizes)
        for package in (ops, torchvision.ops)
    )
    assert torch.equal(ours.round(), theirs.round())
