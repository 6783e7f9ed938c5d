"""The box code against the float64 reference on every device and dtype; gradients; hostile input; errors."""

import math

import pytest
import torch
from cases import DTYPES, HUGE_BOXES, NON_FINITE_BOXES, SPECIAL_BOXES, TOLERANCES, assert_as_reference
from hypothesis import given
from hypothesis import strategies as st
from nms_cases import hostile_boxes

import maskrcnn_ops as ops
from maskrcnn_ops import reference

WEIGHTS = (10.0, 8.0, 5.0, 4.0)
CELLS = [[-8.0, -4.0, 8.0, 4.0], [-4.0, -8.0, 4.0, 8.0], [-6.5, -6.0, 5.5, 6.0]]
GRID = {"grid_size": (5, 7), "stride": (8, 16)}


def uniform(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_boxes(count, seed=0, dtype=torch.float64):
    corners, sides = 60 * uniform(count, 2, seed=seed), 2 + 20 * uniform(count, 2, seed=seed + 1)
    return torch.cat([corners, corners + sides], dim=1).to(dtype)


def make_deltas(*shape, seed=5, dtype=torch.float64):
    """Deltas of -4 to 4: with WEIGHTS, moves by less than a side and sides from a third to three times."""
    return (8 * uniform(*shape, seed=seed) - 4).to(dtype)


def assert_matches(actual, expected, dtype):
    """Coordinates are computed in float32 at least, whatever the dtype of the input."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert actual.dtype == wide
    tolerance = 4 * TOLERANCES[wide]  # coordinates up to 100 pixels
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=tolerance)


def exact(operator, *tensors, **options):
    return operator(*[each.detach().double().cpu() for each in tensors], **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_encode_matches_reference(device, dtype, count):
    boxes, proposals = make_boxes(count, 1, dtype).to(device), make_boxes(count, 3, dtype).to(device)
    expected = exact(reference.encode_boxes, boxes, proposals, weights=WEIGHTS)
    assert_matches(ops.encode_boxes(boxes, proposals, WEIGHTS), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [1, 2, 7, 91])
def test_decode_matches_reference(device, dtype, classes):
    anchors = make_boxes(37, dtype=dtype).to(device)
    deltas = make_deltas(37, 4 * classes, dtype=dtype).to(device)
    for options in ({"weights": WEIGHTS}, {"weights": WEIGHTS, "clip": 0.2}):
        expected = exact(reference.decode_boxes, deltas, anchors, **options)
        assert_matches(ops.decode_boxes(deltas, anchors, **options), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("images", [1, 3])
def test_decode_grid_matches_reference(device, dtype, images):
    cells = torch.tensor(CELLS, dtype=dtype, device=device)
    deltas = make_deltas(images, 5 * 7 * 3, 4, dtype=dtype).to(device)
    for options in ({"weights": WEIGHTS}, {"weights": WEIGHTS, "clip": 0.2}):
        expected = exact(reference.decode_grid, deltas, cells, **GRID, **options)
        assert_matches(ops.decode_grid(deltas, cells, **GRID, **options), expected, dtype)


@given(
    seed=st.integers(0, 2**31),
    images=st.integers(0, 3),
    size=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    stride=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    anchors=st.integers(0, 5),
    clip=st.sampled_from([0.0, 0.3, math.log(1000 / 16)]),
)
def test_random_grids_match_reference(device, seed, images, size, stride, anchors, clip):
    """Boxes and the gradients of the deltas."""
    cells = make_boxes(anchors, seed) - 30
    deltas = make_deltas(images, size[0] * size[1] * anchors, 4, seed=seed).to(device)

    def run(package, deltas):
        return package.decode_grid(deltas, cells.to(deltas), size, stride, WEIGHTS, clip)

    assert_as_reference(run, deltas, tolerance=1e-11)


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 200),
    classes=st.integers(1, 5),
    clip=st.sampled_from([0.0, 0.3, math.log(1000 / 16)]),
)
def test_random_rows_match_reference(device, seed, count, classes, clip):
    """Boxes and deltas, and the gradients of everything that they come from."""
    anchors, boxes = (make_boxes(count, seed + i).to(device) for i in (0, 7))
    deltas = make_deltas(count, 4 * classes, seed=seed).to(device)
    assert_as_reference(
        lambda package, d, a: package.decode_boxes(d, a, WEIGHTS, clip), deltas, anchors, tolerance=1e-11
    )
    assert_as_reference(
        lambda package, b, a: package.encode_boxes(b, a, WEIGHTS), boxes, anchors, tolerance=1e-11
    )


@given(seed=st.integers(0, 2**31), count=st.integers(0, 40))
def test_random_hostile_rows_match_reference(device, seed, count):
    """Boxes without sides, inside out, infinite: NaN for NaN."""
    boxes, anchors, deltas = (hostile_boxes(count, seed + i, torch.float64) for i in range(3))
    for name, inputs in (("decode_boxes", (deltas, anchors)), ("encode_boxes", (boxes, anchors))):
        actual = getattr(ops, name)(*(each.to(device) for each in inputs))
        expected = getattr(reference, name)(*inputs)
        torch.testing.assert_close(actual.cpu(), expected, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_grid_equals_stored_anchors_to_the_bit(device):
    cells = torch.tensor(CELLS, device=device)
    y, x = torch.meshgrid(torch.arange(5) * 8.0, torch.arange(7) * 16.0, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4).to(device)
    anchors = (shifts + cells).reshape(-1, 4)
    deltas = make_deltas(2, 5 * 7 * 3, 4, dtype=torch.float32).to(device)
    boxes = ops.decode_grid(deltas, cells, **GRID, weights=WEIGHTS)
    for n in range(2):
        assert torch.equal(boxes[n], ops.decode_boxes(deltas[n], anchors, WEIGHTS))


def test_one_stride_serves_both_axes(device):
    cells, deltas = torch.tensor(CELLS, device=device), torch.zeros(1, 12, 4, device=device)
    assert torch.equal(
        ops.decode_grid(deltas, cells, (2, 2), 8), ops.decode_grid(deltas, cells, (2, 2), (8, 8))
    )


def test_decode_inverts_encode(device):
    boxes, anchors = make_boxes(500, 1).to(device), make_boxes(500, 3).to(device)
    deltas = ops.encode_boxes(boxes, anchors, WEIGHTS)
    torch.testing.assert_close(ops.decode_boxes(deltas, anchors, WEIGHTS), boxes, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sides_grow_to_the_clip_and_no_further(device, dtype):
    anchors = torch.tensor([[0.0, 0, 16, 32]] * 3, dtype=dtype, device=device)
    clip = math.log(1000 / 16)
    deltas = torch.tensor(
        [[0, 0, clip, clip], [0, 0, 9, 1e30], [0, 0, math.inf, 5]], dtype=dtype, device=device
    )
    expected = torch.tensor(
        [[8 - 500.0, 16 - 1000.0, 8 + 500.0, 16 + 1000.0]] * 3, dtype=dtype, device=device
    )
    torch.testing.assert_close(ops.decode_boxes(deltas, anchors), expected, rtol=1e-6, atol=0)


def test_dtypes_are_widened_and_promoted(device):
    anchors, deltas = make_boxes(9, dtype=torch.float32).to(device), make_deltas(9, 4).to(device)
    for half in (torch.float16, torch.bfloat16):
        boxes = ops.decode_boxes(deltas.to(half), anchors, WEIGHTS)
        assert boxes.dtype == torch.float32
        assert torch.equal(boxes, ops.decode_boxes(deltas.to(half).float(), anchors, WEIGHTS))
    assert torch.equal(
        ops.decode_boxes(deltas, anchors, WEIGHTS), ops.decode_boxes(deltas, anchors.double(), WEIGHTS)
    )
    assert ops.encode_boxes(anchors.half(), anchors).dtype == torch.float32


def test_gradients_of_half_deltas_are_half(device):
    deltas = make_deltas(9, 4, dtype=torch.float16).to(device).requires_grad_()
    ops.decode_boxes(deltas, make_boxes(9, dtype=torch.float32).to(device)).sum().backward()
    assert deltas.grad.dtype == torch.float16


def test_under_autocast_coordinates_stay_float32(device):
    anchors = torch.tensor([[3001.3, 2999.7, 3017.7, 3021.9]], device=device)
    deltas = torch.zeros(1, 4, device=device, dtype=torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        torch.testing.assert_close(ops.decode_boxes(deltas, anchors), anchors, rtol=1e-6, atol=0)


@pytest.mark.parametrize("classes", [1, 3])
def test_gradients(device, classes):
    boxes = make_boxes(5, 1).to(device).requires_grad_()
    anchors = make_boxes(5, 3).to(device).requires_grad_()
    deltas = make_deltas(5, 4 * classes).to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda b, a: ops.encode_boxes(b, a, WEIGHTS), (boxes, anchors))
    assert torch.autograd.gradcheck(lambda d, a: ops.decode_boxes(d, a, WEIGHTS, 0.3), (deltas, anchors))
    grid = make_deltas(2, 5 * 7 * 3, 4).to(device).requires_grad_()
    cells = torch.tensor(CELLS, dtype=torch.float64, device=device)
    assert torch.autograd.gradcheck(
        lambda d: ops.decode_grid(d, cells, **GRID, weights=WEIGHTS, clip=0.3), grid
    )


def test_float32_gradients_match_reference(device):
    deltas, anchors, boxes = make_deltas(200, 8), make_boxes(200, 3), make_boxes(200, 1)
    runs = [(ops, torch.float32, device), (reference, torch.float64, "cpu")]
    results = []
    for module, dtype, where in runs:
        d, a, b = (each.to(where, dtype).requires_grad_() for each in (deltas, anchors, boxes))
        loss = module.decode_boxes(d, a, WEIGHTS).square().mean() + module.encode_boxes(b, a).square().mean()
        results.append([each.double().cpu() for each in torch.autograd.grad(loss, (d, a, b))])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_second_derivative_is_refused(device):
    deltas = make_deltas(3, 4).to(device).requires_grad_()
    boxes = ops.decode_boxes(deltas, make_boxes(3).to(device))
    (gradient,) = torch.autograd.grad(boxes.square().sum(), deltas, create_graph=True)
    with pytest.raises(RuntimeError, match="decode_boxes: expected to be differentiated once"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", [*SPECIAL_BOXES, *HUGE_BOXES, "zero_side"])
def test_degenerate_boxes_give_finite_gradients(device, name):
    special = {**SPECIAL_BOXES, **HUGE_BOXES, "zero_side": [3.0, 4.0, 3.0, 9.0]}[name]
    bad = torch.tensor([special], device=device)
    good = torch.tensor([[4.0, 5.0, 9.0, 7.0]], device=device)
    for pair in ((bad, good), (good, bad), (bad, bad)):
        boxes, anchors = (each.clone().requires_grad_() for each in pair)
        gradients = torch.autograd.grad(ops.encode_boxes(boxes, anchors).sum(), (boxes, anchors))
        deltas = torch.tensor([[0.1, -0.2, 50.0, -50.0]], device=device, requires_grad=True)
        decoded = ops.decode_boxes(deltas, anchors)
        gradients += torch.autograd.grad(decoded.sum(), (deltas, anchors))
        for gradient in gradients:
            assert gradient.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_hostile_numbers_stay_in_their_row(device, value):
    deltas, anchors = make_deltas(70, 4, dtype=torch.float32), make_boxes(70, dtype=torch.float32)
    expected = ops.decode_boxes(deltas, anchors, WEIGHTS)
    others = torch.arange(70) != 33
    for j in range(4):
        for broken in (deltas, anchors):
            d, a = deltas.clone().to(device), anchors.clone().to(device)
            (d if broken is deltas else a)[33, j] = value
            actual = ops.decode_boxes(d, a, WEIGHTS).cpu()
            torch.testing.assert_close(actual[others], expected[others])
            ops.encode_boxes(a, a)
    assert ops.decode_boxes(torch.full((3, 4), math.nan), anchors[:3]).isnan().all()
    box = torch.tensor([list(NON_FINITE_BOXES["nan"])], device=device)
    assert ops.encode_boxes(box, anchors[:1].to(device))[0, 0].isnan()


def test_empty_inputs(device):
    none = torch.zeros(0, 4, device=device, requires_grad=True)
    assert ops.encode_boxes(none, none).shape == (0, 4)
    assert ops.decode_boxes(torch.zeros(0, 12, device=device), none).shape == (0, 12)
    cells = torch.tensor(CELLS, device=device)
    for images, size in ((0, (2, 2)), (2, (0, 5)), (2, (5, 0))):
        deltas = torch.zeros(images, size[0] * size[1] * 3, 4, device=device, requires_grad=True)
        boxes = ops.decode_grid(deltas, cells, size, (8, 8))
        assert boxes.shape == deltas.shape
        assert torch.autograd.grad(boxes.sum(), deltas)[0].shape == deltas.shape
    assert torch.autograd.grad(ops.encode_boxes(none, none).sum(), none)[0].shape == (0, 4)


def test_strides_of_every_kind(device):
    deltas, anchors = make_deltas(50, 8).to(device), make_boxes(50).to(device)
    expected = ops.decode_boxes(deltas, anchors, WEIGHTS)
    spread = torch.zeros(50, 16, dtype=torch.float64, device=device)
    spread[:, ::2] = deltas
    offset = (
        torch.zeros(201, dtype=torch.float64, device=device)[1:].view(50, 4).copy_(anchors)
    )  # 8 bytes off
    for d in (deltas, spread[:, ::2], deltas.T.contiguous().T):
        for a in (anchors, offset, anchors.T.contiguous().T):
            assert torch.equal(ops.decode_boxes(d, a, WEIGHTS), expected)


def test_deterministic_and_independent_of_threads(device):
    anchors = make_boxes(30000, dtype=torch.float32).to(device).requires_grad_()
    deltas = make_deltas(30000, 8, dtype=torch.float32).to(device).requires_grad_()
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        boxes = ops.decode_boxes(deltas, anchors, WEIGHTS)
        results.append((boxes, *torch.autograd.grad(boxes.square().sum(), (deltas, anchors))))
    torch.set_num_threads(threads)
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_opcheck(device):
    namespace = torch.ops.maskrcnn_ops
    boxes, anchors = (make_boxes(4, seed).to(device).requires_grad_() for seed in (1, 3))
    deltas = make_deltas(4, 8).to(device).requires_grad_()
    grid = make_deltas(2, 12, 4).to(device).requires_grad_()
    cells = torch.tensor(CELLS, dtype=torch.float64, device=device)
    weights, clip = list(WEIGHTS), 0.5
    torch.library.opcheck(namespace.encode_boxes.default, (boxes, anchors, weights))
    torch.library.opcheck(namespace.decode_boxes.default, (deltas, anchors, weights, clip))
    torch.library.opcheck(namespace.decode_grid.default, (grid, cells, 2, 2, 8.0, 8.0, weights, clip))
    plain = [each.detach() for each in (boxes, boxes, anchors, deltas, grid)]
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(namespace.encode_boxes_backward.default, (*plain[:3], weights), test_utils=checks)
    rows = (plain[3], plain[3], plain[2], weights, clip)
    torch.library.opcheck(namespace.decode_boxes_backward.default, rows, test_utils=checks)
    torch.library.opcheck(namespace.decode_boxes_backward_anchors.default, rows, test_utils=checks)
    cell = (plain[4], plain[4], cells, 2, 2, 8.0, 8.0, weights, clip)
    torch.library.opcheck(namespace.decode_grid_backward.default, cell, test_utils=checks)


def test_compiles_with_dynamic_shapes(device):
    def run(deltas, anchors, grid, cells, height):
        boxes = ops.decode_boxes(deltas, anchors, WEIGHTS)
        level = ops.decode_grid(grid, cells, (height, 4), (8, 16), WEIGHTS)
        return ops.encode_boxes(boxes, anchors, WEIGHTS).sum() + level.sum(), level

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    cells = torch.tensor(CELLS, dtype=torch.float64, device=device)
    for count, height in ((5, 2), (8, 3), (11, 6)):
        deltas = make_deltas(count, 4).to(device).requires_grad_()
        anchors = make_boxes(count).to(device)
        grid = make_deltas(2, height * 4 * 3, 4).to(device)
        expected, level = run(deltas, anchors, grid, cells, height)
        actual, compiled_level = compiled(deltas, anchors, grid, cells, height)
        assert torch.equal(level, compiled_level)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(
            torch.autograd.grad(actual, deltas)[0], torch.autograd.grad(expected, deltas)[0]
        )


ERRORS = [
    (
        ops.encode_boxes,
        ([3, 5], [3, 4]),
        "encode_boxes: expected reference_boxes of shape [L, 4], got [3, 5]",
    ),
    (ops.encode_boxes, ([3, 4], [4]), "encode_boxes: expected proposals of shape [L, 4], got [4]"),
    (
        ops.encode_boxes,
        ([3, 4], [2, 4]),
        "encode_boxes: expected as many reference_boxes as proposals, got 3 and 2",
    ),
    (
        ops.decode_boxes,
        ([3, 6], [3, 4]),
        "decode_boxes: expected deltas of shape [L, 4] or [L, K * 4], got [3, 6]",
    ),
    (
        ops.decode_boxes,
        ([3, 0], [3, 4]),
        "decode_boxes: expected deltas of shape [L, 4] or [L, K * 4], got [3, 0]",
    ),
    (
        ops.decode_boxes,
        ([3, 8], [2, 4]),
        "decode_boxes: expected as many rows of deltas as anchors, got 3 and 2",
    ),
    (
        lambda d, c: ops.decode_grid(d, c, (2, 2), 8),
        ([1, 11, 4], [3, 4]),
        "decode_grid: expected deltas of shape [N, H * W * A, 4] with (H, W) = (2, 2) and A = 3, "
        "got [1, 11, 4]",
    ),
    (
        lambda d, c: ops.decode_grid(d, c, (2**40, 2**40), 8),
        ([1, 12, 4], [3, 4]),
        "decode_grid: expected deltas of shape [N, H * W * A, 4] with (H, W) = "
        "(1099511627776, 1099511627776) and A = 3, got [1, 12, 4]",
    ),
    (
        lambda d, c: ops.decode_grid(d, c, (-1, -4), 8),
        ([1, 12, 4], [3, 4]),
        "decode_grid: expected grid_size of at least (0, 0), got (-1, -4)",
    ),
    (
        lambda d, c: ops.decode_grid(d, c, (2, 2), 8),
        ([1, 12, 4], [12]),
        "decode_grid: expected cell_anchors of shape [A, 4], got [12]",
    ),
    (
        lambda d, a: ops.decode_boxes(d, a, (1, 1, 1)),
        ([3, 4], [3, 4]),
        "decode_boxes: expected weights of 4 numbers (dx, dy, dw, dh), got 3",
    ),
]


@pytest.mark.parametrize(("operator", "shapes", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors_name_argument_expectation_and_value(device, operator, shapes, message):
    with pytest.raises((RuntimeError, ValueError)) as error:
        operator(*[torch.ones(shape, device=device) for shape in shapes])
    assert str(error.value).splitlines()[0] == message


def test_integer_boxes_are_refused(device):
    integers = torch.ones(3, 4, dtype=torch.int64, device=device)
    with pytest.raises(RuntimeError) as error:
        ops.decode_boxes(integers, integers.float())
    message = "decode_boxes: expected deltas of dtype float16, bfloat16, float32 or float64, got int64"
    assert str(error.value).splitlines()[0] == message
