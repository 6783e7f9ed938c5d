"""Areas, formats, clipping and overlaps against the float64 reference; gradients; hostile input; errors."""

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
    assert_as_reference,
)
from hypothesis import given
from hypothesis import strategies as st
from nms_cases import hostile_boxes

import maskrcnn_ops as ops
from maskrcnn_ops import reference

OVERLAPS = ["box_iou", "generalized_box_iou"]
FORMATS = ["xyxy", "xywh", "cxcywh"]


def make_boxes(*shape, seed=0, dtype=torch.float64):
    """Boxes [*shape, 4] of 40 x 30 pixels and a little beyond; many overlap."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 30
    sides = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 20 + 0.5
    return torch.cat([corners, corners + sides], dim=-1).to(dtype)


def grid_boxes(count, seed):
    """Boxes with area and corners on few integers: equal edges and touching boxes abound."""
    generator = torch.Generator().manual_seed(seed)
    corners, sides = (torch.randint(low, low + 4, (count, 2), generator=generator) for low in (0, 1))
    return torch.cat([corners, corners + sides], dim=1).double()


def exact(name, *boxes, **options):
    return getattr(reference, name)(*[each.detach().double().cpu() for each in boxes], **options)


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (3, 700), (700, 3), (130, 1030)])
def test_overlaps_match_reference(device, shape, dtype, name):
    boxes1, boxes2 = make_boxes(shape[0], dtype=dtype), make_boxes(shape[1], seed=1, dtype=dtype)
    actual = getattr(ops, name)(boxes1.to(device), boxes2.to(device))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert actual.dtype == wide
    torch.testing.assert_close(
        actual.double().cpu(), exact(name, boxes1, boxes2), rtol=TOLERANCES[wide], atol=TOLERANCES[wide]
    )


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("first", [*SPECIAL_BOXES, *NON_FINITE_BOXES, *HUGE_BOXES])
def test_special_boxes_match_reference(device, first, name):
    """In float64, where nothing overflows that does not in the reference; NaN for NaN."""
    every = {**SPECIAL_BOXES, **NON_FINITE_BOXES, **HUGE_BOXES}
    boxes1, boxes2 = (torch.tensor(b, dtype=torch.float64) for b in ([every[first]], list(every.values())))
    actual = getattr(ops, name)(boxes1.to(device), boxes2.to(device))
    torch.testing.assert_close(
        actual.cpu(), exact(name, boxes1, boxes2), rtol=1e-12, atol=1e-12, equal_nan=True
    )


SIZES = st.tuples(st.integers(0, 40), st.integers(0, 40))


@given(
    seed=st.integers(0, 2**31), sizes=SIZES, ties=st.booleans(), name=st.sampled_from([*OVERLAPS, *FORMATS])
)
def test_random_pairs_match_reference(device, seed, sizes, ties, name):
    """Values, and the gradients of both boxes, ties included."""
    make = grid_boxes if ties else lambda n, s: make_boxes(n, seed=s)
    boxes = [make(n, seed + i).to(device) for i, n in enumerate(sizes)]
    if name in OVERLAPS:
        assert_as_reference(lambda package, *pair: getattr(package, name)(*pair), *boxes, tolerance=1e-10)
    else:
        boxes = [reference.box_convert(each, "xyxy", name) for each in boxes]
        assert_as_reference(lambda package, *pair: package.box_iou(*pair, fmt=name), *boxes, tolerance=1e-10)


@given(seed=st.integers(0, 2**31), sizes=SIZES)
def test_random_hostile_pairs_match_reference(device, seed, sizes):
    # No -0.0: a library's choice between the two zeros would decide the sign of a division by zero.
    boxes = [hostile_boxes(n, seed + i, torch.float64) + 0.0 for i, n in enumerate(sizes)]
    for name in OVERLAPS:
        actual = getattr(ops, name)(*(each.to(device) for each in boxes))
        torch.testing.assert_close(actual.cpu(), exact(name, *boxes), rtol=1e-12, atol=1e-12, equal_nan=True)


@given(
    seed=st.integers(0, 2**31),
    shape=st.lists(st.integers(0, 5), max_size=3),
    ties=st.booleans(),
    formats=st.tuples(st.sampled_from(FORMATS), st.sampled_from(FORMATS)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    least=st.sampled_from([0, 1, 2.5, 12.0]),
)
def test_random_elementwise_match_reference(device, seed, shape, ties, formats, size, least):
    """Values and gradients, corners on the border of the image included."""
    boxes = make_boxes(*shape, seed=seed).to(device)
    boxes = boxes.round() if ties else boxes
    assert_as_reference(lambda package, b: package.box_area(b, formats[0]), boxes)
    assert_as_reference(lambda package, b: package.box_convert(b, *formats), boxes)
    assert_as_reference(lambda package, b: package.clip_boxes_to_image(b, size), boxes)
    for rows in (boxes.reshape(-1, 4), hostile_boxes(20, seed, torch.float64)):
        kept = ops.remove_small_boxes(rows.to(device), least)
        assert torch.equal(kept.cpu(), reference.remove_small_boxes(rows.cpu(), least))


@pytest.mark.parametrize("name", OVERLAPS)
def test_leading_dimensions(device, name):
    operator = getattr(ops, name)
    boxes1, boxes2 = make_boxes(2, 3, 5).to(device), make_boxes(2, 3, 4, seed=1).to(device)
    batch = operator(boxes1, boxes2)
    assert batch.shape == (2, 3, 5, 4)
    for i in range(2):
        for j in range(3):
            assert torch.equal(batch[i, j], operator(boxes1[i, j], boxes2[i, j]))
    assert torch.equal(operator(boxes1, boxes2[:1, :1])[1, 2], operator(boxes1[1, 2], boxes2[0, 0]))
    assert torch.equal(operator(boxes1[0, 0], boxes2)[1, 2], operator(boxes1[0, 0], boxes2[1, 2]))


def test_iou_in_other_formats(device):
    boxes1, boxes2 = make_boxes(5).to(device), make_boxes(6, seed=1).to(device)
    for fmt in FORMATS:
        converted = (ops.box_convert(each, "xyxy", fmt) for each in (boxes1, boxes2))
        torch.testing.assert_close(
            ops.box_iou(*converted, fmt=fmt), ops.box_iou(boxes1, boxes2), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_overlap_gradients(device, shape, name):
    boxes1 = make_boxes(*shape).to(device).requires_grad_()
    boxes2 = make_boxes(*shape[:-1], 20, seed=1).to(device).requires_grad_()
    assert torch.autograd.gradcheck(getattr(ops, name), (boxes1, boxes2))


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("first", [*SPECIAL_BOXES, *HUGE_BOXES, "tiny"])
def test_degenerate_boxes_give_finite_gradients(device, first, name):
    every = {**SPECIAL_BOXES, **HUGE_BOXES, "tiny": [1.0, 1.0, 1.0 + 2**-20, 1.0 + 2**-20]}
    for second in every.values():
        boxes1, boxes2 = (
            torch.tensor([b], device=device, requires_grad=True) for b in (every[first], second)
        )
        overlap = getattr(ops, name)(boxes1, boxes2)
        for gradient in torch.autograd.grad(overlap.sum(), (boxes1, boxes2)):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("name", OVERLAPS)
def test_gradient_of_one_side_only(device, name):
    """Weights through every kind of strides: transposed, expanded, dense; one argument without gradient."""
    boxes1, boxes2 = make_boxes(20).to(device), make_boxes(33, seed=1).to(device).requires_grad_()
    overlap = getattr(ops, name)(boxes1, boxes2)
    dense = torch.ones_like(overlap)
    one = torch.ones((), dtype=torch.float64, device=device)
    for weights in (dense, one.expand(20, 33), torch.ones_like(overlap.T).T):
        (gradient,) = torch.autograd.grad(overlap, boxes2, weights, retain_graph=True)
        expected = torch.autograd.grad(overlap, boxes2, dense, retain_graph=True)[0]
        assert torch.equal(gradient, expected)


def test_a_second_derivative_is_refused(device):
    boxes = make_boxes(3).to(device).requires_grad_()
    (gradient,) = torch.autograd.grad(ops.box_iou(boxes, boxes).square().sum(), boxes, create_graph=True)
    with pytest.raises(RuntimeError, match="box_iou: expected to be differentiated once"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", OVERLAPS)
def test_deterministic_and_independent_of_threads(device, name):
    boxes = [make_boxes(n, seed=n, dtype=torch.float32).to(device).requires_grad_() for n in (300, 1200)]
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        overlap = getattr(ops, name)(*boxes)
        results.append((overlap, *torch.autograd.grad(overlap.square().sum(), boxes)))
    torch.set_num_threads(threads)
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_strides_of_every_kind(device):
    boxes = make_boxes(50).to(device)
    spread = torch.zeros(50, 8, dtype=torch.float64, device=device)
    spread[:, ::2] = boxes
    for other in (spread[:, ::2], boxes.T.contiguous().T):
        assert torch.equal(ops.box_iou(other, other), ops.box_iou(boxes, boxes))


def test_mixed_dtypes(device):
    half, single, double = (
        make_boxes(4, dtype=t).to(device) for t in (torch.float16, torch.float32, torch.float64)
    )
    assert ops.box_iou(half, single).dtype == torch.float32
    assert torch.equal(ops.box_iou(single, double), ops.box_iou(single.double(), double))


def test_empty_inputs(device):
    none, some = torch.zeros(0, 4, device=device, requires_grad=True), make_boxes(3).float().to(device)
    for name in OVERLAPS:
        operator = getattr(ops, name)
        assert operator(none, some).shape == (0, 3)
        assert operator(some, none).shape == (3, 0)
        assert torch.autograd.grad(operator(some, none).sum(), none)[0].shape == (0, 4)
    assert ops.box_area(none).shape == (0,)
    assert ops.box_convert(none, "xyxy", "cxcywh").shape == (0, 4)
    assert ops.clip_boxes_to_image(none, (5, 5)).shape == (0, 4)
    assert ops.remove_small_boxes(none, 1.0).shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_elementwise_match_reference(device, dtype):
    """The same formulas in the same precision: equal to the bit."""
    boxes = torch.cat([make_boxes(50), torch.tensor(list(SPECIAL_BOXES.values()))]).to(dtype)
    mine = boxes.to(device)
    for fmt in FORMATS:
        assert torch.equal(ops.box_area(mine, fmt).cpu(), reference.box_area(boxes, fmt))
        for out_fmt in FORMATS:
            converted = ops.box_convert(mine, fmt, out_fmt)
            assert torch.equal(converted.cpu(), reference.box_convert(boxes, fmt, out_fmt))
            assert converted.data_ptr() != mine.data_ptr()
    clipped = ops.clip_boxes_to_image(mine, (30, 40))
    assert torch.equal(clipped.cpu(), reference.clip_boxes_to_image(boxes, (30, 40)))
    for size in (0, 3.0, 7.5):
        kept = ops.remove_small_boxes(mine, size)
        assert torch.equal(kept.cpu(), reference.remove_small_boxes(boxes, size))


def test_elementwise_of_non_finite_and_integer_boxes(device):
    boxes = torch.tensor([[NAN, -INF, INF, 5.0], [-1e30, 2.0, 1e30, 3.0]], device=device)
    expected = torch.tensor([[NAN, 0, 40, 5], [0, 2, 40, 3]], device=device)
    torch.testing.assert_close(ops.clip_boxes_to_image(boxes, (30, 40)), expected, equal_nan=True)
    assert ops.remove_small_boxes(boxes, 1.0).tolist() == [1]
    bytes = torch.tensor([[0, 0, 100, 200]], dtype=torch.uint8, device=device)
    assert ops.box_area(bytes).tolist() == [20000]
    assert ops.box_convert(bytes.long(), "xyxy", "xywh").tolist() == [[0, 0, 100, 200]]


def test_elementwise_gradients(device):
    boxes = make_boxes(3, 2).to(device).requires_grad_()
    assert torch.autograd.gradcheck(ops.box_area, boxes)
    assert torch.autograd.gradcheck(lambda b: ops.clip_boxes_to_image(b, (20, 25)), boxes)
    for in_fmt in FORMATS:
        for out_fmt in FORMATS:
            assert torch.autograd.gradcheck(lambda b, i=in_fmt, o=out_fmt: ops.box_convert(b, i, o), boxes)


@pytest.mark.parametrize("name", OVERLAPS)
def test_opcheck(device, name):
    boxes1, boxes2 = (
        make_boxes(2, 3).to(device).requires_grad_(),
        make_boxes(2, 4).to(device).requires_grad_(),
    )
    torch.library.opcheck(getattr(torch.ops.maskrcnn_ops, name).default, (boxes1, boxes2))
    arguments = (
        torch.ones(2, 3, 4, device=device).double(),
        boxes1.detach(),
        boxes2.detach(),
        name != "box_iou",
    )
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.maskrcnn_ops.box_iou_backward.default, arguments, test_utils=checks)


def test_compiles_with_dynamic_shapes(device):
    def run(boxes1, boxes2):
        boxes1 = ops.clip_boxes_to_image(ops.box_convert(boxes1, "xyxy", "xyxy"), (20, 25))
        return ops.box_iou(boxes1, boxes2) + ops.generalized_box_iou(boxes1, boxes2) * ops.box_area(boxes2)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, columns in ((5, 3), (8, 2), (11, 9)):
        boxes1 = make_boxes(rows).to(device).requires_grad_()
        boxes2 = make_boxes(columns, seed=1).to(device).requires_grad_()
        actual, expected = compiled(boxes1, boxes2), run(boxes1, boxes2)
        torch.testing.assert_close(actual, expected)
        pairs = zip(
            *[torch.autograd.grad(each.sum(), (boxes1, boxes2)) for each in (actual, expected)], strict=True
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs)


ERRORS = [
    (ops.box_iou, ([3, 5], [3, 4]), "box_iou: expected boxes1 of shape [..., L, 4], got [3, 5]"),
    (ops.box_iou, ([3, 4], [4]), "box_iou: expected boxes2 of shape [..., L, 4], got [4]"),
    (
        ops.generalized_box_iou,
        ([2, 3, 4], [3, 3, 4]),
        "generalized_box_iou: expected boxes1 and boxes2 with the same leading dimensions, "
        "got [2, 3, 4] and [3, 3, 4]",
    ),
    (
        lambda a, b: ops.box_iou(a, b, "yxyx"),
        ([3, 4], [3, 4]),
        "box_iou: expected fmt among xyxy, xywh, cxcywh, got 'yxyx'",
    ),
    (ops.box_area, ([3, 5],), "box_area: expected boxes of shape [..., 4], got [3, 5]"),
    (
        lambda b: ops.box_convert(b, "xyxy", "cxyx"),
        ([3, 4],),
        "box_convert: expected out_fmt among xyxy, xywh, cxcywh, got 'cxyx'",
    ),
    (
        lambda b: ops.clip_boxes_to_image(b, (3,)),
        ([3, 4],),
        "clip_boxes_to_image: expected size (height, width), got (3,)",
    ),
    (
        lambda b: ops.remove_small_boxes(b, 1),
        ([2, 3, 4],),
        "remove_small_boxes: expected boxes of shape [L, 4], got [2, 3, 4]",
    ),
]


@pytest.mark.parametrize(("operator", "shapes", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors_name_argument_expectation_and_value(device, operator, shapes, message):
    with pytest.raises((RuntimeError, ValueError)) as error:
        operator(*[torch.ones(shape, device=device) for shape in shapes])
    assert str(error.value).splitlines()[0] == message


def test_integer_boxes_have_no_overlap(device):
    integers = torch.ones(3, 4, dtype=torch.int64, device=device)
    with pytest.raises(RuntimeError) as error:
        ops.box_iou(integers, integers)
    message = "box_iou: expected boxes1 of dtype float16, bfloat16, float32 or float64, got int64"
    assert str(error.value).splitlines()[0] == message
