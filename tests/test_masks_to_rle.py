"""Run lengths of masks against the reference and pasted bitmaps, to the byte; hostile input; errors."""

import pytest
import torch
from cases import DTYPES, HUGE_BOXES, NON_FINITE_BOXES, SPECIAL_BOXES, random_boxes
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn_ops import reference

CONVENTIONS = ["continuous", "integer"]
SIZE = (30, 40)


def random_masks(count, height=14, width=14, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, height, width, generator=generator, dtype=torch.float64).to(dtype)


def boxes_of(boxes, dtype=torch.float32):
    return torch.tensor(list(boxes.values()), dtype=dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def check(masks, boxes, size=SIZE, threshold=0.5, convention="continuous"):
    """Compare with the runs of the bitmaps that paste_masks gives on the same device, byte for byte."""
    expected = reference.encode_bitmaps(ops.paste_masks(masks, boxes, size, threshold, convention))
    assert ops.masks_to_rle(masks, boxes, size, threshold, convention) == expected
    return expected


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_reference(device, dtype, convention):
    boxes = random_boxes(60, 40, 30, generator(1), torch.float64 if dtype == torch.float64 else torch.float32)
    masks = random_masks(60, dtype=dtype)
    for threshold in (0.5, 0.21, -0.1, 0.0):
        check(masks.to(device), boxes.to(device), threshold=threshold, convention=convention)
    # The reference pastes in another order of sums; in float64 no pixel of these lies that near to the threshold.
    exact = ops.masks_to_rle(masks.double().to(device), boxes.double().to(device), SIZE, 0.5, convention)
    assert exact == reference.masks_to_rle(masks.double(), boxes.double(), SIZE, 0.5, convention)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_smooth_masks_match_reference_at_full_size(device, convention):
    coarse = torch.randn(20, 1, 7, 7, generator=generator(3)) * 4
    masks = torch.nn.functional.interpolate(coarse, size=(28, 28), mode="bilinear").sigmoid().to(device)
    check(masks, random_boxes(20, 500, 400, generator(4)).to(device), (400, 500), convention=convention)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    "kind", [SPECIAL_BOXES, NON_FINITE_BOXES, HUGE_BOXES], ids=["special", "bad", "huge"]
)
def test_hostile_boxes_match_reference(device, kind, convention):
    boxes = boxes_of(kind).to(device)
    for threshold in (0.5, -0.1):
        check(random_masks(len(boxes)).to(device), boxes, threshold=threshold, convention=convention)


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 0.5, 1.0, -3.0, 1e38, float("inf"), float("-inf"), float("nan")]
)
def test_hostile_values_match_reference(device, value):
    masks = random_masks(30, 3, 3)
    masks.view(-1)[::5] = value
    masks[0] = value
    boxes = random_boxes(30, 40, 30, generator(2))
    for threshold in (0.5, 0.0, float("inf"), float("-inf")):
        check(masks.to(device), boxes.to(device), threshold=threshold)


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 4),
    sides=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    spread=st.sampled_from([0.3, 1.0, 20.0]),
    levels=st.sampled_from([2, 3, 1000]),
    convention=st.sampled_from(CONVENTIONS),
)
def test_random_cases_match_reference(device, seed, count, sides, size, spread, levels, convention):
    masks = (random_masks(count, *sides, seed=seed) * levels).round() / levels  # often equal to the threshold
    boxes = random_boxes(count, size[1] * spread, size[0] * spread, generator(seed))
    check(masks.to(device), (boxes.round() if levels == 2 else boxes).to(device), size, convention=convention)
    # Against the reference's own pasting, in float64 and with a threshold that no pixel meets but for rounding.
    exact = masks.double(), boxes.double(), size, 0.43721, convention
    assert ops.masks_to_rle(*(each.to(device) for each in exact[:2]), *exact[2:]) == reference.masks_to_rle(
        *exact
    )


def test_by_hand(device):
    # One cell over a box of 2 x 2 pixels, whose centres lie a quarter of the box from the cell's: 0.75 * 0.75.
    masks, boxes = torch.ones(1, 1, 1, device=device), torch.tensor([[1.0, 1, 3, 3]], device=device)
    counts, offsets = torch.ops.maskrcnn_ops.masks_to_rle(masks, boxes, 4, 5, 0.5, False)
    # Rows 1 and 2 of columns 1 and 2, in columns of 4: 0-4, 5-6, 7-8, 9-10, 11-19.
    assert counts.tolist() == [5, 2, 2, 2, 9]
    assert offsets.tolist() == [0, 5]
    # As characters: 5, 2, 2, 2 - 2, 9 - 2.
    assert ops.masks_to_rle(masks, boxes, (4, 5)) == [{"size": [4, 5], "counts": b"52207"}]


def test_empty_inputs(device):
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 3, device=device)
    assert ops.masks_to_rle(torch.ones(0, 1, 28, 28, device=device), boxes[:0], (5, 6)) == []
    for masks, size in (
        (torch.ones(3, 4, 4), (0, 6)),
        (torch.ones(3, 4, 4), (5, 0)),
        (torch.ones(3, 0, 4), (5, 6)),
    ):
        for threshold in (0.5, -1.0):
            check(masks.to(device), boxes, size, threshold)


def test_any_strides_and_threads(device):
    masks, boxes = random_masks(9).to(device), random_boxes(9, 40, 30, generator()).to(device)
    expected = ops.masks_to_rle(masks, boxes, SIZE)
    rows = torch.zeros(18, 6, device=device)[::2, 1:5]
    rows.copy_(boxes)
    threads = torch.get_num_threads()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        assert ops.masks_to_rle(masks.mT.contiguous().mT[:, None], rows, SIZE) == expected
    torch.set_num_threads(threads)


def test_no_bitmap_is_made():
    boxes = torch.tensor([[10.0, 10, 40, 40]] * 50)
    # The bitmaps would take 45 TB.
    encodings = ops.masks_to_rle(torch.ones(50, 28, 28), boxes, (1_000_000, 900_000))
    assert ops.rle_area(encodings).tolist() == [900] * 50


def test_opcheck_and_compile(device):
    masks, boxes = random_masks(3, 4, 5).to(device), random_boxes(3, 12, 10, generator()).to(device)
    operator = torch.ops.maskrcnn_ops.masks_to_rle
    torch.library.opcheck(operator.default, (masks, boxes, 10, 12, 0.5, True))

    def run(masks, boxes):
        counts, offsets = operator(masks, boxes, 10, 12, 0.5, False)
        return counts * 2, offsets

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (3, 2):
        expected = run(masks[:count], boxes[:count])
        for actual, wanted in zip(compiled(masks[:count], boxes[:count]), expected, strict=True):
            assert torch.equal(actual, wanted)


MASKS, BOXES = torch.zeros(4, 28, 28), torch.zeros(4, 4)
ERRORS = [
    (
        (MASKS[0], BOXES, SIZE),
        "masks_to_rle: expected masks of shape [D, M, M] or [D, 1, M, M], got [28, 28]",
    ),
    ((MASKS, BOXES[:, :3], SIZE), "masks_to_rle: expected boxes of shape [D, 4], got [4, 3]"),
    ((MASKS, BOXES[:3], SIZE), "masks_to_rle: expected as many boxes as masks, got 3 and 4"),
    (
        (MASKS.int(), BOXES, SIZE),
        "masks_to_rle: expected masks of dtype float16, bfloat16, float32 or float64, got int32",
    ),
    (
        (MASKS, BOXES, (-1, 5)),
        "masks_to_rle: expected image_size (H, W) between (0, 0) and (2^30, 2^30), got (-1, 5)",
    ),
    ((MASKS, BOXES, SIZE, float("nan")), "masks_to_rle: expected threshold to be a number, got nan"),
    (
        (MASKS, BOXES, SIZE, 0.5, "pixels"),
        "masks_to_rle: expected convention of 'continuous' or 'integer', got 'pixels'",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[e[1][14:60] for e in ERRORS])
def test_errors(device, arguments, message):
    moved = [each.to(device) if isinstance(each, torch.Tensor) else each for each in arguments]
    with pytest.raises((ValueError, RuntimeError)) as error:
        ops.masks_to_rle(*moved)
    assert str(error.value).splitlines()[0] == message
