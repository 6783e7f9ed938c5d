"""Boxes and non-maximum suppression of the reference against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hand_worked import assert_close, f64, random, random_boxes
from torch.autograd import gradcheck

from maskrcnn_ops import reference as ref

NAN, INF = math.nan, math.inf


def test_nms_greedy_chain() -> None:
    # A [0, 12], B [4, 16], C [8, 20]: IoU 8/16 for AB and BC, 4/20 for AC. B, removed by A, cannot remove C.
    boxes = f64([[8, 0, 20, 1], [0, 0, 12, 1], [4, 0, 16, 1]])  # C, A, B
    scores = f64([0.5, 0.9, 0.8])
    assert ref.nms(boxes, scores, 0.4).tolist() == [1, 0]
    assert ref.nms(boxes, scores, 0.1).tolist() == [1]
    assert ref.nms(boxes, scores, 0.6).tolist() == [1, 2, 0]


def test_nms_iou_equal_to_the_threshold() -> None:
    halves = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU exactly 1/2
    scores = torch.tensor([0.9, 0.8])
    assert ref.nms(halves, scores, 0.5).tolist() == [0, 1]
    assert ref.nms(halves, scores, 0.4999999).tolist() == [0]
    tenths = torch.tensor(
        [[0.0, 0, 10, 1], [0, 0, 1, 1]]
    )  # IoU 1/10: float32(0.1) > 0.1, float64(0.1) is not
    assert ref.nms(tenths, scores, 0.1).tolist() == [0]
    assert ref.nms(tenths.double(), scores, 0.1).tolist() == [0, 1]


def test_nms_equal_scores_keep_their_order() -> None:
    boxes = f64([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 10]])
    assert ref.nms(boxes, f64([0.5, 0.5, 0.5, 0.5]), 0.5).tolist() == [0, 2]
    assert ref.nms(boxes.flip(0), f64([0.5, 0.5, 0.5, 0.5]), 0.5).tolist() == [0, 1]


def test_nms_never_keeps_nan() -> None:
    boxes = f64([[0, 0, 10, 10], [0, NAN, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30], [0, 0, INF, 1]])
    assert ref.nms(boxes, f64([NAN, 0.9, 0.8, 0.7, 0.6]), 0.5).tolist() == [2, 3, 4]


def test_nms_zero_area_and_touching_boxes_stay() -> None:
    boxes = f64([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2], [2, 0, 4, 2]])
    assert ref.nms(boxes, f64([0.9, 0.8, 0.7, 0.6]), 0.0).tolist() == [0, 1, 2, 3]


def test_batched_nms_compares_groups_as_integers() -> None:
    boxes = torch.tensor([[-5.0, -5, 5, 5], [-5, -5, 5, 5], [-5, -5, 5, 4]])
    scores = torch.tensor([0.7, 0.8, 0.9])
    assert ref.batched_nms(boxes, scores, torch.tensor([3, 2**24 + 1, 2**24]), 0.5).tolist() == [2, 1, 0]
    assert ref.batched_nms(boxes, scores, torch.tensor([-1, 4, -1]), 0.5).tolist() == [2, 1]


def test_nms_no_boxes() -> None:
    empty = ref.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert empty.shape == (0,)
    assert empty.dtype == torch.int64
    assert ref.batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), 0.5).shape == (0,)


def test_box_area_and_convert() -> None:
    boxes = f64([[1, 2, 4, 8], [3, 3, 1, 4]])
    xywh, cxcywh = f64([[1, 2, 3, 6], [3, 3, -2, 1]]), f64([[2.5, 5, 3, 6], [2, 3.5, -2, 1]])
    forms = {"xyxy": boxes, "xywh": xywh, "cxcywh": cxcywh}
    for in_fmt, given in forms.items():
        assert_close(ref.box_area(given, fmt=in_fmt), [18, -2])
        for out_fmt, expected in forms.items():
            assert_close(ref.box_convert(given, in_fmt, out_fmt), expected)
    with pytest.raises(ValueError, match="expected a format among xyxy, xywh, cxcywh, got 'yxyx'"):
        ref.box_convert(boxes, "xyxy", "yxyx")


def test_box_iou_and_generalized_box_iou() -> None:
    left = f64([[0, 0, 2, 2], [0, 0, 1, 1]])
    right = f64([[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 3, 1]])
    assert_close(ref.box_iou(left, right), [[1 / 7, 1, 0], [0, 1 / 4, 0]])
    # Enclosing boxes: 9, 4, 6 and 9, 4, 3. Unions: 7, 4, 5 and 5, 4, 2.
    assert_close(ref.generalized_box_iou(left, right), [[1 / 7 - 2 / 9, 1, -1 / 6], [-4 / 9, 1 / 4, -1 / 3]])
    assert_close(ref.box_iou(left[None], right[None])[0], ref.box_iou(left, right))
    centred = [ref.box_convert(b, "xyxy", "cxcywh") for b in (left, right)]
    assert_close(ref.box_iou(*centred, fmt="cxcywh"), ref.box_iou(left, right))
    point = f64([[1, 1, 1, 1]])
    assert ref.box_iou(point, point).isnan().all()


def test_clip_boxes_to_image() -> None:
    boxes = f64([[[-1, -2, 50, 60], [3, 4, 5, 6]], [[31, 21, 40, 41], [NAN, 0, 1, -1e30]]])
    expected = f64([[[0, 0, 30, 20], [3, 4, 5, 6]], [[30, 20, 30, 20], [NAN, 0, 1, 0]]])
    torch.testing.assert_close(ref.clip_boxes_to_image(boxes, (20, 30)), expected, equal_nan=True)


def test_remove_small_boxes() -> None:
    boxes = f64([[0, 0, 3, 3], [0, 0, 2.9, 9], [0, 0, 9, 2.9], [5, 5, 9, 9], [9, 9, 5, 5], [0, 0, NAN, 9]])
    assert ref.remove_small_boxes(boxes, 3).tolist() == [0, 3]


def test_masks_to_boxes() -> None:
    masks = torch.zeros(3, 6, 8)
    masks[0, 1, 2], masks[0, 4, 5], masks[2, 5, 7] = 1, 0.5, -1
    boxes = ref.masks_to_boxes(masks)
    assert boxes.dtype == torch.float32
    assert boxes.tolist() == [[2, 1, 5, 4], [0, 0, 0, 0], [7, 5, 7, 5]]


def test_encode_and_decode_by_hand() -> None:
    proposal, target = f64([[0, 0, 10, 20]]), f64([[5, 1, 25, 21]])
    # Centres (5, 10) and (15, 11), widths 10 and 20, heights 20 and 20.
    assert_close(ref.encode_boxes(target, proposal), [[1, 0.05, math.log(2), 0]])
    weights = (10.0, 20.0, 5.0, 4.0)
    deltas = ref.encode_boxes(target, proposal, weights)
    assert_close(deltas, [[10, 1, 5 * math.log(2), 0]])
    assert_close(ref.decode_boxes(deltas, proposal, weights), target)
    # At most 1000 / 16 times the anchor's side: 625 wide about x = 5. Half the height: 10 about y = 10.
    grown = ref.decode_boxes(f64([[0, 0, 100, -math.log(2)]]), proposal)
    assert_close(grown, [[5 - 312.5, 5, 5 + 312.5, 15]])
    assert_close(ref.decode_boxes(f64([[0, 0, 100, 0]]), proposal, clip=math.log(3)), [[-10, 0, 20, 20]])


def test_encode_and_decode_are_inverse_per_class() -> None:
    anchors, targets = random_boxes(6, 50), [random_boxes(6, 50, seed=s) for s in (3, 5, 7)]
    weights = (10.0, 10.0, 5.0, 5.0)
    deltas = torch.cat([ref.encode_boxes(t, anchors, weights) for t in targets], dim=1)  # [6, 3 * 4]
    assert_close(ref.decode_boxes(deltas, anchors, weights), torch.cat(targets, dim=1))


def test_decode_grid_is_decode_with_explicit_anchors() -> None:
    cells = f64([[-8, -4, 8, 4], [-4, -8, 4, 8], [-6, -6, 6, 6]])
    anchors = []
    for y in range(2):
        for x in range(4):
            for x1, y1, x2, y2 in cells.tolist():
                anchors.append([x1 + x * 16, y1 + y * 8, x2 + x * 16, y2 + y * 8])
    deltas = random(2, 2 * 4 * 3, 4, seed=9) * 4 - 2
    weights, clip = (1.0, 2.0, 3.0, 4.0), 0.3
    boxes = ref.decode_grid(deltas, cells, (2, 4), (8, 16), weights, clip)
    for n in range(2):
        assert_close(boxes[n], ref.decode_boxes(deltas[n], f64(anchors), weights, clip))
    # By hand: zero deltas give the anchors, here anchor 2 of (y, x) = (1, 3), centred at (48, 8).
    at_rest = ref.decode_grid(torch.zeros(1, 24, 4).double(), cells, (2, 4), (8, 16))
    assert_close(at_rest[0, (1 * 4 + 3) * 3 + 2], [42, 2, 54, 14])


def test_boxes_no_rows() -> None:
    none = torch.zeros(0, 4)
    assert ref.box_iou(none, torch.zeros(3, 4)).shape == (0, 3)
    assert ref.generalized_box_iou(torch.zeros(3, 4), none).shape == (3, 0)
    assert ref.box_area(none).shape == (0,)
    assert ref.encode_boxes(none, none).shape == (0, 4)
    assert ref.decode_boxes(torch.zeros(0, 12), none).shape == (0, 12)
    assert ref.decode_grid(torch.zeros(2, 0, 4), torch.zeros(3, 4), (0, 5), (4, 4)).shape == (2, 0, 4)
    assert ref.clip_boxes_to_image(none, (5, 5)).shape == (0, 4)
    assert ref.remove_small_boxes(none, 1.0).shape == (0,)
    assert ref.masks_to_boxes(torch.zeros(0, 5, 5)).shape == (0, 4)
    assert ref.box_convert(none, "xyxy", "cxcywh").shape == (0, 4)
    assert ref.assign_levels(none, 2, 5).shape == (0,)


def test_boxes_half_precision_is_widened() -> None:
    boxes = torch.tensor([[0.0, 0, 300, 300]], dtype=torch.float16)
    assert ref.box_area(boxes).item() == 90000  # beyond the largest float16
    for result in (
        ref.clip_boxes_to_image(boxes, (9, 9)),
        ref.box_iou(boxes, boxes),
        ref.encode_boxes(boxes, boxes),
        ref.decode_boxes(boxes * 0, boxes),
    ):
        assert result.dtype == torch.float32


def test_boxes_gradcheck() -> None:
    a, b = random_boxes(3, 9.0).requires_grad_(), random_boxes(2, 9.0, seed=4).requires_grad_()
    same = random_boxes(3, 9.0, seed=6).requires_grad_()
    deltas, grid = random(3, 8, seed=8, requires_grad=True), random(2, 6, 4, seed=9, requires_grad=True)
    assert gradcheck(ref.box_area, a)
    assert gradcheck(ref.box_iou, (a, b))
    assert gradcheck(ref.generalized_box_iou, (a, b))
    assert gradcheck(ref.encode_boxes, (a, same))
    assert gradcheck(lambda d, x: ref.decode_boxes(d, x, (2.0, 3.0, 1.0, 1.0), 0.5), (deltas, a))
    assert gradcheck(lambda d: ref.decode_grid(d, same[:1].detach(), (2, 3), (4, 5)), grid)
    assert gradcheck(lambda x: ref.clip_boxes_to_image(x, (6, 8)), a)
