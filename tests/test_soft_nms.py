"""Soft-NMS against the reference and numbers worked by hand; groups; hostile input; errors."""

import math

import pytest
import torch
from cases import HUGE_BOXES, INF, NAN, NON_FINITE_BOXES, SPECIAL_BOXES
from hypothesis import given
from hypothesis import strategies as st
from nms_cases import generator, hostile_boxes, integer_boxes, overlapping_boxes, scores_of

import maskrcnn_ops as ops
from maskrcnn_ops import reference

METHODS = ["linear", "gaussian"]


def random_scores(count, seed=0, dtype=torch.float64):
    return torch.rand(count, generator=generator(seed), dtype=torch.float64).to(dtype)


def check(device, boxes, scores, idxs=None, **options):
    """The same boxes in the same order, and the same scores up to the exponential's rounding."""
    on_device = idxs if idxs is None else idxs.to(device)
    indices, kept = ops.soft_nms(boxes.to(device), scores.to(device), idxs=on_device, **options)
    expected_indices, expected = reference.soft_nms(boxes, scores, idxs=idxs, **options)
    assert indices.dtype == torch.int64
    assert indices.device.type == kept.device.type == device
    assert indices.cpu().tolist() == expected_indices.tolist()
    rtol = 1e-13 if kept.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(kept.cpu(), expected, rtol=rtol, atol=0)


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 120),
    kind=st.sampled_from([overlapping_boxes, integer_boxes, hostile_boxes]),
    groups=st.integers(0, 3),
    method=st.sampled_from(METHODS),
    threshold=st.one_of(st.floats(0, 1), st.sampled_from([k / 10 for k in range(11)])),
    sigma=st.floats(0.1, 2),
    score_threshold=st.floats(-0.5, 0.9),
)
def test_random_cases_match_reference(
    device, seed, count, kind, groups, method, threshold, sigma, score_threshold
):
    idxs = torch.randint(-2, groups - 1, (count,), generator=generator(seed)) if groups else None
    options = {
        "iou_threshold": threshold,
        "sigma": sigma,
        "score_threshold": score_threshold,
        "method": method,
    }
    check(device, kind(count, seed, torch.float64), random_scores(count, seed), idxs, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_match_reference(device, dtype, method):
    check(device, overlapping_boxes(200, dtype=dtype), random_scores(200, dtype=dtype), method=method)
    mixed = ops.soft_nms(overlapping_boxes(20).to(device), random_scores(20).to(device), method=method)
    assert mixed[1].dtype == torch.float64


def test_linear_by_hand(device):
    # IoUs: of boxes 0 and 1 6/10, of 1 and 2 6/10, of 0 and 2 4/12.
    boxes = torch.tensor([[0.0, 0, 8, 1], [2, 0, 10, 1], [4, 0, 12, 1]], device=device).double()
    scores = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64, device=device)
    indices, kept = ops.soft_nms(boxes, scores, 0.5, score_threshold=0.0, method="linear")
    assert indices.tolist() == [0, 2, 1]
    torch.testing.assert_close(
        kept.cpu(), torch.tensor([0.9, 0.7, 0.8 * 0.4 * 0.4], dtype=torch.float64), rtol=1e-12, atol=0
    )
    # An IoU equal to the threshold lowers the score; one above all IoUs leaves every score.
    assert ops.soft_nms(boxes, scores, 0.6, score_threshold=0.5, method="linear")[0].tolist() == [0, 2]
    assert ops.soft_nms(boxes, scores, 0.601, score_threshold=0.5, method="linear")[0].tolist() == [0, 1, 2]


def test_gaussian_by_hand(device):
    boxes = torch.tensor([[0.0, 0, 8, 1], [2, 0, 10, 1]], device=device).double()
    scores = torch.tensor([0.9, 0.8], dtype=torch.float64, device=device)
    indices, kept = ops.soft_nms(boxes, scores, sigma=0.5)
    assert indices.tolist() == [0, 1]
    assert kept[1].item() == pytest.approx(0.8 * math.exp(-(0.6**2) / 0.5), rel=1e-12)
    assert ops.soft_nms(boxes, scores, sigma=0.5, score_threshold=0.4)[0].tolist() == [0]


def test_small_steps_are_hard_nms(device):
    # An IoU at or above the threshold that drops the score below the score threshold: what nms does.
    boxes, scores = overlapping_boxes(400, 1, torch.float64).to(device), random_scores(400).to(device)
    kept = ops.soft_nms(boxes, scores, 0.5, sigma=1e-9, score_threshold=0.0)[0]
    meets = ops.box_iou(boxes[kept], boxes[kept]).fill_diagonal_(0)
    assert meets.max() < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_hostile_values_match_reference(device, method):
    named = {**SPECIAL_BOXES, **NON_FINITE_BOXES, **HUGE_BOXES}
    for dtype in (torch.float32, torch.float64):
        boxes = torch.tensor(list(named.values()), dtype=dtype).repeat(5, 1)
        scores = random_scores(len(boxes), 3, dtype)
        scores[::7] = torch.tensor([NAN, INF, -INF, 0.0, -0.0], dtype=dtype).repeat(len(scores))[
            : len(scores[::7])
        ]
        check(device, boxes, scores, method=method, score_threshold=-1.0)


@pytest.mark.parametrize("method", METHODS)
def test_ties_keep_their_order_and_match_reference(device, method):
    check(
        device,
        integer_boxes(300, dtype=torch.float64),
        scores_of(300, dtype=torch.float64) / 300,
        method=method,
    )
    boxes, scores = torch.tensor([[0.0, 0, 1, 1]], device=device), torch.full((70,), 0.5, device=device)
    apart = boxes + 2 * torch.arange(70, device=device)[:, None]
    assert ops.soft_nms(apart, scores, method=method)[0].tolist() == list(range(70))


def test_groups_are_independent(device):
    boxes, scores = overlapping_boxes(1500, 2, torch.float64).to(device), random_scores(1500).to(device)
    idxs = torch.randint(-3, 3, (1500,), generator=generator(4)).to(device)
    indices, kept = ops.soft_nms(boxes, scores, idxs=idxs)
    for group in idxs.unique():
        mine = (idxs == group).nonzero()[:, 0]
        alone = ops.soft_nms(boxes[mine], scores[mine])
        assert indices[idxs[indices] == group].tolist() == mine[alone[0]].tolist()
        assert torch.equal(kept[idxs[indices] == group], alone[1])
    assert (kept.diff() <= 0).all()


def test_deterministic_and_independent_of_threads_and_strides(device):
    boxes, scores = overlapping_boxes(2000).to(device), random_scores(2000, dtype=torch.float32).to(device)
    idxs = torch.arange(2000, device=device) % 7
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(ops.soft_nms(boxes.t().contiguous().t(), scores, idxs=idxs))
    torch.set_num_threads(threads)
    for indices, kept in results[1:]:
        assert torch.equal(indices, results[0][0])
        assert torch.equal(kept, results[0][1])


def test_empty(device):
    indices, kept = ops.soft_nms(torch.zeros(0, 4, device=device), torch.zeros(0, device=device))
    assert indices.shape == kept.shape == (0,)
    boxes, scores = torch.full((70, 4), NAN, device=device), torch.ones(70, device=device)
    assert ops.soft_nms(boxes, scores)[0].shape == (0,)


def test_opcheck(device):
    boxes, scores = overlapping_boxes(30).to(device), random_scores(30, dtype=torch.float32).to(device)
    idxs = torch.arange(30, device=device) % 3
    for groups, gaussian in ((None, True), (idxs, False)):
        arguments = (boxes, scores, groups, 0.3, 0.5, 0.01, gaussian)
        torch.library.opcheck(torch.ops.maskrcnn_ops.soft_nms.default, arguments)


def test_compiles_with_dynamic_shapes(device):
    def run(boxes, scores):
        indices, kept = ops.soft_nms(boxes, scores)
        return indices + 1, kept * 2

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for count in (40, 60):
        inputs = overlapping_boxes(count).to(device), random_scores(count, dtype=torch.float32).to(device)
        for actual, expected in zip(compiled(*inputs), run(*inputs), strict=True):
            assert torch.equal(actual, expected)


BOXES, SCORES, IDXS = torch.zeros(4, 4), torch.zeros(4), torch.zeros(4, dtype=torch.int64)
ERRORS = [
    ((BOXES[:, :3], SCORES), {}, "expected boxes of shape [L, 4], got [4, 3]"),
    ((BOXES, SCORES[:3]), {}, "expected scores of shape [4], got [3]"),
    ((BOXES, SCORES.long()), {}, "expected scores of dtype float16, bfloat16, float32 or float64, got int64"),
    ((BOXES, SCORES), {"sigma": 0.0}, "expected sigma above 0, got 0"),
    ((BOXES, SCORES), {"iou_threshold": NAN}, "expected a number for iou_threshold, got nan"),
    ((BOXES, SCORES), {"score_threshold": NAN}, "expected a number for score_threshold, got nan"),
    ((BOXES, SCORES), {"idxs": IDXS[:1]}, "expected idxs of shape [4], got [1]"),
    ((BOXES, SCORES), {"idxs": SCORES}, "expected idxs of an integer dtype, got float32"),
    ((BOXES, SCORES), {"method": "hard"}, "expected method 'linear' or 'gaussian', got 'hard'"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), ERRORS, ids=[each[2][:60] for each in ERRORS])
def test_errors(device, arguments, options, message):
    options = {
        name: each.to(device) if isinstance(each, torch.Tensor) else each for name, each in options.items()
    }
    with pytest.raises((ValueError, RuntimeError)) as error:
        ops.soft_nms(*(each.to(device) for each in arguments), **options)
    assert str(error.value).splitlines()[0] == f"soft_nms: {message}"
