"""The pooling operators and pyramid levels of the reference against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hand_worked import assert_close, f64, random, random_boxes
from torch.autograd import gradcheck, gradgradcheck

from maskrcnn_ops import reference as ref

NAN, INF = math.nan, math.inf


def sample(row: list[float], u: float) -> float:
    """One RoIAlign sample at cell index u of a map of one row."""
    rois = f64([[0, u - 0.5, 0, u + 0.5, 0]])
    return ref.roi_align(f64([[[row]]]), rois, 1, sampling_ratio=1).item()


def test_roi_align_bilinear_example() -> None:
    # The four cells around (9.94, 6.50), centres at .5: 0.56 * 0.1 + 0.44 * 0.2 + 0 * (...) = 0.144.
    features = torch.zeros(1, 1, 10, 12, dtype=torch.float64)
    features[0, 0, 6:8, 9:11] = f64([[0.1, 0.2], [1.0, 0.7]])
    box = f64([[0, 9.44, 6.0, 10.44, 7.0]])  # its centre is the point
    assert_close(ref.roi_align(features, box, 1, sampling_ratio=1, aligned=True), [[[[0.144]]]])
    # Not aligned, the same coordinates are cell indices (9.94, 6.5): half a cell further on both axes.
    expected = 0.5 * (0.06 * 0.1 + 0.94 * 0.2) + 0.5 * (0.06 * 1.0 + 0.94 * 0.7)
    assert_close(ref.roi_align(features, box, 1, sampling_ratio=1), [[[[expected]]]])


@pytest.mark.parametrize(
    ("u", "expected"),
    [
        (-1.01, 0),
        (-1, 3),
        (-0.5, 3),
        (0, 3),
        (0.25, 3.5),
        (1, 5),
        (1.75, 8),
        (2, 9),
        (2.5, 9),
        (3, 9),
        (3.01, 0),
    ],
)
def test_roi_align_border_rule(u: float, expected: float) -> None:
    assert sample([3.0, 5.0, 9.0], u) == pytest.approx(expected, abs=1e-12)


def test_roi_align_adaptive_samples() -> None:
    squares = f64([[[[0, 1, 4, 9, 16]]]])
    # A side of 3 in one bin takes samples at 0.5, 1.5, 2.5, where the map is 0.5, 2.5, 6.5.
    assert_close(ref.roi_align(squares, f64([[0, 0, 0, 3, 0]]), 1), [[[[9.5 / 3]]]])
    # A side of 2.5 takes ceil(2.5) = 3 samples too, at 2.5 * (1, 3, 5) / 6, on 5/12, 1.25 and 25/12.
    expected = (5 / 12 + (1 + 3 * 0.25) + (4 + 5 / 12)) / 3
    assert_close(ref.roi_align(squares, f64([[0, 0, 0, 2.5, 0]]), 1), [[[[expected]]]])


def test_roi_align_bins_and_scale() -> None:
    # At scale 0.5 the box is [1, 5] x [0, 2] on the map; bins of 2 x 1; centres at x = 2, 4 and y = 0.5, 1.5.
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(8.0), indexing="ij")
    features = torch.stack([x, y])[None].double()
    pooled = ref.roi_align(features, f64([[0, 2, 0, 10, 4]]), 2, spatial_scale=0.5, sampling_ratio=1)
    assert_close(pooled, [[[[2, 4], [2, 4]], [[0.5, 0.5], [1.5, 1.5]]]])


def test_roi_align_degenerate_sides() -> None:
    ramp = f64([[[[0, 1, 2, 3, 4, 5]]]])
    point = f64([[0, 2, 0, 2, 0]])
    assert_close(ref.roi_align(ramp, point, 1), [[[[2.5]]]])  # not aligned: a side is at least 1
    assert_close(ref.roi_align(ramp, point, 1, aligned=True), [[[[0]]]])  # aligned: no sample in an empty bin
    assert_close(ref.roi_align(ramp, point, 1, sampling_ratio=2, aligned=True), [[[[1.5]]]])
    backwards = f64([[0, 4, 0, 2, 0]])
    assert_close(ref.roi_align(ramp, backwards, 1, aligned=True), [[[[0]]]])
    assert_close(ref.roi_align(ramp, backwards, (1, 2), sampling_ratio=1, aligned=True), [[[[3, 2]]]])


@pytest.mark.parametrize(("side", "count"), [(3.5, 4), (15.5, 16), (16, 16), (16.5, 16), (1000, 16)])
def test_roi_align_adaptive_count_is_bounded_by_the_map(side: float, count: int) -> None:
    # At most 2 * 4 + 8 samples a bin along the side of 4 cells; along that of 1 cell any number will do.
    row, roi = random(1, 2, 1, 4), f64([[0, -0.75, 0, side - 0.75, 0]])
    assert_close(ref.roi_align(row, roi, 1), ref.roi_align(row, roi, 1, sampling_ratio=count))
    column, roi = row.transpose(2, 3), f64([[0, 0, -0.75, 0, side - 0.75]])
    assert_close(ref.roi_align(column, roi, 1), ref.roi_align(column, roi, 1, sampling_ratio=count))


def test_roi_align_order_of_images_and_boxes_as_list() -> None:
    features, boxes = random(3, 2, 6, 7), random_boxes(5, 5.0)
    index = f64([2, 0, 2, 1, 0])
    pooled = ref.roi_align(features, torch.cat([index[:, None], boxes], dim=1), 2, sampling_ratio=2)
    for r, n in enumerate([2, 0, 2, 1, 0]):
        alone = ref.roi_align(features[n : n + 1], [boxes[r : r + 1]], 2, sampling_ratio=2)
        assert_close(pooled[r : r + 1], alone)
    as_list = ref.roi_align(features, [boxes[:2], boxes[:0], boxes[2:]], 2)
    rows = torch.cat([f64([0, 0, 2, 2, 2])[:, None], boxes], dim=1)
    assert_close(as_list, ref.roi_align(features, rows, 2))


def test_roi_pool_overlapping_bins() -> None:
    # A RoI of 7 x 5 cells (columns 0..6, rows 3..7) in an 8 x 8 map, 2 x 2 bins: columns [0, 4) and [3, 7),
    # rows 3 + [0, 3) and 3 + [2, 5). The bins share column 3 and row 5.
    features = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    roi = f64([[0, 0, 3, 6, 7]])
    features[0, 0, 3, 0], features[0, 0, 4, 6], features[0, 0, 7, 1], features[0, 0, 6, 5] = 1, 2, 3, 4
    features[0, 0, 2, :], features[0, 0, :, 7] = 99, 99  # outside
    assert_close(ref.roi_pool(features, roi, 2), [[[[1, 2], [3, 4]]]])
    features[0, 0, 4, 3] = 5  # a shared column: both upper bins
    assert_close(ref.roi_pool(features, roi, 2), [[[[5, 5], [3, 4]]]])
    features[0, 0, 5, 0] = 6  # a shared row: both left bins
    assert_close(ref.roi_pool(features, roi, 2), [[[[6, 5], [6, 4]]]])
    features[0, 0, 5, 3] = 7  # the cell that all four share
    assert_close(ref.roi_pool(features, roi, 2), [[[[7, 7], [7, 7]]]])


@pytest.mark.parametrize(
    ("x", "cell"), [(2.5, 3), (1.5, 2), (0.5, 1), (0.49999999999999994, 0), (2.4, 2), (-0.4, 0)]
)
def test_roi_pool_rounds_half_away_from_zero(x: float, cell: int) -> None:
    features = f64([[[[10, 11, 12, 13]]]])
    assert ref.roi_pool(features, f64([[0, x, 0, x, 0]]), 1).item() == 10 + cell


def test_roi_pool_negative_half_and_empty_bin() -> None:
    # -0.5 rounds to -1: cells -1 and 0, of which the first bin has none inside the map.
    assert_close(ref.roi_pool(f64([[[[5, 7]]]]), f64([[0, -0.5, 0, 0, 0]]), (1, 2)), [[[[0, 5]]]])


def test_roi_pool_gradient_goes_to_the_first_maximum() -> None:
    features = torch.ones(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    ref.roi_pool(features, f64([[0, 1, 1, 2, 2]]), 1).sum().backward()
    assert features.grad is not None
    assert_close(features.grad, [[[[0, 0, 0], [0, 1, 0], [0, 0, 0]]]])


POOLS = [
    pytest.param(lambda x, b: ref.roi_align(x, b, 2), id="roi_align-adaptive"),
    pytest.param(lambda x, b: ref.roi_align(x, b, 2, sampling_ratio=2, aligned=True), id="roi_align-aligned"),
    pytest.param(lambda x, b: ref.roi_pool(x, b, 2), id="roi_pool"),
    pytest.param(lambda x, b: ref.ps_roi_align(x.repeat_interleave(4, 1), b, 2), id="ps_roi_align"),
    pytest.param(lambda x, b: ref.ps_roi_pool(x.repeat_interleave(4, 1), b, 2), id="ps_roi_pool"),
]


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_non_finite_roi_gives_zeros_and_no_gradient(pool) -> None:
    features = random(2, 3, 5, 6, requires_grad=True)
    rows = [[0.0, 1.0, 1.0, 4.0, 4.0] for _ in range(15)]
    for r in range(5):
        rows[r][r], rows[5 + r][r], rows[10 + r][r] = NAN, INF, -INF
    pooled = pool(features, f64(rows))
    assert pooled.shape == (15, 3, 2, 2)
    assert not pooled.any()
    pooled.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pool", POOLS)
def test_pooling_huge_boxes_are_finite(pool, dtype: torch.dtype) -> None:
    features = random(1, 2, 5, 6).to(dtype)
    big = [[-1e30, -1e30, 1e30, 1e30], [1e30, 1e30, -1e30, -1e30], [0, 0, 1e30, 3], [-1e30, 0, 3, 1e30]]
    big += [[-3.4e38, -3.4e38, 3.4e38, 3.4e38], [3e9, 3e9, 3e9, 3e9], [-3e9, -3e9, -2e9, -2e9]]
    assert pool(features, [torch.tensor(big, dtype=dtype)]).isfinite().all()


def test_roi_pool_huge_box_covers_the_map() -> None:
    features = random(1, 2, 5, 6)
    everything = ref.roi_pool(features, torch.tensor([[0, -1e30, -1e30, 1e30, 1e30]]), 1)
    assert_close(everything[0, :, 0, 0], features.amax((0, 2, 3)))


@pytest.mark.parametrize("index", [-1, 2, 1e30])
@pytest.mark.parametrize("pool", POOLS)
def test_pooling_index_outside_the_batch_raises(pool, index: float) -> None:
    with pytest.raises(RuntimeError, match=r"expected image indices .* in \[0, 2\), got .* in row 1"):
        pool(random(2, 1, 4, 4), f64([[1, 0, 0, 2, 2], [index, 0, 0, 2, 2]]))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (2, 0, 5, 5), (0, 3, 5, 5)])
def test_pooling_no_rois(pool, shape: tuple[int, ...]) -> None:
    features = random(*shape, requires_grad=True)
    pooled = pool(features, torch.zeros(0, 5))
    assert pooled.shape == (0, shape[1], 2, 2)
    assert pooled.dtype == features.dtype
    if shape[0]:
        pooled.sum().backward()
        assert features.grad is not None
        assert not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pool", POOLS)
def test_pooling_half_features_keep_their_dtype(pool, dtype: torch.dtype) -> None:
    features, rois = random(1, 2, 6, 6).to(dtype), torch.tensor([[0, 0.7, 1.1, 4.3, 5.2]])
    assert pool(features, rois).dtype == dtype
    torch.testing.assert_close(pool(features, rois), pool(features.float(), rois).to(dtype))


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_gradcheck(pool) -> None:
    features = random(2, 1, 4, 5, requires_grad=True)
    rois = torch.cat([f64([[1], [0], [1]]), random_boxes(3, 3.0)], dim=1)
    assert gradcheck(lambda x: pool(x, rois), features)
    assert gradgradcheck(lambda x: pool(x, rois), features)


def test_pooling_modules_call_the_functions() -> None:
    features, rois = random(1, 2, 6, 6), f64([[0, 1, 2, 9, 10]])
    expected = ref.roi_align(features, rois, 2, 0.5, 2, True)
    assert_close(ref.RoIAlign(2, 0.5, 2, aligned=True)(features, rois), expected)
    assert_close(ref.RoIPool(2, 0.5)(features, rois), ref.roi_pool(features, rois, 2, 0.5))
    assert_close(ref.RoIWarp(2, 0.5, 2)(features, rois), ref.roi_warp(features, rois, 2, 0.5, 2))
    size = (2, 1)
    assert_close(ref.PSRoIAlign(size, 0.5, 2)(features, rois), ref.ps_roi_align(features, rois, size, 0.5, 2))
    assert_close(ref.PSRoIPool(size, 0.5)(features, rois), ref.ps_roi_pool(features, rois, size, 0.5))


def test_roi_warp_by_hand() -> None:
    # On a ramp a bin's average is the ramp at its middle: columns 1 to 3 (continuous 1 to 4), rows 2 to 2 (2 to 3).
    ramp = 10.0 * torch.arange(6, dtype=torch.float64)[:, None] + torch.arange(8, dtype=torch.float64)
    roi = f64([[0, 2.4, 3.2, 5.0, 4.9]])  # halved: 1.2, 1.6, 2.5, 2.45 -> cells 1 to 3, 2 to 2
    output = ref.roi_warp(ramp[None, None], roi, (1, 3), 0.5, 2)
    assert_close(output, [[[[21.0, 22.0, 23.0]]]])
    # The largest of two samples a side: a quarter of a bin further to the right and down.
    assert_close(ref.roi_warp(ramp[None, None], roi, (1, 3), 0.5, 2, reduction="max"), output + 0.25 + 2.5)
    # Inverted corners: the cell of the start. Halves round away from zero.
    assert_close(ref.roi_warp(ramp[None, None], f64([[0, 2.5, 1.5, 1, 1]]), 1, 1.0, 1), [[[[23.0]]]])


def test_ps_roi_align_by_hand() -> None:
    # Bins of 2 x 3 cells around (x, y) = (3, 2), (6, 2), (3, 4), (6, 4); cell i's centre is i + 0.5. One sample reads
    # there: x - 0.5 on the maps that ramp along x, y - 0.5 along y; bin (p, q) takes map 2 p + q, or 4 + 2 p + q.
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    features = torch.stack([x, 10 * x, y, 10 * y, x, y, 100 * x, 100 * y])[None].double()
    roi = f64([[0, 1.5, 1, 7.5, 5]])
    expected = [[[[2.5, 55], [3.5, 35]], [[2.5, 1.5], [250, 350]]]]
    assert_close(ref.ps_roi_align(features, roi, 2, sampling_ratio=1), expected)
    assert_close(ref.ps_roi_align(features, 4 * roi, 2, 0.25, 3), expected)  # a ramp's mean is its middle


def test_ps_roi_pool_by_hand() -> None:
    # Columns round(0.5) = 1 to round(6.4) = 6, without the last: side 5 in two bins, [1, 4) and [3, 6). Rows 2 to 5:
    # side 3, [2, 4) and [3, 5), of which the map of 5 rows gives only row 3 to the second.
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(8.0), indexing="ij")
    features = torch.stack([x, 10 * x, y, 10 * y, x * x, y, 100 * y, 100 * x])[None].double()
    roi = f64([[0, 0.5, 2, 6.4, 5]])
    expected = [[[[2, 40], [3, 30]], [[14 / 3, 2.5], [300, 400]]]]
    assert_close(ref.ps_roi_pool(features, roi, 2), expected)
    assert_close(ref.ps_roi_pool(features, 2 * roi, 2, 0.5), expected)


@pytest.mark.parametrize(
    ("x1", "x2", "mean"),
    [(1, 1, 11), (1, 3, 11.5), (0, 4, 11), (0, 3, 11), (0, 99, 11), (2, 0, 12), (3, 9, 0), (-0.5, 0.49, 0)],
)
def test_ps_roi_pool_ends(x1: float, x2: float, mean: float) -> None:
    # At least one cell, never the last column; what is left of the map counts as nothing.
    row = f64([[[[10, 11, 12, 99]] * 2]])
    assert ref.ps_roi_pool(row, f64([[0, x1, 0, x2, 1]]), 1).item() == mean


def test_assign_levels_by_hand() -> None:
    sides = [112, 224, 223.9, 448, 10, 2000, 0]
    boxes = f64([[7, 9, 7 + s, 9 + s] for s in sides])
    assert ref.assign_levels(boxes, 2, 5).tolist() == [1, 2, 1, 3, 0, 3, 0]
    # Half a millionth and two millionths of a level below the canonical size: 1e-6 lifts only the first.
    near = f64([[0, 0, 224 * 2**-below, 224 * 2**-below] for below in (5e-7, 2e-6)])
    assert ref.assign_levels(near, 2, 5).tolist() == [2, 1]
    assert ref.assign_levels(near, 2, 5, eps=0).tolist() == [1, 1]
    assert ref.assign_levels(near, 2, 5, eps=0, eps_inside=1e-6).tolist() == [2, 1]
    assert ref.assign_levels(f64([[0, 0, 64, 16]]), 0, 4, canonical_scale=32, canonical_level=3).tolist() == [
        3
    ]
    wild = f64([[NAN, 0, 9, 9], [9, 0, 0, 9], [-1e300, -1e300, 1e300, 1e300]])
    assert ref.assign_levels(wild, 2, 5).tolist() == [0, 0, 3]


def test_multiscale_roi_align_takes_each_box_from_its_level() -> None:
    image_shapes = [(256, 192), (200, 256)]
    maps = {str(k): torch.full((2, 3, 256 >> k, 256 >> k), float(k)) for k in (2, 3, 4, 5)}
    maps["pool"] = torch.full((2, 3, 1, 1), 99.0)
    module = ref.MultiScaleRoIAlign(["2", "3", "4", "5"], 7, 2)
    boxes = [torch.tensor([[0.0, 0, 230, 230], [5, 5, 30, 30]]), torch.tensor([[3.0, 3, 150, 150]])]
    assert module(maps, boxes, image_shapes)[:, 0, 0, 0].tolist() == [4, 2, 3]
    features = {"0": random(2, 3, 16, 16)}
    pooled = ref.MultiScaleRoIAlign(["0"], (2, 3), -1)(features, boxes, image_shapes)
    torch.testing.assert_close(pooled, ref.roi_align(features["0"], boxes, (2, 3), 1 / 16))


def test_roi_pool_never_picks_a_nan():
    nan, inf = float("nan"), float("inf")
    input = torch.tensor([[[[nan, 3.0, nan, nan], [-inf, 4.0, -inf, nan]]]], requires_grad=True)
    output = ref.roi_pool(input, torch.tensor([[0.0, 0, 0, 3, 1]]), (1, 2))
    assert output.flatten().tolist() == [4.0, torch.finfo(torch.float32).min]
    (gradient,) = torch.autograd.grad(output.sum(), input)
    assert gradient.flatten().tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
