"""Pasting masks against the float64 reference on every device and dtype; gradients; hostile input; errors."""

import pytest
import torch
from cases import (
    DTYPES,
    HUGE_BOXES,
    NON_FINITE_BOXES,
    SPECIAL_BOXES,
    TOLERANCES,
    assert_as_reference,
    random_boxes,
    random_map,
)
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn_ops import reference

CONVENTIONS = ["continuous", "integer"]
SIZE = (30, 40)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_masks(count, height=14, width=14, dtype=torch.float32, seed=0):
    return torch.rand(count, height, width, generator=generator(seed), dtype=torch.float64).to(dtype)


def boxes_of(boxes, dtype=torch.float32):
    return torch.tensor(list(boxes.values()), dtype=dtype)


def boxes_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def check(masks, boxes, size=SIZE, convention="continuous"):
    """Compare with the reference in float64 on the same numbers; decisions where rounding leaves no doubt."""
    tolerance = TOLERANCES[masks.dtype]
    exact = reference.paste_masks(masks.double().cpu(), boxes.double().cpu(), size, None, convention)
    actual = ops.paste_masks(masks, boxes, size, None, convention)
    assert actual.dtype == masks.dtype
    torch.testing.assert_close(actual.double().cpu(), exact, rtol=tolerance, atol=tolerance)
    for threshold in (0.5, 0.21):
        decided = ops.paste_masks(masks, boxes, size, threshold, convention)
        assert decided.dtype == torch.bool
        # Decisions are taken on float32 values: the dtype of the masks rounds probabilities only.
        doubtful = (exact - threshold).abs() < min(tolerance, 2e-5)
        assert torch.equal(decided.cpu() & ~doubtful, (exact > threshold) & ~doubtful)
    return actual


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_reference(device, dtype, convention):
    masks = random_masks(60, dtype=dtype).to(device)
    boxes = random_boxes(60, 40, 30, generator(1), boxes_dtype(dtype)).to(device)
    check(masks, boxes, convention=convention)
    check(masks[:, None], boxes, convention=convention)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_decisions_are_the_probabilities_compared(device, convention):
    masks, boxes = random_masks(40).to(device), random_boxes(40, 40, 30, generator(1)).to(device)
    probabilities = ops.paste_masks(masks, boxes, SIZE, None, convention)
    values = probabilities[probabilities > 0]
    for threshold in [-0.1, 0.0, 1.0, *values[:: len(values) // 20].tolist()]:
        decided = ops.paste_masks(masks, boxes, SIZE, threshold, convention)
        assert torch.equal(decided, probabilities > threshold)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", SPECIAL_BOXES)
def test_special_boxes(device, name, convention):
    boxes = boxes_of({name: SPECIAL_BOXES[name]}, torch.float64).to(device)
    for side in (1, 2, 7, 28):
        masks = random_masks(1, side, side, torch.float64).to(device)
        check(masks, boxes, convention=convention)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", [*NON_FINITE_BOXES, *HUGE_BOXES])
def test_hostile_boxes_finish_with_finite_output(device, name, convention):
    boxes = torch.tensor([{**NON_FINITE_BOXES, **HUGE_BOXES}[name]], device=device)
    masks = random_masks(1).to(device).requires_grad_()
    probabilities = ops.paste_masks(masks, boxes, SIZE, None, convention)
    (gradient,) = torch.autograd.grad(probabilities.sum(), masks)
    assert probabilities.isfinite().all()
    assert gradient.isfinite().all()
    if name in NON_FINITE_BOXES:
        assert not probabilities.any()
        assert not gradient.any()
        assert not ops.paste_masks(masks, boxes, SIZE, 0.0, convention).any()
        assert ops.paste_masks(
            masks, boxes, SIZE, -0.1, convention
        ).all()  # nothing there is above -0.1, but 0 is


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_one_bad_box_leaves_the_others_alone(device, convention):
    masks, good = random_masks(24).to(device), random_boxes(20, 40, 30, generator()).to(device)
    bad = boxes_of(NON_FINITE_BOXES).to(device)
    boxes = torch.cat([good[:10], bad, good[10:]])
    kept = [*range(10), *range(14, 24)]
    actual = ops.paste_masks(masks, boxes, SIZE, None, convention)
    assert torch.equal(actual[kept], ops.paste_masks(masks[kept], good, SIZE, None, convention))


def test_nan_in_a_mask_spreads_to_its_neighbours_only(device):
    masks = torch.ones(1, 4, 4, device=device)
    masks[0, 0, 0] = float("nan")
    boxes = torch.tensor([[0.0, 0, 16, 16]], device=device)
    probabilities = ops.paste_masks(masks, boxes, (16, 16), None)[0]
    assert probabilities[:6, :6].isnan().all()
    assert not probabilities[6:].isnan().any()
    assert not probabilities[:, 6:].isnan().any()
    assert not ops.paste_masks(masks, boxes, (16, 16), -1.0)[0, :6, :6].any()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_masks_need_not_be_square(device, convention):
    boxes = random_boxes(20, 40, 30, generator(), torch.float64).to(device)
    masks = random_masks(20, 5, 11, torch.float64).to(device)
    pasted = check(masks, boxes, convention=convention)
    # Turning masks, boxes and image about the diagonal turns the result.
    turned = ops.paste_masks(masks.mT, boxes[:, [1, 0, 3, 2]], SIZE[::-1], None, convention)
    torch.testing.assert_close(turned.mT, pasted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("masks_dtype", DTYPES, ids=str)
def test_boxes_are_float32_or_float64_whatever_the_masks(device, masks_dtype):
    masks = random_masks(30, dtype=masks_dtype).to(device)
    boxes = random_boxes(30, 40, 30, generator(), torch.float64).to(device)
    for dtype in (torch.float64, torch.float32, torch.float16):
        widened = boxes.to(dtype).to(torch.float64 if dtype == torch.float64 else torch.float32)
        actual = ops.paste_masks(masks, boxes.to(dtype), SIZE, None)
        assert actual.dtype == masks_dtype
        assert torch.equal(actual, ops.paste_masks(masks, widened, SIZE, None))
        expected = reference.paste_masks(masks.cpu(), widened.cpu(), SIZE, None).to(device)
        tolerance = max(TOLERANCES[masks_dtype], 1e-12 if dtype == torch.float64 else 2e-7)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_any_strides(device):
    masks, boxes = random_masks(9).to(device), random_boxes(9, 40, 30, generator()).to(device)
    expected = ops.paste_masks(masks, boxes, SIZE, None)
    spaced = torch.zeros(9, 28, 15, device=device)[:, ::2, 1:]
    spaced.copy_(masks)
    rows = torch.zeros(18, 6, device=device)[::2, 1:5]
    rows.copy_(boxes)
    for same_masks in (
        spaced,
        masks.mT.contiguous().mT,
        masks.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    ):
        assert torch.equal(ops.paste_masks(same_masks, rows, SIZE, None), expected)
    one = masks[:1].expand(9, -1, -1)
    assert torch.equal(ops.paste_masks(one, boxes, SIZE), ops.paste_masks(one.contiguous(), boxes, SIZE))


@pytest.mark.parametrize("threshold", [None, 0.5, -1.0])
def test_empty_inputs(device, threshold):
    def run(shape, size):
        masks = torch.ones(shape, device=device)
        return ops.paste_masks(
            masks, torch.tensor([[0.0, 0, 9, 9]], device=device).repeat(shape[0], 1), size, threshold
        )

    for shape, size in (
        ((0, 1, 28, 28), (5, 6)),
        ((3, 4, 4), (0, 6)),
        ((3, 4, 4), (5, 0)),
        ((2, 0, 4), (5, 6)),
    ):
        output = run(shape, size)
        assert output.shape == (shape[0], *size)
        assert (output == (threshold == -1.0)).all()  # a mask without cells is 0 everywhere


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients(device, convention):
    masks = random_masks(5, 3, 4, torch.float64).to(device).requires_grad_()
    boxes = torch.cat(
        [random_boxes(4, 8, 7, generator(3), torch.float64), torch.tensor([[-2, -3, 12, 9.5]]).double()]
    )

    def run(masks):
        return ops.paste_masks(masks, boxes.to(device), (7, 8), None, convention)

    assert torch.autograd.gradcheck(run, (masks,))
    assert torch.autograd.gradgradcheck(run, (masks,))


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_matches_reference(device, dtype, convention):
    boxes = torch.cat(
        [
            random_boxes(20, 40, 30, generator(2), boxes_dtype(dtype)),
            boxes_of(SPECIAL_BOXES, boxes_dtype(dtype)),
        ]
    )
    masks = random_masks(len(boxes), 6, 6, dtype).to(device).requires_grad_()
    output = ops.paste_masks(masks, boxes.to(device), SIZE, None, convention)
    gradient = random_map(*output.shape, dtype=dtype).to(device)
    (actual,) = torch.autograd.grad(output, masks, gradient)

    exact_masks = masks.detach().double().cpu().requires_grad_()
    exact = reference.paste_masks(exact_masks, boxes.double(), SIZE, None, convention)
    (expected,) = torch.autograd.grad(exact, exact_masks, gradient.double().cpu())
    assert actual.dtype == dtype
    # A cell gathers up to a few hundred pixels.
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=4 * tolerance)


def test_decisions_have_no_gradient(device):
    masks = random_masks(2).to(device).requires_grad_()
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 2, device=device, requires_grad=True)
    assert not ops.paste_masks(masks, boxes, SIZE).requires_grad
    ops.paste_masks(masks, boxes, SIZE, None).sum().backward()
    assert masks.grad.abs().sum() > 0
    assert boxes.grad is None


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 5),
    side=st.integers(1, 12),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    spread=st.sampled_from([0.3, 1.0, 20.0]),
    whole=st.booleans(),
    convention=st.sampled_from(CONVENTIONS),
)
def test_random_cases(device, seed, count, side, size, spread, whole, convention):
    masks = random_masks(count, side, side, torch.float64, seed)
    boxes = random_boxes(count, size[1] * spread, size[0] * spread, generator(seed), torch.float64)
    if whole:
        boxes = boxes.round()  # pixel centres and box edges then often fall on cells and between them
    strays = boxes_of({**SPECIAL_BOXES, **NON_FINITE_BOXES}, torch.float64)
    boxes[-1] = strays[seed % len(strays)]
    check(masks.to(device), boxes.to(device), size, convention)

    def run(package, masks):
        return package.paste_masks(masks, boxes.to(masks), size, None, convention)

    assert_as_reference(run, masks.to(device))


def test_autocast_keeps_masks_and_boxes(device):
    masks = random_masks(1).to(device)
    boxes = torch.tensor([[3001.3, 3.2, 3017.7, 21.9]], device=device)  # beyond half precision's integers
    expected = ops.paste_masks(masks, boxes, (24, 3020), None)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(ops.paste_masks(masks, boxes, (24, 3020), None), expected)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_deterministic_and_independent_of_threads(device, convention):
    masks = random_masks(7, 28, 28).to(device).requires_grad_()
    boxes = random_boxes(7, 400, 300, generator()).to(device)
    gradient = random_map(7, 300, 400, seed=1).to(device)
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        output = ops.paste_masks(masks, boxes, (300, 400), None, convention)
        decided = ops.paste_masks(masks, boxes, (300, 400), 0.5, convention)
        results.append((output, decided, torch.autograd.grad(output, masks, gradient)[0]))
    torch.set_num_threads(threads)
    for each in results[1:]:
        for actual, expected in zip(each, results[0], strict=True):
            assert torch.equal(actual, expected)


def test_cuda_decides_as_the_cpu_does(device):
    masks, boxes = random_masks(50), random_boxes(50, 40, 30, generator())
    for convention in CONVENTIONS:
        for threshold in (None, 0.5):
            actual = ops.paste_masks(masks.to(device), boxes.to(device), SIZE, threshold, convention)
            assert torch.equal(actual.cpu(), ops.paste_masks(masks, boxes, SIZE, threshold, convention))


@pytest.mark.parametrize("integer", [False, True])
def test_opcheck(device, integer):
    masks, boxes = random_masks(3, 4, 5).to(device), random_boxes(3, 12, 10, generator()).to(device)
    library = torch.ops.maskrcnn_ops
    torch.library.opcheck(library.paste_masks.default, (masks, boxes, 10, 12, 0.5, integer))
    torch.library.opcheck(
        library.paste_probabilities.default, (masks.requires_grad_(), boxes, 10, 12, integer)
    )
    gradient = torch.ones(3, 10, 12, device=device, requires_grad=True)
    torch.library.opcheck(library.paste_probabilities_backward.default, (gradient, boxes, 4, 5, integer))


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_compiles_with_dynamic_shapes(device, threshold):
    def run(masks, boxes, height):
        return ops.paste_masks(masks, boxes, (height, 20), threshold, "integer").float() * 2

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for count, height in ((5, 15), (8, 11), (0, 7)):
        masks = random_masks(count)[:, None].to(device).requires_grad_(threshold is None)
        boxes = random_boxes(count, 20, 15, generator()).to(device)
        output = compiled(masks, boxes, height)
        assert torch.equal(output, run(masks, boxes, height))
        if threshold is None:
            output.sum().backward()
            assert masks.grad.shape == masks.shape


def test_meta_tensors_give_shapes():
    masks, boxes = torch.empty(3, 1, 28, 28, device="meta").half(), torch.empty(3, 4, device="meta")
    assert ops.paste_masks(masks, boxes, (5, 6)).shape == (3, 5, 6)
    assert ops.paste_masks(masks, boxes, (5, 6)).dtype == torch.bool
    assert ops.paste_masks(masks, boxes, (5, 6), None).dtype == torch.float16


MASKS, BOXES = torch.zeros(4, 28, 28), torch.zeros(4, 4)
ERRORS = [
    (
        (MASKS[0], BOXES, SIZE),
        "paste_masks: expected masks of shape [D, M, M] or [D, 1, M, M], got [28, 28]",
    ),
    (
        (MASKS[:, None].repeat(1, 2, 1, 1), BOXES, SIZE),
        "paste_masks: expected masks of shape [D, M, M] or [D, 1, M, M], got [4, 2, 28, 28]",
    ),
    ((MASKS, BOXES[:, :3], SIZE), "paste_masks: expected boxes of shape [D, 4], got [4, 3]"),
    ((MASKS, BOXES[0], SIZE), "paste_masks: expected boxes of shape [D, 4], got [4]"),
    ((MASKS, BOXES[:3], SIZE), "paste_masks: expected as many boxes as masks, got 3 and 4"),
    (
        (MASKS.int(), BOXES, SIZE),
        "paste_masks: expected masks of dtype float16, bfloat16, float32 or float64, got int32",
    ),
    (
        (MASKS, BOXES.long(), SIZE),
        "paste_masks: expected boxes of dtype float16, bfloat16, float32 or float64, got int64",
    ),
    (
        (MASKS, BOXES, (-1, 5)),
        "paste_masks: expected image_size (H, W) between (0, 0) and (2^30, 2^30), got (-1, 5)",
    ),
    (
        (MASKS, BOXES, (1, 2, 3)),
        "paste_masks: expected image_size of one or two integers, got (1, 2, 3)",
    ),
    ((MASKS, BOXES, SIZE, float("nan")), "paste_masks: expected threshold to be a number or None, got nan"),
    (
        (MASKS, BOXES, SIZE, 0.5, "pixels"),
        "paste_masks: expected convention of 'continuous' or 'integer', got 'pixels'",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[e[1][13:60] for e in ERRORS])
def test_errors(device, arguments, message):
    moved = [each.to(device) if isinstance(each, torch.Tensor) else each for each in arguments]
    with pytest.raises((ValueError, RuntimeError)) as error:
        ops.paste_masks(*moved)
    assert str(error.value).splitlines()[0] == message


def test_more_than_two_to_the_31_elements(device):
    # 2.3e9 decisions; the last mask lies beyond 32-bit offsets.
    masks, boxes = (
        torch.ones(23, 2, 2, device=device),
        torch.tensor([[9000.0, 9000, 9010, 9010]] * 23, device=device),
    )
    pasted = ops.paste_masks(masks, boxes, (10000, 10000), 0.9)
    assert pasted[22, 9005, 9005]
    assert not pasted[22, :9000].any()
