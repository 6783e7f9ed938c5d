"""RoIAlign's maximum: against the reference on every device, dtype and layout; ties; gradients; hostile input."""

import pytest
import torch
from cases import (
    DTYPES,
    HUGE_BOXES,
    NAN,
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


def check(input, rois, *, output_size=(7, 7), spatial_scale=0.5, **options):
    """Compare with the reference in float64 on the same, already rounded, numbers."""
    actual = ops.roi_align(input, rois, output_size, spatial_scale, reduction="max", **options)
    exact = reference.roi_align(
        input.double().cpu(), rois.double().cpu(), output_size, spatial_scale, reduction="max", **options
    )
    assert actual.dtype == input.dtype
    torch.testing.assert_close(
        actual.double().cpu(), exact, rtol=TOLERANCES[input.dtype], atol=TOLERANCES[input.dtype]
    )
    return actual


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_matches_reference(device, dtype, aligned, ratio):
    input = random_map(2, 19, 15, 20, dtype=dtype).to(device)
    rois_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    rois = random_rois(40, 2, 40, 30, dtype=rois_dtype).to(device)
    check(input, rois, sampling_ratio=ratio, aligned=aligned, output_size=(3, 5))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed", "expanded"])
@pytest.mark.parametrize("channels", [1, 8, 40])
def test_every_layout_as_in_the_reference(device, layout, channels):
    input = layouts(random_map(2, channels, 15, 20).to(device))[layout]
    for count in (2, 60):  # few RoIs gather patches, many a whole plane
        output = check(input, random_rois(count, 2, 40, 30).to(device), sampling_ratio=2)
        wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        assert output.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_special_boxes_as_in_the_reference(device, ratio, aligned):
    input = random_map(1, 3, 15, 20, dtype=torch.float64).to(device)
    check(input, rois_of(SPECIAL_BOXES, torch.float64).to(device), sampling_ratio=ratio, aligned=aligned)


@pytest.mark.parametrize("ratio", [0, 2])
def test_hostile_boxes_finish_with_finite_output(device, ratio):
    input = random_map(1, 3, 15, 20).to(device).requires_grad_()
    rois = rois_of({**NON_FINITE_BOXES, **HUGE_BOXES}).to(device)
    output = ops.roi_align(input, rois, 7, 0.5, ratio, reduction="max")
    (gradient,) = torch.autograd.grad(output[: len(NON_FINITE_BOXES)].sum(), input)
    assert output.isfinite().all()
    assert not output[: len(NON_FINITE_BOXES)].any()
    assert not gradient.any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_backward_matches_reference(device, layout, dtype):
    rois = torch.cat([random_rois(40, 3, 80, 60, dtype=dtype), rois_of(SPECIAL_BOXES, dtype)]).to(device)
    input = layouts(random_map(3, 21, 30, 40, dtype=dtype).to(device))[layout].detach().requires_grad_()
    output = ops.roi_align(input, rois, 5, 0.5, 2, True, reduction="max")
    gradient = random_map(*output.shape, dtype=dtype, seed=1).to(device)
    (actual,) = torch.autograd.grad(output, input, gradient)
    exact_input = input.detach().double().cpu().requires_grad_()
    exact = reference.roi_align(exact_input, rois.double().cpu(), 5, 0.5, 2, True, reduction="max")
    (expected,) = torch.autograd.grad(exact, exact_input, gradient.double().cpu())
    torch.testing.assert_close(
        actual.double().cpu(), expected, rtol=TOLERANCES[dtype], atol=4 * TOLERANCES[dtype]
    )


def test_gradcheck(device):
    input = random_map(2, 2, 5, 6, dtype=torch.float64).to(device).requires_grad_()
    rois = random_rois(4, 2, 12, 10, dtype=torch.float64).to(device)
    assert torch.autograd.gradcheck(lambda x: ops.roi_align(x, rois, 2, 0.5, 2, reduction="max"), (input,))


def test_no_second_derivatives(device):
    input = random_map(1, 1, 5, 6).to(device).requires_grad_()
    output = ops.roi_align(input, torch.tensor([[0.0, 0, 0, 5, 5]], device=device), 1, reduction="max")
    (gradient,) = torch.autograd.grad(output.sum() * input.sum(), input, create_graph=True)
    with pytest.raises(NotImplementedError, match="roi_align: the maximum has no second derivatives"):
        gradient.sum().backward()


def test_of_equal_samples_the_first_wins(device):
    # Samples on cell centres 1, 2 of a constant map: all equal, so the gradient goes to cell (1, 1).
    input = torch.ones(1, 1, 4, 4, device=device, requires_grad=True)
    rois = torch.tensor([[0.0, 0.5, 0.5, 2.5, 2.5]], device=device)
    ops.roi_align(input, rois, 1, 1.0, 2, reduction="max").sum().backward()
    assert input.grad[0, 0].nonzero().tolist() == [[1, 1]]
    # A later one only if it is greater: first along x, then along y.
    for place in ([1, 2], [2, 1], [2, 2]):
        values = torch.ones(1, 1, 4, 4, device=device)
        values[0, 0, place[0], place[1]] = 2
        values.requires_grad_()
        output = ops.roi_align(values, rois, 1, 1.0, 2, reduction="max")
        assert output.item() == 2
        assert torch.autograd.grad(output, values)[0][0, 0].nonzero().tolist() == [place]


def test_nan_is_the_maximum_and_outside_is_zero(device):
    input = -torch.ones(1, 17, 4, 4, device=device)
    outside = torch.tensor([[0.0, -4.5, 0.5, 1.5, 2.5]], device=device)  # samples at x = -3 and 0
    assert not ops.roi_align(input, outside, 1, 1.0, 2, reduction="max").any()
    input[0, :, 2, 1] = NAN
    inside = torch.tensor([[0.0, 0.5, 0.5, 2.5, 2.5]], device=device)
    assert ops.roi_align(input, inside, 1, 1.0, 2, reduction="max").isnan().all()


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 12), st.integers(1, 12)),
    pooled=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    scale=st.sampled_from([1.0, 0.5, 1 / 3]),
    ratio=st.integers(-1, 3),
    aligned=st.booleans(),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
)
def test_random_cases(device, seed, shape, pooled, scale, ratio, aligned, layout):
    input = layouts(random_map(*shape, dtype=torch.float64, seed=seed).to(device))[layout]
    rois = hostile_rois(shape[0], 1.5 * shape[3] / scale, 1.5 * shape[2] / scale, seed)

    def run(package, input):
        return package.roi_align(input, rois.to(input), pooled, scale, ratio, aligned, reduction="max")

    assert_as_reference(run, input)


def test_compiles_and_is_deterministic(device):
    def run(input, rois):
        return ops.roi_align(input, rois, 3, 0.5, 2, True, reduction="max")

    input, rois = random_map(1, 33, 15, 20).to(device).requires_grad_(), random_rois(9, 1, 40, 30).to(device)
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    threads, gradients = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        output = run(input, rois)
        assert torch.equal(compiled(input, rois), output)
        gradients.append(torch.autograd.grad(output.square().sum(), input)[0])
    torch.set_num_threads(threads)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_errors(device):
    input, rois = random_map(1, 1, 5, 6).to(device), torch.zeros(1, 5, device=device)
    with pytest.raises(ValueError, match="roi_align: expected reduction 'mean' or 'max', got 'sum'"):
        ops.roi_align(input, rois, 1, reduction="sum")
    with pytest.raises(
        RuntimeError, match="expected sampling_ratio of at most 1024 for the maximum, got 2000"
    ):
        ops.roi_align(input, rois, 1, sampling_ratio=2000, reduction="max")
