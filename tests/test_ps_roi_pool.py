"""Position-sensitive RoIAlign and RoIPool against the reference on every device, dtype and layout; gradients; hostile
input; errors."""

from functools import partial

import pytest
import torch
from cases import (
    DTYPES,
    HUGE_BOXES,
    INF,
    NAN,
    NON_FINITE_BOXES,
    SPECIAL_BOXES,
    TOLERANCES,
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

KERNELS = torch.ops.maskrcnn_ops
# By name: the operator and its reference as function(input, rois, output_size, spatial_scale).
OPERATORS = {
    "ps_roi_align": (ops.ps_roi_align, reference.ps_roi_align),
    "ps_roi_align, 2": tuple(
        partial(f, sampling_ratio=2) for f in (ops.ps_roi_align, reference.ps_roi_align)
    ),
    "ps_roi_pool": (ops.ps_roi_pool, reference.ps_roi_pool),
}
BOTH = ["ps_roi_align", "ps_roi_pool"]


@pytest.fixture(params=OPERATORS)
def name(request):
    return request.param


def sensitive_map(images, channels, height, width, output_size, **options):
    """A map for `channels` output channels."""
    pooled_h, pooled_w = output_size
    return random_map(images, channels * pooled_h * pooled_w, height, width, **options)


def check(name, input, rois, output_size=(3, 2), spatial_scale=0.5):
    operator, specified = OPERATORS[name]
    actual = operator(input, rois, output_size, spatial_scale)
    exact = specified(input.double().cpu(), rois.cpu(), output_size, spatial_scale)
    assert actual.dtype == input.dtype
    tolerance = TOLERANCES[input.dtype]
    torch.testing.assert_close(actual.double().cpu(), exact, rtol=tolerance, atol=tolerance)
    return actual


def check_gradient(name, input, rois, output_size=(3, 2), spatial_scale=0.5):
    operator, specified = OPERATORS[name]
    input = input.detach().requires_grad_()
    output = operator(input, rois, output_size, spatial_scale)
    gradient = random_map(*output.shape, seed=1).to(output)
    (actual,) = torch.autograd.grad(output, input, gradient)
    exact_input = input.detach().double().cpu().requires_grad_()
    exact = specified(exact_input, rois.cpu(), output_size, spatial_scale)
    (expected,) = torch.autograd.grad(exact, exact_input, gradient.double().cpu())
    tolerance = TOLERANCES[input.dtype]
    scale = expected.abs().amax().clamp(min=1).item() if expected.numel() else 1
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("output_size", [(1, 1), (7, 7), (3, 5)], ids=str)
def test_matches_reference(device, name, dtype, output_size):
    rois_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    for channels in (1, 5, 19):
        input = sensitive_map(2, channels, 15, 20, output_size, dtype=dtype).to(device)
        rois = random_rois(50, 2, 40, 30, dtype=rois_dtype).to(device)
        check(name, input, rois, output_size)
        check(name, input, rois.round(), output_size)  # halves


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed", "expanded"])
@pytest.mark.parametrize("channels", [1, 3, 8, 16, 40])
def test_every_layout(device, name, layout, channels):
    input = layouts(sensitive_map(2, channels, 15, 20, (3, 2)).to(device))[layout]
    for count in (2, 90):  # few regions read the map, many a copy in lines
        output = check(name, input, random_rois(count, 2, 40, 30).to(device))
        wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        assert output.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("box", SPECIAL_BOXES)
def test_special_boxes(device, name, box):
    rois = rois_of({box: SPECIAL_BOXES[box]}, torch.float64).to(device)
    input = sensitive_map(1, 3, 15, 20, (3, 2), dtype=torch.float64).to(device)
    check(name, input, rois)
    check_gradient(name, input, rois)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)], ids=str)
def test_smallest_maps(device, name, shape):
    input = sensitive_map(1, 2, *shape, (2, 2), dtype=torch.float64).to(device)
    rois = random_rois(20, 1, 2 * shape[1], 2 * shape[0], dtype=torch.float64).to(device)
    output = check(name, input, rois, (2, 2))
    check_gradient(name, input, rois, (2, 2))
    if name == "ps_roi_pool" and 1 in shape:  # nothing is left without the last row and column
        assert not output.any()


@pytest.mark.parametrize("operator", [ops.ps_roi_align, ops.ps_roi_pool])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_each_bin_reads_its_own_channel(device, operator, layout):
    # Channel k holds k everywhere, so bin (p, q) of channel c gives its channel's number.
    values = torch.arange(4 * 3 * 2, dtype=torch.float32)
    input = layouts(values[None, :, None, None].expand(1, -1, 9, 9).to(device))[layout]
    output = operator(input, torch.tensor([[0, 1.0, 1, 7, 7]], device=device).repeat(50, 1), (3, 2))
    torch.testing.assert_close(output.cpu(), values.reshape(4, 3, 2).expand(50, -1, -1, -1))


def test_align_is_roi_align_of_each_bins_own_channel(device):
    input = sensitive_map(2, 4, 15, 20, (3, 2)).to(device)
    rois = random_rois(30, 2, 40, 30).to(device)
    for ratio in (-1, 0, 1, 3):
        every = ops.roi_align(input, rois, (3, 2), 0.5, ratio, aligned=True).unflatten(1, (4, 3, 2))
        own = every.diagonal(dim1=2, dim2=4).diagonal(dim1=2, dim2=3)
        torch.testing.assert_close(ops.ps_roi_align(input, rois, (3, 2), 0.5, ratio), own)


def test_pool_rounds_halves_away_and_never_reads_the_last_row_and_column(device):
    row = torch.tensor([[[[10.0, 11, 12, 13, 99]] * 2]], device=device)

    def run(x1, x2):
        return ops.ps_roi_pool(row, torch.tensor([[0.0, x1, 0, x2, 0]], device=device), 1).item()

    # From the rounded start up to, not including, the rounded end; at least one cell.
    assert [run(x, x) for x in (0.5, 1.5, 2.5, 0.49999997, -0.4, -0.5)] == [11, 12, 13, 10, 10, 0]
    assert [run(0, x) for x in (1.49, 1.5, 2.5, 4, 5, 100)] == [10, 10.5, 11, 11.5, 11.5, 11.5]
    assert [run(x, 9) for x in (3, 4, 5)] == [13, 0, 0]
    assert run(3, 1) == 13  # inverted: the cell of the start


def test_bins_overlap(device):
    # Columns 0..6 in two bins: [0, 4) and [3, 7); one row.
    input = torch.arange(8.0, device=device).expand(1, 2, 2, 8)
    output = ops.ps_roi_pool(input, torch.tensor([[0, 0, 0, 7, 1.0]], device=device), (1, 2))
    assert output.tolist() == [[[[1.5, 4.5]]]]


def test_an_empty_bin_of_align_gives_zero(device):
    # torchvision divides by the number of samples, of which there are none.
    rois = torch.tensor([[0, 3.0, 3, 3, 3], [0, 1, 3, 5, 3]], device=device)
    input = torch.ones(1, 4, 8, 8, device=device, requires_grad=True)
    output = ops.ps_roi_align(input, rois, 2)
    (gradient,) = torch.autograd.grad(output.sum(), input)
    assert not output.any()
    assert not gradient.any()
    assert (ops.ps_roi_align(input, rois, 2, sampling_ratio=2) == 1).all()


@pytest.mark.parametrize("box", [*NON_FINITE_BOXES, *HUGE_BOXES])
def test_hostile_boxes_finish_with_finite_output(device, name, box):
    rois = rois_of({box: {**NON_FINITE_BOXES, **HUGE_BOXES}[box]}).to(device)
    input = sensitive_map(1, 3, 15, 20, (3, 2)).to(device).requires_grad_()
    output = check(name, input, rois)
    (gradient,) = torch.autograd.grad(output.sum(), input)
    assert output.isfinite().all()
    assert gradient.isfinite().all()
    if box in NON_FINITE_BOXES:
        assert (output == 0).all()
        assert (gradient == 0).all()


def test_one_bad_roi_leaves_the_others_alone(device, name):
    operator, _ = OPERATORS[name]
    input = sensitive_map(1, 5, 15, 20, (3, 2)).to(device)
    good, bad = random_rois(40, 1, 40, 30).to(device), rois_of(NON_FINITE_BOXES).to(device)
    expected = operator(input, good, (3, 2), 0.5)
    actual = operator(input, torch.cat([good[:10], bad, good[10:]]), (3, 2), 0.5)
    assert torch.equal(torch.cat([actual[:10], actual[10 + len(bad) :]]), expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_non_finite_features_stay_in_their_cells(device, name, layout):
    operator, _ = OPERATORS[name]
    input = layouts(sensitive_map(1, 5, 15, 20, (3, 2)).to(device))[layout].clone()
    rois = torch.tensor([[0, 2.0, 2, 14, 14]], device=device).repeat(60, 1)  # rows and columns up to 7
    expected = operator(input, rois, (3, 2), 0.5)
    input[:, :, 9:], input[..., 9:] = NAN, INF
    assert torch.equal(operator(input, rois, (3, 2), 0.5), expected)
    input[:, 7, 3, 3] = NAN  # channel 1, bin (0, 1)
    bad = operator(input, rois, (3, 2), 0.5).isnan()
    assert bad.sum() <= 60
    assert not bad[:, [0, 2, 3, 4]].any()


@pytest.mark.parametrize(
    "shape", [(0, 12, 5, 5), (2, 0, 5, 5), (2, 12, 0, 5), (2, 12, 5, 0), (2, 12, 5, 5)], ids=str
)
def test_empty_inputs(device, name, shape):
    operator, _ = OPERATORS[name]
    input = torch.ones(shape, device=device, requires_grad=True)
    rois = torch.zeros(0 if shape[0] == 0 or input.numel() else 2, 5, device=device)
    output = operator(input, rois, (2, 3))
    assert output.shape == (len(rois), shape[1] // 6, 2, 3)
    assert (output == 0).all()
    (gradient,) = torch.autograd.grad(output.sum(), input, create_graph=True)
    assert gradient.shape == shape
    assert not gradient.any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients(device, name, layout):
    operator, _ = OPERATORS[name]
    rois = torch.cat(
        [random_rois(4, 2, 12, 10, dtype=torch.float64), rois_of({"past": [8, 8, 30, 30]}).double()]
    )
    input = sensitive_map(2, 2, 5, 6, (2, 1), dtype=torch.float64).to(device)
    input, rois = layouts(input)[layout].requires_grad_(), rois.to(device)

    def run(input):
        return operator(input, rois, (2, 1), 0.5)

    assert torch.autograd.gradcheck(run, (input,))
    assert torch.autograd.gradgradcheck(run, (input,))


def test_boxes_get_no_gradient(device, name):
    operator, _ = OPERATORS[name]
    rois = random_rois(4, 1, 12, 10).to(device).requires_grad_()
    input = sensitive_map(1, 2, 5, 6, (2, 1)).to(device).requires_grad_()
    gradients = torch.autograd.grad(
        operator(input, rois, (2, 1), 0.5).sum(), (input, rois), allow_unused=True
    )
    assert gradients[0].any()
    assert gradients[1] is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_backward_matches_reference(device, name, layout, dtype):
    rois_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    rois = torch.cat([random_rois(40, 3, 80, 60, dtype=rois_dtype), rois_of(SPECIAL_BOXES, rois_dtype)])
    for channels in (3, 17):
        input = layouts(sensitive_map(3, channels, 30, 40, (3, 2), dtype=dtype).to(device))[layout]
        check(name, input, rois.to(device))
        check_gradient(name, input, rois.to(device))


def test_gradient_of_any_layout(device, name):
    operator, _ = OPERATORS[name]
    input = sensitive_map(1, 6, 9, 11, (4, 4)).to(device).requires_grad_()
    output = operator(input, random_rois(7, 1, 22, 18).to(device), 4, 0.5)
    gradient = random_map(*output.shape, seed=1).to(device)
    (expected,) = torch.autograd.grad(output, input, gradient, retain_graph=True)
    for each in layouts(gradient).values():
        if torch.equal(each, gradient):
            assert torch.equal(torch.autograd.grad(output, input, each, retain_graph=True)[0], expected)


@given(
    which=st.sampled_from(list(OPERATORS)),
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 12), st.integers(1, 12)),
    pooled=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    count=st.sampled_from([1, 9, 60]),
    scale=st.sampled_from([1.0, 0.5, 0.25, 1 / 3]),
    whole=st.booleans(),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
)
def test_random_cases(device, which, seed, shape, pooled, count, scale, whole, layout):
    input = sensitive_map(*shape, pooled, dtype=torch.float64, seed=seed)
    input = layouts(input.to(device))[layout]
    rois = hostile_rois(shape[0], 1.5 * shape[3] / scale, 1.5 * shape[2] / scale, seed, count)
    rois = (rois.round() if whole else rois).to(device)
    check(which, input, rois, pooled, scale)
    check_gradient(which, input, rois, pooled, scale)


def test_boxes_as_a_list(device, name):
    operator, _ = OPERATORS[name]
    input = sensitive_map(2, 4, 15, 20, (3, 2)).to(device)
    rois = random_rois(10, 2, 40, 30).to(device)
    rois = rois[rois[:, 0].argsort(stable=True)]
    boxes = [rois[rois[:, 0] == n, 1:] for n in range(2)]
    assert torch.equal(operator(input, boxes, (3, 2), 0.5), operator(input, rois, (3, 2), 0.5))


def test_half_precision_boxes_are_widened(device, name):
    operator, _ = OPERATORS[name]
    input = sensitive_map(1, 4, 15, 20, (3, 2), dtype=torch.float16).to(device)
    rois = random_rois(10, 1, 40, 30).half().to(device)
    assert torch.equal(operator(input, rois, (3, 2), 0.5), operator(input, rois.float(), (3, 2), 0.5))


def test_autocast_keeps_features_and_boxes(device, name):
    operator, _ = OPERATORS[name]
    input = sensitive_map(1, 2, 9, 1000, (3, 2)).to(device)
    rois = torch.tensor([[0, 3001.3, 3.2, 3017.7, 21.9]], device=device)  # beyond half precision's integers
    expected = operator(input, rois, (3, 2), 0.25)
    half = operator(input.bfloat16(), rois, (3, 2), 0.25)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(operator(input, rois, (3, 2), 0.25), expected)
        assert torch.equal(operator(input.bfloat16(), rois, (3, 2), 0.25), half)
    assert half.dtype == torch.bfloat16


def test_deterministic_and_independent_of_threads(device, name):
    operator, _ = OPERATORS[name]
    threads = torch.get_num_threads()
    for layout in ("contiguous", "channels_last"):
        results = []
        input = layouts(sensitive_map(2, 20, 30, 40, (3, 2)).to(device))[layout].requires_grad_()
        rois = random_rois(70, 2, 80, 60).to(device)
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            output = operator(input, rois, (3, 2), 0.5)
            results.append((output, torch.autograd.grad(output.square().sum(), input)[0]))
        torch.set_num_threads(threads)
        for output, gradient in results[1:]:
            assert torch.equal(output, results[0][0])
            assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", BOTH)
def test_opcheck(device, name, layout):
    options = (0.5, 2) if name == "ps_roi_align" else (0.5,)
    input = layouts(sensitive_map(1, 2, 6, 7, (2, 3)).to(device))[layout].detach().requires_grad_()
    rois = random_rois(3, 1, 12, 10).to(device)
    torch.library.opcheck(getattr(KERNELS, name).default, (input, rois, *options, 2, 3))
    gradient = torch.ones(3, 2, 2, 3, device=device, requires_grad=True)
    arguments = (gradient, rois, *options, 1, 6, 7, layout == "channels_last")
    torch.library.opcheck(getattr(KERNELS, f"{name}_backward").default, arguments)


def test_compiles_with_dynamic_shapes(device, name):
    operator, _ = OPERATORS[name]

    def run(input, rois):
        return operator(input, rois, (3, 2), 0.5) * 2

    torch.compiler.reset()  # `run` is one code object for all operators, and the recompilations of each count
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for count, size in ((5, 15), (8, 11), (0, 7)):
        input = sensitive_map(1, 4, size, 20, (3, 2)).to(device).requires_grad_()
        rois = random_rois(count, 1, 40, 30).to(device)
        assert torch.equal(compiled(input, rois), run(input, rois))
        (actual,) = torch.autograd.grad(compiled(input, rois).sum(), input)
        (expected,) = torch.autograd.grad(run(input, rois).sum(), input)
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("module", [ops.PSRoIAlign(3, 0.5, 2), ops.PSRoIPool(3, 0.5)], ids=["align", "pool"])
def test_exports(device, module):
    input = sensitive_map(1, 4, 15, 20, (3, 3)).to(device)
    rois = random_rois(5, 1, 40, 30).to(device)
    exported = torch.export.export(
        module, (input, rois), dynamic_shapes=({}, {0: torch.export.Dim("rois", min=2)})
    )
    assert torch.equal(exported.module()(input, rois[:3]), module(input, rois[:3]))


def test_meta_tensors_give_shapes(name):
    operator, _ = OPERATORS[name]
    output = operator(torch.empty(2, 18, 8, 9, device="meta"), torch.empty(5, 5, device="meta"), (2, 3))
    assert output.shape == (5, 3, 2, 3)
    with pytest.raises(RuntimeError, match=r"expected input with a multiple of 2 \* 3 channels"):
        operator(torch.empty(2, 19, 8, 9, device="meta"), torch.empty(5, 5, device="meta"), (2, 3))


def test_modules(device):
    input, rois = sensitive_map(1, 4, 15, 20, (3, 4)).to(device), random_rois(5, 1, 40, 30).to(device)
    align, pool = ops.PSRoIAlign((3, 4), 0.5, 2), ops.PSRoIPool((3, 4), 0.5)
    assert torch.equal(align(input, rois), ops.ps_roi_align(input, rois, (3, 4), 0.5, 2))
    assert torch.equal(pool(input, rois), ops.ps_roi_pool(input, rois, (3, 4), 0.5))
    assert repr(align) == "PSRoIAlign(output_size=(3, 4), spatial_scale=0.5, sampling_ratio=2)"
    assert repr(pool) == "PSRoIPool(output_size=(3, 4), spatial_scale=0.5)"


MAP, ROIS = torch.zeros(2, 49, 8, 8), torch.zeros(4, 5)
FLOATS = "of dtype float16, bfloat16, float32 or float64"
ERRORS = [
    ((MAP[0], ROIS, 7), "expected input of shape [N, C, H, W], got [49, 8, 8]"),
    (
        (MAP, ROIS[:, :4], 7),
        "expected rois of shape [R, 5], or a list with one [L, 4] per image, got [4, 4]",
    ),
    ((MAP, [ROIS], 7), "expected boxes[0] of shape [L, 4], got [4, 5]"),
    ((MAP.int(), ROIS, 7), f"expected input {FLOATS}, got int32"),
    ((MAP, ROIS.long(), 7), f"expected rois {FLOATS}, got int64"),
    ((MAP, ROIS, 0), "expected output_size between (1, 1) and (4096, 4096), got (0, 0)"),
    ((MAP, ROIS, (2, 2, 2)), "expected output_size of one or two integers, got (2, 2, 2)"),
    ((MAP, ROIS, (5, 7)), "expected input with a multiple of 5 * 7 channels (output_size), got 49"),
]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[e[1][9:50] for e in ERRORS])
def test_errors(device, name, arguments, message):
    def move(value):
        if isinstance(value, list):
            return [move(each) for each in value]
        return value.to(device) if isinstance(value, torch.Tensor) else value

    with pytest.raises((ValueError, RuntimeError)) as error:
        getattr(ops, name)(*map(move, arguments))
    assert str(error.value).splitlines()[0] == f"{name}: {message}"


def test_sampling_ratio_is_bounded(device):
    with pytest.raises(
        RuntimeError, match="ps_roi_align: expected sampling_ratio of at most 65536, got 65537"
    ):
        ops.ps_roi_align(MAP.to(device), ROIS.to(device), 7, 1.0, 65537)


@pytest.mark.parametrize("name", BOTH)
def test_backward_errors(device, name):
    gradient, rois = torch.ones(4, 3, 2, 2, device=device), ROIS.to(device)
    options = (1.0, 2) if name == "ps_roi_align" else (1.0,)
    operator = getattr(KERNELS, f"{name}_backward")
    assert operator(gradient, rois, *options, 2, 8, 8, False).shape == (2, 12, 8, 8)
    with pytest.raises(RuntimeError, match=r"expected grad_output of 4 rois, got \[3, 3, 2, 2\]"):
        operator(gradient[:3], rois, *options, 2, 8, 8, False)
    with pytest.raises(RuntimeError, match=r"expected grad_output of shape \[R, C, P, P\], got \[3, 2, 2\]"):
        operator(gradient[0], rois, *options, 2, 8, 8, False)


@pytest.mark.parametrize("name", BOTH)
def test_image_index_outside_the_batch(device, name):
    operator = getattr(ops, name)
    input = random_map(2, 49, 8, 8).to(device).requires_grad_()
    for index in (-1.0, 2.0, 1e10):
        rois = torch.tensor([[0.0, 0, 0, 4, 4], [index, 0, 0, 4, 4]], device=device)
        if device == "cpu":
            with pytest.raises(
                RuntimeError, match=rf"{name}: expected image indices rois\[:, 0\] in \[0, 2\), got"
            ):
                operator(input, rois, 7)
        else:
            output = operator(input, rois, 7)
            assert (output[1] == 0).all()
            assert torch.autograd.grad(output[1].sum(), input)[0].abs().sum() == 0


@pytest.mark.parametrize("name", BOTH)
def test_more_than_two_to_the_31_elements(device, name):
    # 2.3e9 half-precision elements; only the last image is touched.
    input = torch.zeros(3, 256, 1000, 3000, dtype=torch.float16, device=device)
    input[2] = 1
    rois = torch.tensor([[2.0, 100, 100, 300, 300]], device=device)
    output = getattr(ops, name)(input, rois, 2)
    torch.testing.assert_close(output, torch.ones_like(output))
