"""Keypoints from heatmaps and heatmap targets against the reference; ties, borders, hostile boxes; errors."""

import pytest
import torch
from cases import DTYPES, HUGE_BOXES, INF, NAN, NON_FINITE_BOXES, random_boxes
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn_ops import reference
from maskrcnn_ops.reference.keypoints import enlarge


def make_heatmaps(regions, kinds, height, width, seed=0, dtype=torch.float64):
    """Smooth maps with one peak each, on noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(regions, kinds, height, width, generator=generator, dtype=torch.float64)
    y, x = torch.arange(height)[:, None], torch.arange(width)
    centre = (
        torch.rand(regions, kinds, 2, 1, 1, generator=generator)
        * torch.tensor([height, width])[:, None, None]
    )
    return (3 - ((y - centre[:, :, 0]) ** 2 + (x - centre[:, :, 1]) ** 2) / 20 + 0.3 * noise).to(dtype)


def boxes_of(count, seed=0, dtype=torch.float64, size=90.0):
    return random_boxes(count, size, size, torch.Generator().manual_seed(seed), dtype)


def assert_peaks(found, heatmaps, boxes, tolerance):
    """Scores are the reference's; so are the places, but where rounding decides between equal values."""
    (keypoints, scores), (expected, expected_scores) = found, reference.heatmaps_to_keypoints(heatmaps, boxes)
    torch.testing.assert_close(scores.cpu().double(), expected_scores, rtol=tolerance, atol=tolerance)
    other = (keypoints.cpu().double() - expected).abs().amax(dim=2) > 100 * tolerance
    for r, k in other.nonzero().tolist():
        sides = (boxes[r, 2:] - boxes[r, :2]).clamp(min=1)
        columns, rows = (int(count) for count in sides.ceil())
        place = (keypoints[r, k, :2].cpu() - boxes[r, :2]) / sides * torch.tensor([columns, rows]) - 0.5
        x, y = place.round().int().tolist()
        value = enlarge(heatmaps[r], rows, columns)[k, y, x]
        torch.testing.assert_close(value, expected_scores[r, k], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("side", [(1, 1), (2, 3), (14, 14), (56, 40)])
def test_matches_reference(device, side):
    heatmaps, boxes = make_heatmaps(6, 3, *side), boxes_of(6)
    assert_peaks(ops.heatmaps_to_keypoints(heatmaps.to(device), boxes.to(device)), heatmaps, boxes, 1e-12)


@given(
    seed=st.integers(0, 2**31),
    regions=st.integers(0, 3),
    kinds=st.integers(0, 3),
    side=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.sampled_from([0.5, 7.0, 60.0]),
)
def test_random_maps_match_reference(device, seed, regions, kinds, side, size):
    heatmaps, boxes = make_heatmaps(regions, kinds, *side, seed), boxes_of(regions, seed, size=size)
    assert_peaks(ops.heatmaps_to_keypoints(heatmaps.to(device), boxes.to(device)), heatmaps, boxes, 1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_match_reference(device, dtype):
    heatmaps, boxes = make_heatmaps(8, 4, 28, 28, dtype=dtype), boxes_of(8, dtype=torch.float32)
    keypoints, scores = ops.heatmaps_to_keypoints(heatmaps.to(device), boxes.to(device))
    assert keypoints.dtype == scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_peaks((keypoints, scores), heatmaps.double(), boxes.double(), 1e-5)


def test_hand_worked(device):
    """A box of 4 x 2 pixels on a map of 4 x 2 cells: nothing is enlarged, the largest cell is the keypoint."""
    heatmaps = torch.tensor([[[[0.0, 1.0, 2.0, 1.0], [0.0, 5.0, 1.0, 0.0]]]], device=device)
    boxes = torch.tensor([[10.0, 20.0, 14.0, 22.0]], device=device)
    keypoints, scores = ops.heatmaps_to_keypoints(heatmaps, boxes)
    assert keypoints.tolist() == [[[11.5, 21.5, 1.0]]]
    assert scores.tolist() == [[5.0]]
    # Of half the width, each position sees cells 0, 1 | 2, 3 at t = 0.5: (-3 a + 19 b + 19 c - 3 d) / 32.
    keypoints, scores = ops.heatmaps_to_keypoints(heatmaps[:, :, :1], boxes - boxes.new_tensor([0, 0, 2, 1]))
    assert keypoints.tolist() == [[[11.5, 20.5, 1.0]]]
    assert scores.item() == pytest.approx((-3 * 1 + 19 * 2 + 19 * 1 - 3 * 1) / 32)


def test_first_of_equal_peaks(device):
    boxes = torch.tensor([[0.0, 0.0, 30.0, 30.0]], device=device)
    keypoints, _ = ops.heatmaps_to_keypoints(torch.zeros(1, 1, 56, 56, device=device), boxes)
    assert keypoints.tolist() == [[[0.5, 0.5, 1.0]]]
    heatmaps = torch.zeros(1, 1, 30, 30, device=device)
    heatmaps[0, 0, 12, 25] = heatmaps[0, 0, 12, 3] = heatmaps[0, 0, 20, 1] = 1
    keypoints, _ = ops.heatmaps_to_keypoints(heatmaps, boxes)
    assert keypoints.tolist() == [[[3.5, 12.5, 1.0]]]


def test_hostile_values(device):
    rows = [*NON_FINITE_BOXES.values(), *HUGE_BOXES.values()]
    boxes = torch.tensor(rows, device=device)
    keypoints, scores = ops.heatmaps_to_keypoints(torch.ones(len(rows), 1, 3, 3, device=device), boxes)
    broken = len(NON_FINITE_BOXES)
    assert (keypoints[:broken] == 0).all()
    assert (scores[:broken] == 0).all()
    assert keypoints.isfinite().all()
    heatmaps = torch.full((1, 3, 4, 4), NAN, device=device)
    heatmaps[0, 1], heatmaps[0, 2, 2, 1] = 0.0, INF
    keypoints, scores = ops.heatmaps_to_keypoints(
        heatmaps, torch.tensor([[0.0, 0.0, 4.0, 4.0]], device=device)
    )
    assert scores[0, :2].tolist() == [-INF, 0.0]
    assert keypoints.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5), (0, 3, 0, 0)])
def test_empty_inputs(device, shape):
    keypoints, scores = ops.heatmaps_to_keypoints(
        torch.zeros(shape, device=device), torch.zeros(shape[0], 4, device=device)
    )
    assert keypoints.shape == (*shape[:2], 3)
    assert scores.shape == shape[:2]


def test_strides_threads_and_repeats_give_the_same(device):
    heatmaps, boxes = make_heatmaps(5, 4, 20, 20, dtype=torch.float32).to(device), boxes_of(5).to(device)
    expected = ops.heatmaps_to_keypoints(heatmaps, boxes)
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        for other in (heatmaps, heatmaps.contiguous(memory_format=torch.channels_last)):
            for result, first in zip(ops.heatmaps_to_keypoints(other, boxes), expected, strict=True):
                assert torch.equal(result, first)
    torch.set_num_threads(threads)


def test_opcheck_and_compile(device):
    heatmaps, boxes = make_heatmaps(3, 2, 7, 7).to(device), boxes_of(3).to(device)
    torch.library.opcheck(torch.ops.maskrcnn_ops.heatmaps_to_keypoints.default, (heatmaps, boxes))

    def both(heatmaps, boxes):
        keypoints, _ = ops.heatmaps_to_keypoints(heatmaps, boxes)
        return ops.keypoints_to_heatmap_targets(keypoints, boxes, 14)

    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend="aot_eager")
    for regions, kinds in ((3, 2), (5, 4)):
        heatmaps, boxes = make_heatmaps(regions, kinds, 7, 7).to(device), boxes_of(regions).to(device)
        for result, expected in zip(compiled(heatmaps, boxes), both(heatmaps, boxes), strict=True):
            assert torch.equal(result, expected)


@given(seed=st.integers(0, 2**31), size=st.integers(1, 60))
def test_targets_match_reference(device, seed, size):
    generator = torch.Generator().manual_seed(seed)
    boxes = boxes_of(6, seed)
    xy = torch.rand(6, 5, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    xy = boxes[:, None, :2] + xy * (boxes[:, None, 2:] - boxes[:, None, :2])
    xy[:, 0], xy[:, 1] = boxes[:, :2], boxes[:, 2:]  # both edges
    visibility = torch.randint(3, (6, 5, 1), generator=generator).double()
    keypoints = torch.cat([xy, visibility], dim=2)
    targets, valid = ops.keypoints_to_heatmap_targets(keypoints.to(device), boxes.to(device), size)
    expected, expected_valid = reference.keypoints_to_heatmap_targets(keypoints, boxes, size)
    assert torch.equal(valid.cpu(), expected_valid)
    assert torch.equal(targets.cpu(), expected)


def test_targets_by_hand(device):
    boxes = torch.tensor([[10.0, 20.0, 18.0, 24.0]], device=device)
    rows = [
        [10.0, 20.0, 1],
        [17.9, 23.9, 2],
        [18.0, 24.0, 2],
        [18.1, 22.0, 2],
        [12.0, 21.0, 0],
        [NAN, 21.0, 2],
    ]
    targets, valid = ops.keypoints_to_heatmap_targets(torch.tensor([rows], device=device), boxes, 4)
    assert targets.tolist() == [[0, 15, 15, 0, 0, 0]]
    assert valid.tolist() == [[True, True, True, False, False, False]]


def test_peak_of_a_target_is_found_again(device):
    """A map that is high in the target's cell gives a keypoint in that cell."""
    boxes = boxes_of(20, size=200.0).to(device)
    boxes[:, 2:] += 30
    generator = torch.Generator().manual_seed(1)
    xy = boxes[:, None, :2] + torch.rand(20, 3, 2, generator=generator).to(device) * (
        boxes[:, None, 2:] - boxes[:, None, :2]
    )
    keypoints = torch.cat([xy, torch.ones_like(xy[..., :1])], dim=2)
    targets, valid = ops.keypoints_to_heatmap_targets(keypoints, boxes, 14)
    assert valid.all()
    heatmaps = torch.nn.functional.one_hot(targets, 14 * 14).view(20, 3, 14, 14).double()
    found, _ = ops.heatmaps_to_keypoints(heatmaps, boxes)
    cell = (boxes[:, None, 2:] - boxes[:, None, :2]) / 14
    assert ((found[..., :2] - xy).abs() <= cell * 1.01 + 0.5).all()


def test_errors_name_argument_expectation_and_value(device):
    maps, boxes = torch.zeros(2, 3, 4, 4, device=device), torch.zeros(2, 4, device=device)

    def message(function, *arguments):
        with pytest.raises((RuntimeError, ValueError)) as error:
            function(*arguments)
        return str(error.value).splitlines()[0]

    op = ops.heatmaps_to_keypoints
    assert (
        message(op, maps[0], boxes)
        == "heatmaps_to_keypoints: expected heatmaps of shape [R, K, M, M], got [3, 4, 4]"
    )
    assert message(op, maps, boxes[:1]) == "heatmaps_to_keypoints: expected boxes of shape [2, 4], got [1, 4]"
    assert "expected heatmaps of dtype float16, bfloat16, float32 or float64, got int32" in message(
        op, maps.int(), boxes
    )
    assert "expected heatmaps of at least one pixel, got [2, 3, 0, 4]" in message(op, maps[:, :, :0], boxes)
    to_targets = ops.keypoints_to_heatmap_targets
    assert "expected keypoints of shape [R, K, 3], got [2, 4]" in message(to_targets, boxes, boxes, 4)
    assert "expected heatmap_size of at least 1, got 0" in message(to_targets, maps[..., 0, :3], boxes, 0)
