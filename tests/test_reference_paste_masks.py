"""Pasted masks of the reference against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hand_worked import assert_close, f64, random
from torch.autograd import gradcheck, gradgradcheck

from maskrcnn_ops import reference as ref

NAN, INF = math.nan, math.inf


def test_paste_masks_continuous_by_hand() -> None:
    # A mask of 2 x 2 over 4 x 4 pixels: pixel centres at mask coordinates -0.25, 0.25, 0.75, 1.25.
    masks, boxes = f64([[[0, 1], [0, 1]]]), f64([[0, 0, 4, 4]])
    y, x = f64([0.75, 1, 1, 0.75]), f64([0, 0.25, 0.75, 0.75])
    pasted = ref.paste_masks(masks, boxes, (4, 4), threshold=None)
    assert_close(pasted[0], torch.outer(y, x))
    # Moved by half a pixel, centres at -0.5, 0, 0.5, 1, 1.5 and nothing beyond the image.
    moved = ref.paste_masks(masks, boxes + 0.5, (6, 4), threshold=None)
    assert_close(moved[0], torch.outer(f64([0.5, 1, 1, 1, 0.5, 0]), f64([0, 0, 0.5, 1])))


def test_paste_masks_integer_by_hand() -> None:
    # One cell in a ring of zeros, 3 x 3, over the box enlarged three times, [0, 3]: 4 pixels, both ends
    # included, at 0.75 * (i + 0.5) - 0.5 = -0.125, 0.625, 1.375, 2.125 of the padded mask. Cell 1: the mask.
    pasted = ref.paste_masks(f64([[[1]]]), f64([[1, 1, 2, 2]]), (5, 5), None, convention="integer")
    profile = f64([0, 0.625, 0.625, 0, 0])
    assert_close(pasted[0], torch.outer(profile, profile))
    # Corners are truncated towards zero: [-1.2, 1.9] grown about 0.35 is [-4.3, 5.0], 10 pixels, -4 to 5.
    row = ref.paste_masks(f64([[[1]]]), f64([[-1.2, 0, 1.9000001, 0]]), (1, 6), None, convention="integer")
    u = [0.3 * (i + 4.5) - 0.5 for i in range(6)]
    assert_close(row[0, 0], [max(0.0, 1 - abs(v - 1)) for v in u])


@pytest.mark.parametrize("convention", ["continuous", "integer"])
def test_paste_masks_threshold_is_strict(convention: str) -> None:
    masks, boxes = torch.full((1, 1, 4, 4), 0.5), torch.tensor([[0.0, 0, 16, 16]])
    assert ref.paste_masks(masks, boxes, (16, 16), None, convention)[0, 8, 8] == 0.5
    assert not ref.paste_masks(masks, boxes, (16, 16), 0.5, convention).any()
    below = ref.paste_masks(masks, boxes, (16, 16), 0.4999, convention)
    assert below.dtype == torch.bool
    assert below[0, 8, 8]


@pytest.mark.parametrize("convention", ["continuous", "integer"])
def test_paste_masks_odd_boxes(convention: str) -> None:
    wild = [
        [NAN, 0, 4, 4],
        [0, 0, INF, 4],
        [0, -INF, 4, 4],
        [-3.4e38, 0, 3.4e38, 4],
        [50, 50, 60, 60],
        [9, 9, 2, 2],
    ]
    masks = torch.ones(len(wild), 3, 3)
    assert not ref.paste_masks(masks, torch.tensor(wild), (8, 8), 0.0, convention).any()
    huge = torch.tensor([[-1e30, -1e30, 1e30, 1e30]])
    pasted = ref.paste_masks(masks[:1], huge, (4, 5), None, convention)
    torch.testing.assert_close(pasted, torch.ones(1, 4, 5))


def test_paste_masks_shapes_and_dtypes() -> None:
    assert ref.paste_masks(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)
    half = torch.rand(2, 4, 4).half()
    boxes = torch.tensor([[0.0, 0, 5, 5], [1, 1, 3, 3]])
    assert ref.paste_masks(half, boxes, (5, 6), None).dtype == torch.float16
    assert_close(
        ref.paste_masks(half.double()[:, None], boxes.double(), (5, 6), None),
        ref.paste_masks(half.double(), boxes.double(), (5, 6), None),
    )


@pytest.mark.parametrize("convention", ["continuous", "integer"])
def test_paste_masks_gradcheck(convention: str) -> None:
    masks, boxes = random(2, 3, 3, requires_grad=True), f64([[0.5, 1.2, 5.1, 4.8], [-2, -3, 9, 4.5]])
    assert gradcheck(lambda m: ref.paste_masks(m, boxes, (6, 7), None, convention), masks)
    assert gradgradcheck(lambda m: ref.paste_masks(m, boxes, (6, 7), None, convention), masks)
