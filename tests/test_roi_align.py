"""RoIAlign against the float64 reference on every device, dtype and layout; gradients; hostile input; errors."""

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

OPTIONS = [
    {"sampling_ratio": 2},
    {"sampling_ratio": 2, "aligned": True},
    {"sampling_ratio": 0},
    {"sampling_ratio": -1, "aligned": True},
    {"sampling_ratio": 3, "aligned": True, "output_size": (3, 5)},
]


def check(input, rois, *, output_size=(7, 7), spatial_scale=0.5, **options):
    """Compare with the reference in float64 on the same, already rounded, numbers."""
    actual = ops.roi_align(input, rois, output_size, spatial_scale, **options)
    exact = reference.roi_align(
        input.double().cpu(), rois.double().cpu(), output_size, spatial_scale, **options
    )
    assert actual.dtype == input.dtype
    assert actual.shape == exact.shape
    torch.testing.assert_close(
        actual.double().cpu(), exact, rtol=TOLERANCES[input.dtype], atol=TOLERANCES[input.dtype]
    )
    return actual


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_matches_reference(device, dtype, options):
    input = random_map(2, 19, 15, 20, dtype=dtype).to(device)
    rois_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    check(input, random_rois(50, 2, 40, 30, dtype=rois_dtype).to(device), **options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed", "expanded"])
@pytest.mark.parametrize("channels", [1, 8, 16, 83])
def test_every_layout(device, layout, channels):
    input = layouts(random_map(2, channels, 15, 20).to(device))[layout]
    for count in (2, 60):  # few RoIs gather patches, many a whole plane
        output = check(input, random_rois(count, 2, 40, 30).to(device), sampling_ratio=2)
        wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        assert output.is_contiguous(memory_format=wanted)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2])
@pytest.mark.parametrize("name", SPECIAL_BOXES)
def test_special_boxes(device, name, ratio, aligned):
    rois = rois_of({name: SPECIAL_BOXES[name]}, torch.float64).to(device)
    input = random_map(1, 3, 15, 20, dtype=torch.float64).to(device)
    check(input, rois, sampling_ratio=ratio, aligned=aligned)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("name", [*NON_FINITE_BOXES, *HUGE_BOXES])
def test_hostile_boxes_finish_with_finite_output(device, name, ratio):
    box = {**NON_FINITE_BOXES, **HUGE_BOXES}[name]
    input = random_map(1, 3, 15, 20).to(device).requires_grad_()
    for aligned in (False, True):
        output = ops.roi_align(input, rois_of({name: box}).to(device), 7, 0.5, ratio, aligned)
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
    expected = ops.roi_align(input, good, 7, 0.5, 2)
    actual = ops.roi_align(input, torch.cat([good[:10], bad, good[10:]]), 7, 0.5, 2)
    assert torch.equal(torch.cat([actual[:10], actual[10 + len(bad) :]]), expected)


@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5), (2, 3, 0, 5), (2, 3, 5, 0), (2, 3, 5, 5)])
def test_empty_inputs(device, shape):
    input = torch.ones(shape, device=device, requires_grad=True)
    rois = torch.zeros(0 if shape[0] == 0 or input.numel() else 2, 5, device=device)
    output = ops.roi_align(input, rois, (2, 3))
    assert output.shape == (len(rois), shape[1], 2, 3)
    assert (output == 0).all()
    assert torch.autograd.grad(output.sum(), input)[0].shape == shape


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients(device, layout, aligned, ratio):
    rois = torch.cat(
        [random_rois(4, 2, 12, 10, dtype=torch.float64), rois_of({"past": [8, 8, 30, 30]}).double()]
    )
    input = layouts(random_map(2, 2, 5, 6, dtype=torch.float64).to(device))[layout].requires_grad_()
    rois = rois.to(device)

    def run(input):
        return ops.roi_align(input, rois, (2, 3), 0.5, ratio, aligned)

    assert torch.autograd.gradcheck(run, (input,))
    assert torch.autograd.gradgradcheck(run, (input,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_backward_matches_reference(device, layout, dtype):
    rois_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    rois = torch.cat([random_rois(40, 3, 80, 60, dtype=rois_dtype), rois_of(SPECIAL_BOXES, rois_dtype)]).to(
        device
    )
    input = layouts(random_map(3, 21, 30, 40, dtype=dtype).to(device))[layout].detach().requires_grad_()
    output = ops.roi_align(input, rois, 5, 0.5, 2, True)
    gradient = random_map(*output.shape, dtype=dtype, seed=1).to(device)
    (actual,) = torch.autograd.grad(output, input, gradient)

    exact_input = input.detach().double().cpu().requires_grad_()
    exact = reference.roi_align(exact_input, rois.double().cpu(), 5, 0.5, 2, True)
    (expected,) = torch.autograd.grad(exact, exact_input, gradient.double().cpu())
    torch.testing.assert_close(
        actual.double().cpu(), expected, rtol=TOLERANCES[dtype], atol=4 * TOLERANCES[dtype]
    )


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 12), st.integers(1, 12)),
    pooled=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    scale=st.sampled_from([1.0, 0.5, 0.25, 1 / 3]),
    ratio=st.integers(-1, 4),
    aligned=st.booleans(),
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
)
def test_random_cases(device, seed, shape, pooled, scale, ratio, aligned, layout):
    input = layouts(random_map(*shape, dtype=torch.float64, seed=seed).to(device))[layout]
    rois = hostile_rois(shape[0], 1.5 * shape[3] / scale, 1.5 * shape[2] / scale, seed)

    def run(package, input):
        return package.roi_align(input, rois.to(input), pooled, scale, ratio, aligned)

    assert_as_reference(run, input)


def test_boxes_as_a_list(device):
    input = random_map(2, 4, 15, 20).to(device)
    rois = random_rois(10, 2, 40, 30).to(device)
    rois = rois[rois[:, 0].argsort(stable=True)]
    boxes = [rois[rois[:, 0] == n, 1:] for n in range(2)]
    assert torch.equal(ops.roi_align(input, boxes, 7, 0.5, 2), ops.roi_align(input, rois, 7, 0.5, 2))


def test_half_precision_boxes_are_widened(device):
    input = random_map(1, 4, 15, 20, dtype=torch.float16).to(device)
    rois = random_rois(10, 1, 40, 30).half().to(device)
    assert torch.equal(ops.roi_align(input, rois, 7, 0.5, 2), ops.roi_align(input, rois.float(), 7, 0.5, 2))


def test_autocast_keeps_features_and_boxes(device):
    input = random_map(1, 4, 9, 1000).to(device)
    rois = torch.tensor([[0, 3001.3, 3.2, 3017.7, 21.9]], device=device)  # beyond half precision's integers
    expected = ops.roi_align(input, rois, 7, 0.25, 2)
    half = ops.roi_align(input.bfloat16(), rois, 7, 0.25, 2)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(ops.roi_align(input, rois, 7, 0.25, 2), expected)
        assert torch.equal(ops.roi_align(input.bfloat16(), rois, 7, 0.25, 2), half)
    assert half.dtype == torch.bfloat16


def test_deterministic_and_independent_of_threads(device):
    input = random_map(2, 33, 30, 40).to(device).requires_grad_()
    rois = random_rois(70, 2, 80, 60).to(device)
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        output = ops.roi_align(input, rois, 7, 0.5, 2)
        results.append((output, torch.autograd.grad(output.square().sum(), input)[0]))
    torch.set_num_threads(threads)
    for output, gradient in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(gradient, results[0][1])


RULE = [224.0, 4.0, 1e-6, 0.0, 2.0, 3.0]


@pytest.mark.parametrize("maximum", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(device, layout, maximum):
    shapes = [(1, 4, 6, 7), (1, 4, 3, 4)]
    maps = [layouts(random_map(*shape).to(device))[layout].detach() for shape in shapes]
    rois = random_rois(3, 1, 12, 10).to(device)
    levels = torch.tensor([1, 0, 1], device=device)
    scales, options = [0.5, 0.25], (2, False)
    operators = torch.ops.maskrcnn_ops
    inputs = ([each.requires_grad_() for each in maps], rois, levels, scales, 2, 3, *options, maximum, RULE)
    torch.library.opcheck(operators.roi_align.default, inputs)
    argmax = operators.roi_align(*inputs)[1] if maximum else None
    gradient = torch.ones(3, 4, 2, 3, device=device, requires_grad=not maximum)
    sizes, channels_last = [6, 7, 3, 4], [int(layout == "channels_last")] * 2
    torch.library.opcheck(
        operators.roi_align_backward.default,
        (gradient, argmax, rois, levels, scales, *options, RULE, 1, sizes, channels_last),
    )
    torch.library.opcheck(
        operators.roi_align_backward_boxes.default,
        (gradient.detach(), argmax, [each.detach() for each in maps], rois, levels, scales, *options, RULE),
    )


def test_compiles_with_dynamic_shapes(device):
    def run(input, rois):
        return ops.roi_align(input, rois, 3, 0.5, 2, True) * 2

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for count, size in ((5, 15), (8, 11), (0, 7)):
        input = random_map(1, 4, size, 20).to(device).requires_grad_()
        rois = random_rois(count, 1, 40, 30).to(device)
        assert torch.equal(compiled(input, rois), run(input, rois))
        compiled(input, rois).sum().backward()
        assert input.grad.shape == input.shape


def test_exports(device):
    module = ops.RoIAlign(3, 0.5, 2, aligned=True)
    input, rois = random_map(1, 4, 15, 20).to(device), random_rois(5, 1, 40, 30).to(device)
    exported = torch.export.export(
        module, (input, rois), dynamic_shapes=({}, {0: torch.export.Dim("rois", min=2)})
    )
    assert torch.equal(exported.module()(input, rois[:3]), module(input, rois[:3]))


def test_meta_tensors_give_shapes():
    output = ops.roi_align(torch.empty(2, 3, 8, 9, device="meta"), torch.empty(5, 5, device="meta"), (2, 3))
    assert output.shape == (5, 3, 2, 3)


def test_module(device):
    input, rois = random_map(1, 4, 15, 20).to(device), random_rois(5, 1, 40, 30).to(device)
    module = ops.RoIAlign((3, 4), 0.5, 2, aligned=True)
    assert torch.equal(module(input, rois), ops.roi_align(input, rois, (3, 4), 0.5, 2, True))
    assert repr(module) == (
        "RoIAlign(output_size=(3, 4), spatial_scale=0.5, sampling_ratio=2, aligned=True, reduction='mean')"
    )


MAP, ROIS = torch.zeros(2, 3, 8, 8), torch.zeros(4, 5)
ERRORS = [
    ((MAP[0], ROIS, 7), {}, "roi_align: expected input of shape [N, C, H, W], got [3, 8, 8]"),
    (
        (MAP, ROIS[:, :4], 7),
        {},
        "roi_align: expected rois of shape [R, 5], or a list with one [L, 4] per image, got [4, 4]",
    ),
    ((MAP, [ROIS], 7), {}, "roi_align: expected boxes[0] of shape [L, 4], got [4, 5]"),
    (
        (MAP, [], 7),
        {},
        "roi_align: expected rois of shape [R, 5] or a list with one [L, 4] per image, got an empty list",
    ),
    (
        (MAP.int(), ROIS, 7),
        {},
        "roi_align: expected input of dtype float16, bfloat16, float32 or float64, got int32",
    ),
    (
        (MAP, ROIS.long(), 7),
        {},
        "roi_align: expected rois of dtype float16, bfloat16, float32 or float64, got int64",
    ),
    ((MAP, ROIS, 0), {}, "roi_align: expected output_size between (1, 1) and (4096, 4096), got (0, 0)"),
    (
        (MAP, ROIS, (2, -1)),
        {},
        "roi_align: expected output_size between (1, 1) and (4096, 4096), got (2, -1)",
    ),
    ((MAP, ROIS, (2, 2, 2)), {}, "roi_align: expected output_size of one or two integers, got (2, 2, 2)"),
    (
        (MAP, ROIS, 7),
        {"sampling_ratio": 10**6},
        "roi_align: expected sampling_ratio of at most 65536, got 1000000",
    ),
]


@pytest.mark.parametrize(("arguments", "options", "message"), ERRORS, ids=[e[2][11:60] for e in ERRORS])
def test_errors(device, arguments, options, message):
    def move(value):
        if isinstance(value, list):
            return [move(each) for each in value]
        return value.to(device) if isinstance(value, torch.Tensor) else value

    with pytest.raises((ValueError, RuntimeError)) as error:
        ops.roi_align(*map(move, arguments), **options)
    assert str(error.value).splitlines()[0] == message


def test_image_index_outside_the_batch(device):
    input = random_map(2, 3, 8, 8).to(device).requires_grad_()
    for index in (-1.0, 2.0, 1e10):
        rois = torch.tensor([[0.0, 0, 0, 4, 4], [index, 0, 0, 4, 4]], device=device)
        if device == "cpu":
            with pytest.raises(
                RuntimeError, match=r"roi_align: expected image indices rois\[:, 0\] in \[0, 2\), got"
            ):
                ops.roi_align(input, rois, 7)
        else:
            output = ops.roi_align(input, rois, 7)
            assert (output[1] == 0).all()
            assert torch.autograd.grad(output[1].sum(), input)[0].abs().sum() == 0


def test_more_than_two_to_the_31_elements(device):
    # 2.3e9 half-precision elements; only the last image is touched.
    input = torch.zeros(3, 256, 1000, 3000, dtype=torch.float16, device=device)
    input[2] = 1
    rois = torch.tensor([[2.0, 100, 100, 900, 900]], device=device)
    assert (ops.roi_align(input, rois, 2, sampling_ratio=2) == 1).all()
