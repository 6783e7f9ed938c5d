"""RoIWarp against the reference; its relatives; hostile input; errors."""

import pytest
import torch
from cases import (
    DTYPES,
    HUGE_BOXES,
    NON_FINITE_BOXES,
    SPECIAL_BOXES,
    TOLERANCES,
    assert_as_reference,
    hostile_rois,
    layouts,
    random_map,
    random_rois,
    rois_of,
)
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn_ops import reference


def check(input, rois, *options, reduction="mean"):
    actual = ops.roi_warp(input, rois, *options, reduction=reduction)
    expected = reference.roi_warp(input.double().cpu(), rois.cpu(), *options, reduction=reduction)
    assert actual.dtype == input.dtype
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=0, atol=TOLERANCES[input.dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_matches_reference(device, dtype, reduction, ratio):
    rois = random_rois(50, 2, 40, 30, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    for map in layouts(random_map(2, 5, 15, 20, dtype=dtype).to(device)).values():
        check(map, rois.to(device), (3, 7), 0.5, ratio, reduction=reduction)
        check(map, rois.round().to(device), (3, 7), 0.5, ratio, reduction=reduction)  # halves


def test_every_box(device):
    rois = rois_of({**SPECIAL_BOXES, **NON_FINITE_BOXES, **HUGE_BOXES}, torch.float64).to(device)
    check(random_map(1, 3, 15, 20, dtype=torch.float64).to(device), rois, 7, 0.5, 2)


@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    pooled=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    ratio=st.integers(-1, 3),
    scale=st.sampled_from([1.0, 0.5, 0.0625]),
    reduction=st.sampled_from(["mean", "max"]),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
)
def test_random_cases_match_reference(device, seed, size, pooled, ratio, scale, reduction, layout):
    rois = hostile_rois(2, size[1] / scale, size[0] / scale, seed)
    map = layouts(random_map(2, 3, *size, dtype=torch.float64, seed=seed).to(device))[layout]

    def run(package, map):
        return package.roi_warp(map, rois.to(map), pooled, scale, ratio, reduction=reduction)

    assert_as_reference(run, map)


def test_boxes_inside_one_rounding_give_the_same(device):
    map = random_map(1, 4, 20, 20).to(device)
    box = torch.tensor([[0.0, 4.1, 5.2, 11.9, 12.4]], device=device)
    near = box + torch.tensor([0.0, 0.3, -0.3, 0.3, -0.3], device=device)
    assert torch.equal(ops.roi_warp(map, box, 7, 1.0, 2), ops.roi_warp(map, near, 7, 1.0, 2))
    assert not torch.equal(
        ops.roi_align(map, box, 7, 1.0, 2, True), ops.roi_align(map, near, 7, 1.0, 2, True)
    )


def test_gradients(device):
    map = random_map(2, 3, 9, 8, dtype=torch.float64).to(device).requires_grad_()
    rois = random_rois(5, 2, 16, 18, dtype=torch.float64).to(device)
    assert torch.autograd.gradcheck(lambda x: ops.roi_warp(x, rois, 3, 0.5, 2), map)
    assert torch.autograd.gradgradcheck(lambda x: ops.roi_warp(x, rois, 3, 0.5, 2), map)
    wanted = rois.requires_grad_()
    (gradient,) = torch.autograd.grad(ops.roi_warp(map, wanted, 3, 0.5, -1).sum(), map)
    assert gradient.any()  # boxes that require gradients are no error: rounding has none


def test_lists_halves_modules_and_compile(device):
    map = random_map(2, 3, 12, 12).to(device)
    boxes = [torch.tensor([[1.0, 2, 9, 9]], device=device), torch.tensor([[3.0, 3, 8, 20]], device=device)]
    rois = torch.tensor([[0.0, 1, 2, 9, 9], [1, 3, 3, 8, 20]], device=device)
    expected = ops.roi_warp(map, rois, 5, 0.5, 2, reduction="max")
    assert torch.equal(ops.roi_warp(map, boxes, 5, 0.5, 2, reduction="max"), expected)
    assert torch.equal(ops.roi_warp(map, rois.half(), 5, 0.5, 2, reduction="max"), expected)
    module = ops.RoIWarp(5, 0.5, 2, reduction="max")
    assert torch.equal(module(map, rois), expected)
    assert repr(module) == "RoIWarp(output_size=5, spatial_scale=0.5, sampling_ratio=2, reduction='max')"
    compiled = torch.compile(ops.roi_warp, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(map, rois, 5, 0.5, 2, reduction="max"), expected)


def test_errors():
    map, rois = torch.zeros(1, 2, 4, 4), torch.zeros(1, 5)
    with pytest.raises(ValueError, match=r"roi_warp: expected rois of shape \[R, 5\].*got \[1, 4\]"):
        ops.roi_warp(map, rois[:, :4], 2)
    with pytest.raises(ValueError, match="roi_warp: expected reduction 'mean' or 'max', got 'sum'"):
        ops.roi_warp(map, rois, 2, reduction="sum")
