"""Candidates of an RPN's levels against the reference; ties, layouts, dtypes, hostile values, errors."""

import math

import pytest
import torch
from cases import DTYPES, INF, NAN, layouts
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn_ops import reference

SHAPES = [(13, 17), (7, 9), (4, 5), (2, 3), (1, 1)]
STRIDES = [4, 8, (16, 17), 32, 64]
OPTIONS = {"min_size": 1e-3, "score_threshold": 0.0}


def make(images=2, kinds=3, shapes=SHAPES, seed=0, dtype=torch.float64, ties=False):
    """Logits, deltas, cell anchors, strides and image sizes."""
    g = torch.Generator().manual_seed(seed)
    logits = [torch.randn(images, kinds, *shape, generator=g, dtype=torch.float64) * 2 for shape in shapes]
    if ties:
        logits = [each.round() for each in logits]
    deltas = [torch.randn(images, 4 * kinds, *shape, generator=g, dtype=torch.float64) for shape in shapes]
    cells = [torch.rand(kinds, 4, generator=g, dtype=torch.float64) * 8 * 2**i for i in range(len(shapes))]
    cells = [torch.cat([-each[:, :2], each[:, 2:]], dim=1).float() for each in cells]
    sizes = torch.randint(30, 80, (images, 2), generator=g)
    return [x.to(dtype) for x in logits], [x.to(dtype) for x in deltas], cells, STRIDES[: len(shapes)], sizes


def spoil(maps, seed):
    """Puts hostile values into one number in four."""
    g = torch.Generator().manual_seed(seed)
    for each in maps:
        for value in (NAN, INF, -INF, 1e30, -1e30, -0.0):
            each[torch.rand(each.shape, generator=g) < 0.04] = value


def to(device, logits, deltas, cells, strides, sizes):
    return (
        [x.to(device) for x in logits],
        [x.to(device) for x in deltas],
        [x.to(device) for x in cells],
        strides,
        sizes.to(device),
    )


def assert_same(found, expected, tolerance=1e-12):
    (boxes, *others), (expected_boxes, *expected_others) = found, expected
    torch.testing.assert_close(boxes.cpu(), expected_boxes, rtol=tolerance, atol=100 * tolerance)
    for ours, theirs in zip(others, expected_others, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("top_k", [0, 1, 5, 50, 700])
@pytest.mark.parametrize("ties", [False, True])
def test_matches_reference(device, top_k, ties):
    """Scores in whole numbers tie by the dozen: the lower index comes first."""
    case = make(ties=ties)
    expected = reference.decode_anchors(*case, top_k, **OPTIONS)
    assert_same(ops.decode_anchors(*to(device, *case), top_k, **OPTIONS), expected)


@given(
    seed=st.integers(0, 2**31),
    images=st.integers(0, 3),
    kinds=st.integers(1, 4),
    shapes=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=5),
    top_k=st.integers(0, 60),
    ties=st.booleans(),
    layout=st.sampled_from(["contiguous", "channels_last", "strided", "transposed"]),
    hostile=st.booleans(),
    options=st.fixed_dictionaries(
        {"min_size": st.sampled_from([0.0, 3.0, 20.0]), "score_threshold": st.sampled_from([0.0, 0.3, 0.7])}
    ),
)
def test_random_maps_match_reference(
    device, seed, images, kinds, shapes, top_k, ties, layout, hostile, options
):
    logits, deltas, *others = make(images, kinds, shapes, seed, ties=ties)
    if hostile:
        spoil(logits, seed)
        spoil(deltas, seed + 1)
    expected = reference.decode_anchors(logits, deltas, *others, top_k, **options)
    logits, deltas = ([layouts(each)[layout] for each in maps] for maps in (logits, deltas))
    assert_same(ops.decode_anchors(*to(device, logits, deltas, *others), top_k, **options), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_match_reference(device, dtype):
    """Half-precision maps are widened; in them scores tie of themselves."""
    case = make(dtype=dtype)
    expected = reference.decode_anchors(*case, 40, **OPTIONS)
    found = ops.decode_anchors(*to(device, *case), 40, **OPTIONS)
    assert_same(found, expected, 1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "transposed"])
def test_layouts_match_reference(device, layout):
    logits, deltas, cells, strides, sizes = to(device, *make(dtype=torch.float32))
    expected = ops.decode_anchors(logits, deltas, cells, strides, sizes, 30)
    other = [layouts(each)[layout] for each in logits]
    assert_same(ops.decode_anchors(other, deltas, cells, strides, sizes, 30), [x.cpu() for x in expected], 0)
    other = [layouts(each)[layout] for each in deltas]
    assert_same(ops.decode_anchors(logits, other, cells, strides, sizes, 30), [x.cpu() for x in expected], 0)
    case = make(dtype=torch.float32)
    assert_same(expected, reference.decode_anchors(*case, 30), 1e-6)


def test_equals_decode_grid_to_the_bit(device):
    """Every anchor of one level, put back in the order of the grid."""
    logits, deltas, cells, strides, sizes = to(device, *make(1, 3, [(6, 8)], dtype=torch.float32))
    logits = [torch.arange(144.0, device=device).flip(0).view(1, 6, 8, 3).permute(0, 3, 1, 2)]
    boxes, scores, _, counts = ops.decode_anchors(
        logits, deltas, cells, strides, sizes * 0 + 10**6, 200, min_size=-INF
    )
    flat = deltas[0].permute(0, 2, 3, 1).reshape(1, -1, 4)
    expected = ops.decode_grid(flat, cells[0], (6, 8), 4).clamp(min=0)
    assert counts.tolist() == [144]
    assert scores[0].tolist() == list(range(143, -1, -1))
    if device == "cpu":
        assert torch.equal(boxes, expected)
    else:
        torch.testing.assert_close(boxes, expected)


def test_by_hand(device):
    """A grid of 1 x 3 cells, one anchor of 4 x 4 each, 10 pixels apart; zero deltas."""
    logits = torch.tensor([[[[1.0, 3.0, 2.0]]]], device=device)
    deltas, cells = torch.zeros(1, 4, 1, 3, device=device), torch.tensor([[-2.0, -2, 2, 2]], device=device)
    boxes, scores, levels, counts = ops.decode_anchors([logits], [deltas], [cells], [10], [(9, 21)], 2)
    assert boxes.tolist() == [[[8, 0, 12, 2], [18, 0, 21, 2]]]
    assert scores.tolist() == [[3, 2]]
    assert levels.tolist() == [[0, 0]]
    assert counts.tolist() == [2]
    boxes, scores, _, counts = ops.decode_anchors(
        [logits], [deltas], [cells], [10], [(9, 20)], 3, min_size=2.5
    )
    assert counts.tolist() == [0]
    boxes, scores, _, counts = ops.decode_anchors(
        [logits], [deltas], [cells], [10], [(9, 20)], 3, score_threshold=1 / (1 + math.exp(-2))
    )
    assert scores.tolist() == [[3, 2, 0]]
    assert counts.tolist() == [2]
    assert boxes[0, 2].tolist() == [0] * 4


def test_many_equal_scores(device):
    """All tie, or two values do: the selection parts equal scores by index alone."""
    logits, deltas, cells, strides, sizes = to(device, *make(1, 3, [(60, 70)], dtype=torch.float32))
    for scores in (torch.zeros(1, 3, 60, 70), torch.full((1, 3, 60, 70), NAN), (logits[0].cpu() > 2).float()):
        for top_k in (1, 100, 1000, 5000, 12_600):
            case = [scores], [deltas[0].cpu()], [cells[0].cpu()], strides, sizes.cpu()
            found = ops.decode_anchors([scores.to(device)], deltas, cells, strides, sizes, top_k)
            assert_same(found, reference.decode_anchors(*case, top_k), 1e-6)


def test_hostile_values_match_reference(device):
    logits, deltas, cells, strides, sizes = make(2, 3, [(9, 9), (3, 3)])
    spoil(logits, 4)
    spoil(deltas, 5)
    case = logits, deltas, cells, strides, sizes
    for top_k in (20, 300):
        found = ops.decode_anchors(*to(device, *case), top_k)
        assert_same(found, reference.decode_anchors(*case, top_k))
        assert not found[0].isnan().any()


def test_results_go_into_padded_nms(device):
    """As one level after the other by batched_nms."""
    logits, deltas, cells, strides, sizes = to(device, *make(3, dtype=torch.float32))
    boxes, scores, levels, counts = ops.decode_anchors(logits, deltas, cells, strides, sizes, 60, min_size=1)
    index, kept = ops.padded_nms(boxes, scores, 0.5, 50, classes=levels, counts=counts)
    for n, count in enumerate(counts.tolist()):
        expected = ops.batched_nms(boxes[n, :count], scores[n, :count], levels[n, :count], 0.5)[:50]
        assert index[n, : kept[n]].tolist() == expected.tolist()


def test_threads_and_repeats_give_the_same(device):
    case = to(device, *make(3, dtype=torch.float32))
    expected = [each.cpu() for each in ops.decode_anchors(*case, 100)]
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert_same(ops.decode_anchors(*case, 100), expected, 0)
    torch.set_num_threads(threads)


def test_opcheck_and_compile(device):
    logits, deltas, cells, strides, sizes = to(device, *make(2, 3, SHAPES[:2], dtype=torch.float32))
    arguments = (logits, deltas, cells, [4.0] * 4, sizes.float(), 30, 0.1, 0.2, [1.0] * 4, 4.0)
    torch.library.opcheck(torch.ops.maskrcnn_ops.decode_anchors.default, arguments)

    def call(logits, deltas, sizes):
        return ops.decode_anchors(logits, deltas, cells, strides, sizes, 30)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for shapes in (SHAPES[:2], [(5, 6), (3, 2)]):
        logits, deltas, _, _, sizes = to(device, *make(2, 3, shapes, dtype=torch.float32))
        assert_same(compiled(logits, deltas, sizes), [x.cpu() for x in call(logits, deltas, sizes)], 0)


def test_errors_name_argument_expectation_and_value(device):
    logits, deltas, cells, strides, sizes = to(device, *make(2, 3, SHAPES[:2]))

    def message(*arguments, **options):
        with pytest.raises((RuntimeError, ValueError)) as error:
            ops.decode_anchors(*arguments, **options)
        return str(error.value).splitlines()[0]

    op = "decode_anchors: expected "
    assert message([], [], [], [], sizes, 5) == op + "between 1 and 8 maps of objectness, got 0"
    assert message(logits, deltas[:1], cells, strides, sizes, 5) == (
        op + "deltas, cell_anchors and a (y, x) pair of strides for each of 2 levels, got 1, 2 and 4 numbers"
    )
    assert message(logits, logits, cells, strides, sizes, 5) == (
        op + "deltas of shape [2, 12, 13, 17], got [2, 3, 13, 17]"
    )
    assert message(logits, deltas, [cells[0][:2]] * 2, strides, sizes, 5) == (
        op + "cell_anchors of shape [3, 4], got [2, 4]"
    )
    assert message(logits, deltas, cells, strides, sizes[:1], 5) == (
        op + "image_sizes of shape [2, 2], got [1, 2]"
    )
    assert message(logits, deltas, cells, strides, sizes, -1) == op + "top_k of at least 0, got -1"
    assert message(logits, deltas, cells, strides, sizes, 5, min_size=NAN) == (
        op + "a min_size that is a number, got nan"
    )
    assert "one dtype" in message(logits, [x.float() for x in deltas], cells, strides, sizes, 5)
    assert "objectness" in message([x.int() for x in logits], deltas, cells, strides, sizes, 5)
