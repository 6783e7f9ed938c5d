"""Fast NMS against the reference and against its matrix form; hostile input; errors."""

import pytest
import torch
from cases import DTYPES, HUGE_BOXES, NAN, NON_FINITE_BOXES, SPECIAL_BOXES
from hypothesis import given
from hypothesis import strategies as st
from nms_cases import generator, hostile_boxes, integer_boxes, overlapping_boxes, scores_of, spread_boxes

import maskrcnn_ops as ops
from maskrcnn_ops import reference


def check(device, boxes, scores, threshold, idxs=None, **options):
    on_device = idxs if idxs is None else idxs.to(device)
    actual = ops.fast_nms(boxes.to(device), scores.to(device), threshold, idxs=on_device, **options)
    assert actual.dtype == torch.int64
    assert actual.device.type == device
    assert (
        actual.cpu().tolist() == reference.fast_nms(boxes, scores, threshold, idxs=idxs, **options).tolist()
    )


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 300),
    kind=st.sampled_from([overlapping_boxes, integer_boxes, hostile_boxes]),
    dtype=st.sampled_from(DTYPES),
    classes=st.integers(0, 4),
    max_output=st.one_of(st.none(), st.integers(0, 100)),
    score_threshold=st.one_of(st.none(), st.floats(-1, 150)),
    threshold=st.one_of(st.floats(0, 1), st.sampled_from([k / 10 for k in range(11)])),
)
def test_random_cases_match_reference(
    device, seed, count, kind, dtype, classes, max_output, score_threshold, threshold
):
    idxs = torch.randint(-1, classes, (count,), generator=generator(seed)) if classes else None
    limits = {"max_output": max_output, "score_threshold": score_threshold}
    check(device, kind(count, seed, dtype), scores_of(count, seed, dtype), threshold, idxs, **limits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 1e-12, 0.3, 1.0])
def test_hostile_values_match_reference(device, dtype, threshold):
    named = {**SPECIAL_BOXES, **NON_FINITE_BOXES, **HUGE_BOXES}
    boxes = torch.tensor(list(named.values()), dtype=dtype).repeat(3, 1)
    check(device, boxes, scores_of(len(boxes), dtype=dtype), threshold)


def test_is_the_matrix_form(device):
    # The largest IoU with any box of higher score and of the same class, from the whole matrix.
    boxes = torch.cat([overlapping_boxes(600), spread_boxes(600)]).to(device)
    scores = torch.rand(1200, generator=generator(1)).to(device)
    idxs = torch.randint(0, 3, (1200,), generator=generator(2)).to(device)
    order = scores.argsort(descending=True, stable=True)
    iou = ops.box_iou(boxes[order], boxes[order]) * (idxs[order, None] == idxs[order])
    for threshold in (0.25, 0.5):
        expected = order[iou.triu(1).amax(0) <= threshold]
        assert torch.equal(ops.fast_nms(boxes, scores, threshold, idxs=idxs), expected)


def test_a_dropped_box_drops_others(device):
    # Neighbours overlap by 6/10, box 0 and 2 by 4/12: greedy NMS keeps 2, since what would drop it was dropped.
    boxes = torch.tensor([[0.0, 0, 8, 1], [2, 0, 10, 1], [4, 0, 12, 1]], device=device)
    scores = torch.tensor([0.9, 0.7, 0.5], device=device)
    assert ops.nms(boxes, scores, 0.5).tolist() == [0, 2]
    assert ops.fast_nms(boxes, scores, 0.5).tolist() == [0]
    assert ops.fast_nms(boxes, scores, 0.5, idxs=torch.tensor([0, 1, 0], device=device)).tolist() == [0, 1, 2]
    # A box that takes no part drops none.
    assert ops.fast_nms(boxes, scores.flip(0), 0.5, score_threshold=0.6).tolist() == [2]
    boxes[1, 0] = NAN
    assert ops.fast_nms(boxes, scores, 0.5).tolist() == [0, 2]


def test_keeps_a_subset_of_greedy_nms(device):
    boxes, scores = overlapping_boxes(2000).to(device), torch.rand(2000, generator=generator(3)).to(device)
    for threshold in (0.3, 0.6):
        assert set(ops.fast_nms(boxes, scores, threshold).tolist()) <= set(
            ops.nms(boxes, scores, threshold).tolist()
        )


def test_empty(device):
    assert ops.fast_nms(torch.zeros(0, 4, device=device), torch.zeros(0, device=device), 0.5).shape == (0,)


def test_errors(device):
    boxes, scores = torch.zeros(4, 4, device=device), torch.zeros(4, device=device)
    with pytest.raises(RuntimeError, match=r"fast_nms: expected scores of shape \[4\], got \[3\]"):
        ops.fast_nms(boxes, scores[:3], 0.5)
    with pytest.raises(RuntimeError, match="fast_nms: expected max_output of 0 or more, got -1"):
        ops.fast_nms(boxes, scores, 0.5, max_output=-1)


def test_compiles(device):
    compiled = torch.compile(
        lambda boxes, scores: ops.fast_nms(boxes, scores, 0.5) + 1,
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    boxes, scores = overlapping_boxes(50).to(device), scores_of(50).to(device)
    assert torch.equal(compiled(boxes, scores), ops.fast_nms(boxes, scores, 0.5) + 1)
