"""Operators on boxes beside torchvision: the same operations in the same order, most equal to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import maskrcnn_ops as ops

torchvision = pytest.importorskip("torchvision")
peer = torchvision.ops

pytestmark = pytest.mark.peer

FORMATS = ["xyxy", "xywh", "cxcywh"]
DTYPES = [torch.float32, torch.float64]


def random_boxes(
    count: int, dtype: torch.dtype = torch.float32, seed: int = 0, extent: float = 900.0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent - 20
    sides = torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent / 3 + 1
    return torch.cat([corners, corners + sides], dim=1).to(dtype)


def coder(weights: tuple[float, float, float, float]):
    return torchvision.models.detection._utils.BoxCoder(weights)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou"])
def test_overlaps_are_equal_to_the_bit(name: str, dtype: torch.dtype) -> None:
    boxes1, boxes2 = random_boxes(211, dtype), random_boxes(307, dtype, seed=1)
    boxes1[0, 2:] = boxes1[0, :2]
    boxes2[0] = boxes1[0]  # 0/0
    boxes1[1], boxes2[1] = math.nan, math.inf
    boxes1[2:40], boxes2[2:40] = boxes1[2:40].round(), boxes1[2:40].round() + 3
    actual, expected = getattr(ops, name)(boxes1, boxes2), getattr(peer, name)(boxes1, boxes2)
    assert torch.equal(actual.nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou"])
def test_overlap_gradients_with_ties(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 5, (2, 40, 2), generator=generator)
    boxes = torch.cat(
        [corners, corners + torch.randint(1, 5, (2, 40, 2), generator=generator)], dim=2
    ).double()
    gradients = []
    for module in (ops, peer):
        boxes1, boxes2 = boxes[0].clone().requires_grad_(), boxes[1].clone().requires_grad_()
        overlap = getattr(module, name)(boxes1, boxes2)
        weights = torch.rand(overlap.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gradients.append(torch.autograd.grad(overlap, (boxes1, boxes2), weights))
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_decode_is_within_an_ulp(weights: tuple[float, float, float, float]) -> None:
    # exp differs in the last place: half a side of up to 1,000 pixels moves by an ulp, 6e-5.
    anchors = random_boxes(5000)
    deltas = torch.randn(5000, 12, generator=torch.Generator().manual_seed(2))
    expected = coder(weights).decode(deltas, [anchors]).flatten(1)
    torch.testing.assert_close(ops.decode_boxes(deltas, anchors, weights), expected, rtol=1e-6, atol=2.5e-4)
    shifts = deltas * torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(3)  # without exp: to the bit
    expected = coder(weights).decode(shifts, [anchors]).flatten(1)
    assert torch.equal(ops.decode_boxes(shifts, anchors, weights), expected)


def test_decode_grid_beside_materialised_anchors() -> None:
    generator = torchvision.models.detection.anchor_utils.AnchorGenerator(((64,),), ((0.5, 1.0, 2.0),))
    images = torchvision.models.detection.image_list.ImageList(torch.zeros(2, 3, 200, 304), [(200, 304)] * 2)
    anchors = generator(images, [torch.zeros(2, 8, 25, 38)])[0]
    deltas = torch.randn(2, 25 * 38 * 3, 4, generator=torch.Generator().manual_seed(3)) / 2
    boxes = ops.decode_grid(deltas, generator.cell_anchors[0], (25, 38), (8, 8))
    for n in range(2):
        expected = coder((1.0, 1.0, 1.0, 1.0)).decode(deltas[n], [anchors])[:, 0]
        torch.testing.assert_close(boxes[n], expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_encode_is_within_an_ulp(weights: tuple[float, float, float, float]) -> None:
    boxes, proposals = random_boxes(5000, seed=1), random_boxes(5000)
    actual, expected = (
        ops.encode_boxes(boxes, proposals, weights),
        coder(weights).encode([boxes], [proposals])[0],
    )
    assert torch.equal(actual[:, :2], expected[:, :2])
    torch.testing.assert_close(actual[:, 2:], expected[:, 2:], rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_elementwise_are_equal_to_the_bit(dtype: torch.dtype) -> None:
    boxes = random_boxes(500, dtype)
    boxes[0, 2:], boxes[1] = boxes[0, :2], math.inf
    for fmt in FORMATS:
        assert torch.equal(
            ops.box_area(boxes, fmt).nan_to_num(7.0), peer.box_area(boxes, fmt).nan_to_num(7.0)
        )
        for out_fmt in FORMATS:
            actual, expected = ops.box_convert(boxes, fmt, out_fmt), peer.box_convert(boxes, fmt, out_fmt)
            torch.testing.assert_close(actual, expected, rtol=2e-7, atol=0, equal_nan=True)
    assert torch.equal(
        ops.clip_boxes_to_image(boxes, (300, 400)), peer.clip_boxes_to_image(boxes, (300, 400))
    )
    assert torch.equal(ops.remove_small_boxes(boxes, 20.0), peer.remove_small_boxes(boxes, 20.0))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32], ids=str)
def test_masks_to_boxes_are_equal(dtype: torch.dtype) -> None:
    masks = torch.rand(20, 90, 130, generator=torch.Generator().manual_seed(4)) < 5e-4
    masks[3] = False
    assert torch.equal(ops.masks_to_boxes(masks.to(dtype)), peer.masks_to_boxes(masks.to(dtype)))
