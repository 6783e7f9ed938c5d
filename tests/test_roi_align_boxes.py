"""Gradients of RoIAlign with respect to the boxes: finite differences, the reference, layouts, errors."""

import pytest
import torch
from cases import (
    DTYPES,
    NON_FINITE_BOXES,
    assert_as_reference,
    layouts,
    random_map,
    random_rois,
    rois_of,
)
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn_ops import reference

SCALES = [0.5, 0.25]


def pyramid(device, dtype=torch.float64, channels=3, layout="contiguous"):
    shapes = ((2, channels, 15, 20), (2, channels, 8, 10))
    return [layouts(random_map(*shape, dtype=dtype, seed=15).to(device))[layout] for shape in shapes]


def both(package, maps, rois, ratio=2, aligned=True, reduction="mean"):
    """One level, and two."""
    levels = torch.arange(len(rois), device=rois.device) % 2
    options = {"aligned": aligned, "reduction": reduction}
    return torch.cat(
        [
            package.roi_align(maps[0], rois, (2, 3), 0.5, ratio, **options),
            package.multiscale_roi_align(maps, rois, (2, 3), SCALES, ratio, levels=levels, **options),
        ]
    )


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("aligned", [False, True])
def test_gradcheck(device, aligned, reduction):
    # The samples of these keep 1e-3 cells away from every cell centre, and there are no ties; one RoI reaches beyond
    # the map, one is far outside, and without `aligned` one is widened to a cell.
    maps = pyramid(device, channels=2)
    boxes = [
        [3.11, 4.32, 21.73, 17.9],
        [-7.3, -5.2, 51.4, 37.7],
        [5.37, 6.13, 6.31, 7.29],
        [90.2, 90.3, 95.1, 99.7],
    ]
    rois = torch.tensor([[k % 2, *box] for k, box in enumerate(boxes)], dtype=torch.float64, device=device)

    def run(corners):
        return both(ops, maps, torch.cat([rois[:, :1], corners], dim=1), 2, aligned, reduction)

    assert torch.autograd.gradcheck(run, (rois[:, 1:].clone().requires_grad_(),), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_matches_reference(device, layout, dtype, reduction):
    maps = pyramid(device, dtype, 21, layout)
    rois = random_rois(40, 2, 40, 30, dtype=torch.float64 if dtype == torch.float64 else torch.float32).to(
        device
    )
    rois = rois.requires_grad_()
    output = both(ops, maps, rois, 2, True, reduction)
    weight = random_map(*output.shape, dtype=dtype, seed=1).to(device)
    (actual,) = torch.autograd.grad(output, rois, weight)
    assert actual.dtype == rois.dtype
    assert not actual[:, 0].any()
    exact_rois = rois.detach().double().cpu().requires_grad_()
    exact = both(reference, [each.double().cpu() for each in maps], exact_rois, 2, True, reduction)
    (expected,) = torch.autograd.grad(exact, exact_rois, weight.double().cpu())
    # Sums of 1,000 terms of order 1; in float32 a place has an error of 1e-6, a weight with it.
    tolerance = 1e-10 if dtype == torch.float64 else 2e-3
    if reduction == "max" and dtype != torch.float64:
        # Where two samples are equal but for rounding, either may win: a few boxes may differ.
        wrong = ((actual.cpu() - expected).abs() > tolerance * (1 + expected.abs())).any(1)
        assert wrong.sum() <= 2
        return
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=tolerance)


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 12), st.integers(1, 12)),
    pooled=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    scale=st.sampled_from([1.0, 0.5, 1 / 3]),
    ratio=st.integers(1, 3),
    aligned=st.booleans(),
    reduction=st.sampled_from(["mean", "max"]),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
)
def test_random_cases_match_reference(device, seed, shape, pooled, scale, ratio, aligned, reduction, layout):
    """Gradients of the maps and of the boxes; no corner on a cell's centre, where there are two."""
    input = layouts(random_map(*shape, dtype=torch.float64, seed=seed).to(device))[layout]
    rois = random_rois(9, shape[0], 1.5 * shape[3] / scale, 1.5 * shape[2] / scale, seed, torch.float64)
    rois = torch.cat([rois, rois_of(NON_FINITE_BOXES, torch.float64)]).to(device)

    def run(package, input, rois):
        return package.roi_align(input, rois, pooled, scale, ratio, aligned, reduction=reduction)

    assert_as_reference(run, input, rois)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_independent_of_threads_and_features_too(device, threads):
    maps = [each.requires_grad_() for each in pyramid(device, torch.float32, 33)]
    rois = random_rois(40, 2, 40, 30).to(device).requires_grad_()
    before = torch.get_num_threads()
    results = []
    for count in (3, threads):
        torch.set_num_threads(count)
        results.append(torch.autograd.grad(both(ops, maps, rois).square().sum(), [*maps, rois]))
    torch.set_num_threads(before)
    for mine, other in zip(*results, strict=True):
        assert torch.equal(mine, other)
    # The same gradients of the maps as without those of the boxes.
    alone = torch.autograd.grad(both(ops, maps, rois.detach()).square().sum(), maps)
    for mine, other in zip(results[0], alone, strict=False):
        assert torch.equal(mine, other)


def test_boxes_as_a_list_and_half_precision(device):
    maps = pyramid(device, torch.float32)
    lists = [random_rois(5, 1, 40, 30, seed)[:, 1:].to(device) for seed in range(2)]
    rois = torch.cat(
        [torch.cat([torch.full((5, 1), float(n), device=device), b], 1) for n, b in enumerate(lists)]
    )
    rois.requires_grad_()
    lists = [each.requires_grad_() for each in lists]
    (expected,) = torch.autograd.grad(ops.roi_align(maps[0], rois, 3, 0.5, 2).square().sum(), rois)
    actual = torch.autograd.grad(ops.roi_align(maps[0], lists, 3, 0.5, 2).square().sum(), lists)
    assert torch.equal(torch.cat(actual), expected[:, 1:])
    half = rois.detach().half().requires_grad_()
    (gradient,) = torch.autograd.grad(ops.roi_align(maps[0], half, 3, 0.5, 2).sum(), half)
    assert gradient.dtype == torch.float16


def test_non_finite_regions_and_no_regions_have_none(device):
    maps = pyramid(device, torch.float32)
    rois = rois_of(NON_FINITE_BOXES).to(device).requires_grad_()
    (gradient,) = torch.autograd.grad(ops.roi_align(maps[0], rois, 3, 0.5, 2).sum(), rois)
    assert not gradient.any()
    empty = torch.zeros(0, 5, device=device, requires_grad=True)
    assert torch.autograd.grad(ops.roi_align(maps[0], empty, 3, 0.5, 2).sum(), empty)[0].shape == (0, 5)


def test_compiles(device):
    maps = pyramid(device, torch.float32)
    rois = random_rois(6, 2, 40, 30).to(device).requires_grad_()

    def run(rois):
        return ops.roi_align(maps[0], rois, 3, 0.5, 2)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(run(rois).square().sum(), rois)[0]
    assert torch.equal(torch.autograd.grad(compiled(rois).square().sum(), rois)[0], expected)


def test_errors(device):
    maps = [each.requires_grad_() for each in pyramid(device, torch.float32)]
    rois = random_rois(6, 2, 40, 30).to(device).requires_grad_()
    message = r"expected sampling_ratio between 1 and 1024 for boxes that require gradients, got -1; boxes.detach\(\)"
    with pytest.raises(ValueError, match="^roi_align: " + message):
        ops.roi_align(maps[0], rois, 3, 0.5)
    with pytest.raises(ValueError, match="^multiscale_roi_align: " + message):
        ops.multiscale_roi_align(maps, [rois[:, 1:], rois[:, 1:]], 3, SCALES)
    with torch.no_grad():
        ops.roi_align(maps[0], rois, 3, 0.5)
    ops.roi_align(maps[0], rois.detach(), 3, 0.5)
    output = ops.roi_align(maps[0], rois, 3, 0.5, 2)
    for wanted in (maps[0], rois):
        (gradient,) = torch.autograd.grad((output**2).sum(), wanted, create_graph=True)
        with pytest.raises(NotImplementedError, match="roi_align: boxes have no second derivatives"):
            torch.autograd.grad(gradient.square().sum(), wanted, retain_graph=True)
