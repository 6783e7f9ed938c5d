"""RoIPool against the reference on every device, dtype and layout; gradients; hostile input; errors."""

import pytest
import torch
from cases import (
    DTYPES,
    HUGE_BOXES,
    INF,
    NAN,
    NON_FINITE_BOXES,
    SPECIAL_BOXES,
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


def coarse_map(*shape, dtype=torch.float32, seed=0):
    """Few distinct values, so that most bins have several equal maxima."""
    return random_map(*shape, dtype=torch.float64, seed=seed).mul(2).round().div(2).to(dtype)


def check(input, rois, output_size=(7, 7), spatial_scale=0.5):
    """Compare with the reference: equal, since a maximum is one of the features and nothing is rounded."""
    actual = ops.roi_pool(input, rois, output_size, spatial_scale)
    expected = reference.roi_pool(input.cpu(), rois.cpu(), output_size, spatial_scale)
    assert actual.dtype == input.dtype
    assert torch.equal(actual.cpu(), expected)
    return actual


def check_gradient(input, rois, output_size=(7, 7), spatial_scale=0.5):
    """Gradients of small integers: their sums are exact, so these too are equal."""
    input = input.detach().requires_grad_()
    output = ops.roi_pool(input, rois, output_size, spatial_scale)
    gradient = random_map(*output.shape, seed=1).mul(2).round().to(output)
    (actual,) = torch.autograd.grad(output, input, gradient)
    exact_input = input.detach().double().cpu().requires_grad_()
    exact = reference.roi_pool(exact_input, rois.cpu(), output_size, spatial_scale)
    (expected,) = torch.autograd.grad(exact, exact_input, gradient.double().cpu())
    assert torch.equal(actual.cpu(), expected.to(actual.dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("output_size", [1, 7, (3, 5)], ids=str)
def test_matches_reference(device, dtype, output_size):
    input = random_map(2, 19, 15, 20, dtype=dtype).to(device)
    rois_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    check(input, random_rois(50, 2, 40, 30, dtype=rois_dtype).to(device), output_size)
    check(input, random_rois(50, 2, 40, 30, dtype=rois_dtype).round().to(device), output_size)  # halves


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed", "expanded"])
@pytest.mark.parametrize("channels", [1, 8, 16, 40])
def test_every_layout(device, layout, channels):
    input = layouts(random_map(2, channels, 15, 20).to(device))[layout]
    for count in (2, 60):  # few RoIs gather patches, many a whole plane
        output = check(input, random_rois(count, 2, 40, 30).to(device))
        wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        assert output.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("name", SPECIAL_BOXES)
def test_special_boxes(device, name):
    rois = rois_of({name: SPECIAL_BOXES[name]}, torch.float64).to(device)
    input = random_map(1, 3, 15, 20, dtype=torch.float64).to(device)
    check(input, rois)
    check_gradient(input, rois)


def test_bins_overlap_and_halves_round_away_from_zero(device):
    # A RoI of columns 0..6 and rows 3..7 in 2 x 2 bins: columns [0, 4) and [3, 7), rows [3, 6) and [5, 8).
    features = torch.zeros(1, 1, 8, 8, device=device)
    features[0, 0, 3, 0], features[0, 0, 5, 3], features[0, 0, 7, 6], features[0, 0, 2, 2] = 1, 2, 3, 9
    for box in ([0, 0, 3, 6, 7], [0, -0.49, 2.5, 5.5, 6.5]):
        output = ops.roi_pool(features, torch.tensor([box], device=device).float(), 2)
        assert output.tolist() == [[[[2, 2], [2, 3]]]]
    row = torch.tensor([[[[10.0, 11, 12, 13]]]], device=device)
    for x, value in ((0.5, 11), (1.5, 12), (2.5, 13), (0.49999997, 10), (-0.4, 10), (-0.5, 0)):
        assert ops.roi_pool(row, torch.tensor([[0, x, 0, x, 0]], device=device), 1).item() == value


@pytest.mark.parametrize("name", [*NON_FINITE_BOXES, *HUGE_BOXES])
def test_hostile_boxes_finish_with_finite_output(device, name):
    box = {**NON_FINITE_BOXES, **HUGE_BOXES}[name]
    input = random_map(1, 3, 15, 20).to(device).requires_grad_()
    rois = rois_of({name: box}).to(device)
    output = check(input, rois)
    (gradient,) = torch.autograd.grad(output.sum(), input)
    assert output.isfinite().all()
    assert gradient.isfinite().all()
    if name in NON_FINITE_BOXES:
        assert (output == 0).all()
        assert (gradient == 0).all()


def test_one_bad_roi_leaves_the_others_alone(device):
    input = random_map(1, 16, 15, 20).to(device)
    good = random_rois(20, 1, 40, 30).to(device)
    bad = rois_of(NON_FINITE_BOXES).to(device)
    expected = ops.roi_pool(input, good, 7, 0.5)
    actual = ops.roi_pool(input, torch.cat([good[:10], bad, good[10:]]), 7, 0.5)
    assert torch.equal(torch.cat([actual[:10], actual[10 + len(bad) :]]), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_infinite_features(device, dtype):
    # A NaN is never greater; what is not greater than the lowest number has no position and no gradient.
    input = torch.tensor([[[[NAN, 3, NAN, 5], [-INF, 4, NAN, -INF], [INF, NAN, NAN, NAN]]]], dtype=dtype)
    input = input.to(device).requires_grad_()
    rois = torch.tensor(
        [[0, 0, 0, 1, 1], [0, 1, 0, 3, 0], [0, 2, 1, 3, 2], [0, 0, 1, 0, 2]], device=device
    ).float()
    output = ops.roi_pool(input, rois, 1).flatten()
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32
    lowest = torch.tensor(torch.finfo(accumulation).min, dtype=accumulation).to(dtype).item()
    assert output.tolist() == [4, 5, lowest, INF]
    (gradient,) = torch.autograd.grad(output, input, torch.ones_like(output))
    assert gradient.flatten().tolist() == [0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5), (2, 3, 0, 5), (2, 3, 5, 0), (2, 3, 5, 5)])
def test_empty_inputs(device, shape):
    input = torch.ones(shape, device=device, requires_grad=True)
    rois = torch.zeros(0 if shape[0] == 0 or input.numel() else 2, 5, device=device)
    output = ops.roi_pool(input, rois, (2, 3))
    assert output.shape == (len(rois), shape[1], 2, 3)
    assert (output == 0).all()
    (gradient,) = torch.autograd.grad(output.sum(), input, create_graph=True)
    assert gradient.shape == shape


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients(device, layout):
    rois = torch.cat(
        [random_rois(4, 2, 12, 10, dtype=torch.float64), rois_of({"past": [8, 8, 30, 30]}).double()]
    )
    input = layouts(random_map(2, 2, 5, 6, dtype=torch.float64).to(device))[layout].requires_grad_()
    rois = rois.to(device)

    def run(input):
        return ops.roi_pool(input, rois, (2, 3), 0.5)

    assert torch.autograd.gradcheck(run, (input,))
    assert torch.autograd.gradgradcheck(run, (input,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_backward_matches_reference(device, layout, dtype):
    rois_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    rois = torch.cat([random_rois(40, 3, 80, 60, dtype=rois_dtype), rois_of(SPECIAL_BOXES, rois_dtype)])
    input = layouts(coarse_map(3, 21, 30, 40, dtype=dtype).to(device))[layout]
    check(input, rois.to(device), 5)
    check_gradient(input, rois.to(device), 5)


def test_gradient_of_any_layout(device):
    input = coarse_map(1, 6, 9, 11).to(device).requires_grad_()
    rois = random_rois(7, 1, 18, 22).to(device)
    output = ops.roi_pool(input, rois, 4, 0.5)
    gradient = random_map(*output.shape, seed=1).to(device)
    (expected,) = torch.autograd.grad(output, input, gradient, retain_graph=True)
    for each in layouts(gradient).values():
        if torch.equal(each, gradient):
            assert torch.equal(torch.autograd.grad(output, input, each, retain_graph=True)[0], expected)


def test_backward_ignores_positions_outside_the_map(device):
    rois, gradient = torch.zeros(1, 5, device=device), torch.ones(1, 1, 1, 3, device=device)
    rois[:, 3:] = 9
    argmax = torch.tensor([[[[-1, 12, 2**31 - 1]]]], dtype=torch.int32, device=device)
    result = torch.ops.maskrcnn_ops.roi_pool_backward(gradient, argmax, rois, 1.0, 1, 3, 1, 1, 3, 4, False)
    assert not result.any()


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 40), st.integers(1, 12)),
    pooled=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    scale=st.sampled_from([1.0, 0.5, 0.25, 1 / 3]),
    whole=st.booleans(),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
)
def test_random_cases(device, seed, shape, pooled, scale, whole, layout):
    input = layouts(coarse_map(*shape, dtype=torch.float64, seed=seed).to(device))[layout]
    rois = hostile_rois(shape[0], 1.5 * shape[3] / scale, 1.5 * shape[2] / scale, seed)
    rois = (rois.round() if whole else rois).to(device)
    check(input, rois, pooled, scale)
    check_gradient(input, rois, pooled, scale)


def test_boxes_as_a_list(device):
    input = random_map(2, 4, 15, 20).to(device)
    rois = random_rois(10, 2, 40, 30).to(device)
    rois = rois[rois[:, 0].argsort(stable=True)]
    boxes = [rois[rois[:, 0] == n, 1:] for n in range(2)]
    assert torch.equal(ops.roi_pool(input, boxes, 7, 0.5), ops.roi_pool(input, rois, 7, 0.5))


def test_half_precision_boxes_are_widened(device):
    input = random_map(1, 4, 15, 20, dtype=torch.float16).to(device)
    rois = random_rois(10, 1, 40, 30).half().to(device)
    assert torch.equal(ops.roi_pool(input, rois, 7, 0.5), ops.roi_pool(input, rois.float(), 7, 0.5))


def test_autocast_keeps_features_and_boxes(device):
    input = random_map(1, 4, 9, 1000).to(device)
    rois = torch.tensor([[0, 3001.3, 3.2, 3017.7, 21.9]], device=device)  # beyond half precision's integers
    expected = ops.roi_pool(input, rois, 7, 0.25)
    half = ops.roi_pool(input.bfloat16(), rois, 7, 0.25)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(ops.roi_pool(input, rois, 7, 0.25), expected)
        assert torch.equal(ops.roi_pool(input.bfloat16(), rois, 7, 0.25), half)
    assert half.dtype == torch.bfloat16


def test_deterministic_and_independent_of_threads(device):
    results = []
    threads = torch.get_num_threads()
    for layout in ("contiguous", "channels_last"):
        input = layouts(random_map(2, 33, 30, 40).to(device))[layout].requires_grad_()
        rois = random_rois(70, 2, 80, 60).to(device)
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            output = ops.roi_pool(input, rois, 7, 0.5)
            results.append((output, torch.autograd.grad(output.square().sum(), input)[0]))
    torch.set_num_threads(threads)
    for output, gradient in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(device, layout):
    input = layouts(random_map(1, 4, 6, 7).to(device))[layout].detach().requires_grad_()
    rois = random_rois(3, 1, 12, 10).to(device)
    torch.library.opcheck(torch.ops.maskrcnn_ops.roi_pool.default, (input, rois, 0.5, 2, 3))
    _, argmax = torch.ops.maskrcnn_ops.roi_pool(input, rois, 0.5, 2, 3)
    gradient = torch.ones(3, 4, 2, 3, device=device, requires_grad=True)
    torch.library.opcheck(
        torch.ops.maskrcnn_ops.roi_pool_backward.default,
        (gradient, argmax, rois, 0.5, 2, 3, 1, 4, 6, 7, layout == "channels_last"),
    )


def test_compiles_with_dynamic_shapes(device):
    def run(input, rois):
        return ops.roi_pool(input, rois, 3, 0.5) * 2

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for count, size in ((5, 15), (8, 11), (0, 7)):
        input = random_map(1, 4, size, 20).to(device).requires_grad_()
        rois = random_rois(count, 1, 40, 30).to(device)
        assert torch.equal(compiled(input, rois), run(input, rois))
        (actual,) = torch.autograd.grad(compiled(input, rois).sum(), input)
        (expected,) = torch.autograd.grad(run(input, rois).sum(), input)
        assert torch.equal(actual, expected)


def test_exports(device):
    module = ops.RoIPool(3, 0.5)
    input, rois = random_map(1, 4, 15, 20).to(device), random_rois(5, 1, 40, 30).to(device)
    exported = torch.export.export(
        module, (input, rois), dynamic_shapes=({}, {0: torch.export.Dim("rois", min=2)})
    )
    assert torch.equal(exported.module()(input, rois[:3]), module(input, rois[:3]))


def test_meta_tensors_give_shapes():
    output = ops.roi_pool(torch.empty(2, 3, 8, 9, device="meta"), torch.empty(5, 5, device="meta"), (2, 3))
    assert output.shape == (5, 3, 2, 3)


def test_module(device):
    input, rois = random_map(1, 4, 15, 20).to(device), random_rois(5, 1, 40, 30).to(device)
    module = ops.RoIPool((3, 4), 0.5)
    assert torch.equal(module(input, rois), ops.roi_pool(input, rois, (3, 4), 0.5))
    assert repr(module) == "RoIPool(output_size=(3, 4), spatial_scale=0.5)"


MAP, ROIS = torch.zeros(2, 3, 8, 8), torch.zeros(4, 5)
FLOATS = "of dtype float16, bfloat16, float32 or float64"
ERRORS = [
    ((MAP[0], ROIS, 7), "expected input of shape [N, C, H, W], got [3, 8, 8]"),
    (
        (MAP, ROIS[:, :4], 7),
        "expected rois of shape [R, 5], or a list with one [L, 4] per image, got [4, 4]",
    ),
    ((MAP, [ROIS], 7), "expected boxes[0] of shape [L, 4], got [4, 5]"),
    ((MAP.int(), ROIS, 7), f"expected input {FLOATS}, got int32"),
    ((MAP, ROIS.long(), 7), f"expected rois {FLOATS}, got int64"),
    ((MAP, ROIS, 0), "expected output_size between (1, 1) and (4096, 4096), got (0, 0)"),
    ((MAP, ROIS, (2, 2, 2)), "expected output_size of one or two integers, got (2, 2, 2)"),
    (
        (torch.zeros(1, 1, 1, 1).expand(1, 1, 65536, 32768), ROIS, 7),
        "expected input with H * W below 2^31 (positions are int32), got 65536 * 32768",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[e[1][9:50] for e in ERRORS])
def test_errors(device, arguments, message):
    def move(value):
        if isinstance(value, list):
            return [move(each) for each in value]
        return value.to(device) if isinstance(value, torch.Tensor) else value

    with pytest.raises((ValueError, RuntimeError)) as error:
        ops.roi_pool(*map(move, arguments))
    assert str(error.value).splitlines()[0] == f"roi_pool: {message}"


def test_backward_errors(device):
    gradient, rois = torch.ones(4, 3, 2, 2, device=device), ROIS.to(device)
    argmax = torch.zeros(4, 3, 2, 2, dtype=torch.int32, device=device)

    def run(gradient, argmax, rois=rois):
        return torch.ops.maskrcnn_ops.roi_pool_backward(gradient, argmax, rois, 1.0, 2, 2, 2, 3, 8, 8, False)

    assert run(gradient, argmax).shape == (2, 3, 8, 8)
    with pytest.raises(
        RuntimeError, match=r"expected grad_output of shape \[4, 3, 2, 2\], got \[4, 3, 2, 1\]"
    ):
        run(gradient[..., :1], argmax)
    with pytest.raises(RuntimeError, match=r"expected argmax of dtype int32 and shape .*, got int64 and"):
        run(gradient, argmax.long())
    with pytest.raises(RuntimeError, match=r"expected argmax .* got int32 and \[4, 3, 2, 1\]"):
        run(gradient, argmax[..., :1])


def test_image_index_outside_the_batch(device):
    input = random_map(2, 3, 8, 8).to(device).requires_grad_()
    for index in (-1.0, 2.0, 1e10):
        rois = torch.tensor([[0.0, 0, 0, 4, 4], [index, 0, 0, 4, 4]], device=device)
        if device == "cpu":
            with pytest.raises(
                RuntimeError, match=r"roi_pool: expected image indices rois\[:, 0\] in \[0, 2\), got"
            ):
                ops.roi_pool(input, rois, 7)
        else:
            output = ops.roi_pool(input, rois, 7)
            assert (output[1] == 0).all()
            assert torch.autograd.grad(output[1].sum(), input)[0].abs().sum() == 0


def test_more_than_two_to_the_31_elements(device):
    # 2.3e9 half-precision elements; only the last image is touched.
    input = torch.zeros(3, 256, 1000, 3000, dtype=torch.float16, device=device)
    input[2] = 1
    assert (ops.roi_pool(input, torch.tensor([[2.0, 100, 100, 300, 300]], device=device), 2) == 1).all()
