"""Matching of boxes and anchor grids to ground truth, to the bit; ties, hostile values, errors."""

import pytest
import torch
from cases import DTYPES, HUGE_BOXES, NON_FINITE_BOXES, SPECIAL_BOXES, random_boxes
from hypothesis import given
from hypothesis import strategies as st
from nms_cases import hostile_boxes

import maskrcnn_ops as ops
from maskrcnn_ops import reference

STRIDES = (4, 8, 16, 32, 64)


def boxes_of(count, seed=0, dtype=torch.float32, size=100.0, integers=False):
    boxes = random_boxes(count, size, size, torch.Generator().manual_seed(seed), dtype)
    return boxes.round() if integers else boxes


def pyramid(height=200, width=304, levels=5, sizes=((32,), (64,), (128,), (256,), (512,))):
    """Cell anchors, grid sizes and strides of an image of 4 * height x 4 * width pixels."""
    ratios = torch.tensor([0.5, 1.0, 2.0]).sqrt()
    half = torch.stack([1 / ratios, ratios], dim=1) / 2
    cells = [torch.cat([-half * sizes[i][0], half * sizes[i][0]], dim=1).round() for i in range(levels)]
    grids = [(-(-4 * height // s), -(-4 * width // s)) for s in STRIDES[:levels]]
    return cells, grids, list(STRIDES[:levels])


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours.cpu(), theirs)


RULES = [(0.7, 0.3, True), (0.5, 0.5, False), (0.7, 0.3, False), (0.0, 0.0, True), (1.0, 0.0, True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("integers", [False, True])
def test_matches_reference(device, dtype, rule, integers):
    """Integer boxes tie often; counts around the sizes of blocks."""
    for truths, boxes in ((1, 1), (7, 63), (30, 64), (129, 65), (300, 1000)):
        gt, rows = boxes_of(truths, 1, dtype, 100, integers), boxes_of(boxes, 2, dtype, 100, integers)
        found = ops.match_boxes(gt.to(device), rows.to(device), *rule)
        assert_same(found, reference.match_boxes(gt, rows, *rule))


@given(
    seed=st.integers(0, 2**31),
    counts=st.tuples(st.integers(0, 20), st.integers(0, 150)),
    size=st.sampled_from([6.0, 50.0, 1000.0]),
    integers=st.booleans(),
    thresholds=st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]), min_size=2, max_size=2).map(sorted),
    low_quality=st.booleans(),
    hostile=st.booleans(),
)
def test_random_boxes_match_reference(device, seed, counts, size, integers, thresholds, low_quality, hostile):
    low, high = thresholds
    gt, boxes = (boxes_of(n, seed + i, torch.float64, size, integers) for i, n in enumerate(counts))
    if hostile:
        gt[::3], boxes[::3] = (hostile_boxes(len(each[::3]), seed, torch.float64) for each in (gt, boxes))
    found = ops.match_boxes(gt.to(device), boxes.to(device), high, low, low_quality)
    assert_same(found, reference.match_boxes(gt, boxes, high, low, low_quality))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("levels", [1, 3, 5])
def test_anchors_match_reference(device, dtype, levels):
    cells, grids, strides = pyramid(25, 38, levels)
    gt = boxes_of(20, 3, dtype, 140)
    on_device = [each.to(device) for each in cells]
    found = ops.match_anchors(gt.to(device), on_device, grids, strides, 0.7, 0.3, True)
    assert_same(found, reference.match_anchors(gt, cells, grids, strides, 0.7, 0.3, True))
    assert (found[0] >= 0).sum() >= 20


@given(
    seed=st.integers(0, 2**31),
    grids=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4),
    kinds=st.integers(1, 4),
    stride=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_random_grids_match_reference(device, seed, grids, kinds, stride):
    """Levels without cells among others; strides that differ between y and x."""
    cells = [boxes_of(kinds, seed + i, size=30.0) - 15 for i in range(len(grids))]
    gt = boxes_of(5, seed, size=60.0)
    strides = [(stride[0] * (i + 1), stride[1] * (i + 1)) for i in range(len(grids))]
    on_device = [each.to(device) for each in cells]
    found = ops.match_anchors(gt.to(device), on_device, grids, strides, 0.6, 0.2, True)
    assert_same(found, reference.match_anchors(gt, cells, grids, strides, 0.6, 0.2, True))


def test_by_hand(device):
    gt = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110], [50, 0, 60, 10]], device=device)
    rows = [[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 50], [104, 100, 114, 110]]
    rows += [[48.0, 0, 58, 10], [52, 0, 62, 10]]
    boxes = torch.tensor(rows, device=device)
    matches, ious = ops.match_boxes(gt, boxes, 0.7, 0.3)
    assert matches.tolist() == [0, -2, -1, -2, -2, -2]
    assert ious.tolist() == pytest.approx([1, 1 / 2, 1 / 5, 6 / 14, 8 / 12, 8 / 12])
    # The third ground truth's best is a tie of two boxes, the second's best is 6/14.
    assert ops.match_boxes(gt, boxes, 0.7, 0.3, True)[0].tolist() == [0, -2, -1, 1, 2, 2]


def test_low_quality_keeps_the_box_s_own_best(device):
    """The second ground truth's best box is better matched by the first, and stays with it."""
    gt = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4]], device=device)
    boxes = torch.tensor([[0.0, 0, 10, 8], [50, 50, 60, 60]], device=device)
    assert ops.match_boxes(gt, boxes, 0.9, 0.85, True)[0].tolist() == [0, -1]


def test_ground_truth_without_overlap_matches_all(device):
    """Its best IoU is 0, which every box has: torchvision's rule, to the letter."""
    gt = torch.tensor([[0.0, 0, 10, 10], [500, 500, 510, 510]], device=device)
    boxes = torch.tensor([[0.0, 0, 10, 2], [70, 70, 80, 80]], device=device)
    assert ops.match_boxes(gt, boxes, 0.7, 0.3, True)[0].tolist() == [0, 0]
    assert ops.match_boxes(gt, boxes, 0.7, 0.3, False)[0].tolist() == [-1, -1]


def test_first_of_equal_ground_truths(device):
    gt = torch.tensor([[30.0, 0, 40, 10], [0, 0, 10, 10], [0, 0, 10, 10]], device=device)
    matches, _ = ops.match_boxes(gt, gt.flip(0), 0.5, 0.5)
    assert matches.tolist() == [1, 1, 0]


@pytest.mark.parametrize("low_quality", [False, True])
def test_hostile_values_match_reference(device, low_quality):
    rows = [*SPECIAL_BOXES.values(), *NON_FINITE_BOXES.values(), *HUGE_BOXES.values()]
    boxes = torch.tensor(rows)
    for gt in (boxes, boxes[:9], boxes[9:]):
        found = ops.match_boxes(gt.to(device), boxes.to(device), 0.5, 0.2, low_quality)
        assert_same(found, reference.match_boxes(gt, boxes, 0.5, 0.2, low_quality))
        assert found[1].isfinite().all()


@pytest.mark.parametrize("counts", [(0, 0), (0, 5), (5, 0)])
def test_empty_inputs(device, counts):
    gt, boxes = (torch.ones(n, 4, device=device) for n in counts)
    matches, ious = ops.match_boxes(gt, boxes, 0.0, 0.0, True)
    assert matches.tolist() == [-1] * counts[1]
    assert ious.tolist() == [0.0] * counts[1]
    cells, grids, strides = pyramid(3, 3, 2)
    cells = [each.to(device) for each in cells]
    matches, _ = ops.match_anchors(gt[:0], cells, grids, strides, 0.7, 0.3, True)
    assert matches.tolist() == [-1] * (3 * (9 + 4))
    matches, ious = ops.match_anchors(gt, [], [], [], 0.7, 0.3, True)
    assert matches.shape == ious.shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(device, dtype):
    """Half precision is widened; the dtypes may be mixed."""
    gt, boxes = boxes_of(6, 1, dtype).to(device), boxes_of(50, 2).to(device)
    matches, ious = ops.match_boxes(gt, boxes, 0.4, 0.2)
    assert ious.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = gt.to(ious.dtype), boxes.to(ious.dtype)
    assert torch.equal(matches, ops.match_boxes(*wide, 0.4, 0.2)[0])


def test_strides_threads_and_repeats_give_the_same(device):
    gt, boxes = boxes_of(40, 1).to(device), boxes_of(20_000, 2).to(device)
    expected = ops.match_boxes(gt, boxes, 0.7, 0.3, True)
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        for other in (boxes, boxes.t().contiguous().t()):
            assert_same(ops.match_boxes(gt, other, 0.7, 0.3, True), [each.cpu() for each in expected])
    torch.set_num_threads(threads)


def test_opcheck_and_compile(device):
    gt, boxes = boxes_of(5, 1).to(device), boxes_of(70, 2).to(device)
    cells, grids, strides = pyramid(3, 4, 2)
    cells = [each.to(device) for each in cells]
    sizes, steps = [side for grid in grids for side in grid], [4.0, 4.0, 8.0, 8.0]
    opset = torch.ops.maskrcnn_ops
    torch.library.opcheck(opset.match_boxes.default, (gt, boxes, 0.7, 0.3, True))
    torch.library.opcheck(opset.match_anchors.default, (gt, cells, sizes, steps, 0.7, 0.3, True))

    def both(gt, boxes):
        return *ops.match_boxes(gt, boxes, 0.7, 0.3, True), *ops.match_anchors(
            gt, cells, grids, strides, 0.7, 0.3, True
        )

    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend="aot_eager")
    for counts in ((5, 70), (9, 33)):
        gt, boxes = (boxes_of(n, n).to(device) for n in counts)
        assert_same(compiled(gt, boxes), [each.cpu() for each in both(gt, boxes)])


def test_errors_name_argument_expectation_and_value(device):
    gt, boxes = torch.zeros(2, 4, device=device), torch.zeros(3, 4, device=device)

    def message(function, *arguments):
        with pytest.raises((RuntimeError, ValueError)) as error:
            function(*arguments)
        return str(error.value).splitlines()[0]

    op = ops.match_boxes
    assert message(op, gt[0], boxes, 0.7, 0.3) == "match_boxes: expected gt_boxes of shape [G, 4], got [4]"
    assert (
        message(op, gt, boxes[:, :3], 0.7, 0.3) == "match_boxes: expected boxes of shape [B, 4], got [3, 3]"
    )
    assert message(op, gt, boxes, 0.3, 0.7) == "match_boxes: expected low <= high, got 0.7 and 0.3"
    assert message(op, gt, boxes, float("nan"), 0.3) == "match_boxes: expected low <= high, got 0.3 and nan"
    assert "gt_boxes" in message(op, gt.int(), boxes.int(), 0.7, 0.3)
    op = ops.match_anchors
    assert message(op, gt, [boxes], [(1, 1)] * 2, [4], 0.7, 0.3) == (
        "match_anchors: expected a (y, x) pair of grid_sizes and strides for each of 1 cell_anchors, got 4 and 2 "
        "numbers"
    )
    assert (
        message(op, gt, [boxes], [(1, -1)], [4], 0.7, 0.3)
        == "match_anchors: expected grid_sizes in [0, 2^24), got -1"
    )
    assert (
        message(op, gt, [boxes] * 9, [(1, 1)] * 9, [4] * 9, 0.7, 0.3)
        == "match_anchors: expected at most 8 cell_anchors, got 9"
    )
    assert message(op, gt, [boxes[0]], [(1, 1)], [4], 0.7, 0.3) == (
        "match_anchors: expected cell_anchors of shape [A, 4], got [4]"
    )
