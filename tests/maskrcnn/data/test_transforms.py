"""Mirroring, and the decisions about it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn.data import flip_horizontal, flip_vertical
from maskrcnn.data.shapes import _mask_boxes
from maskrcnn.data.transforms import random_flip, random_generator


@st.composite
def samples(draw):
    """An image with masks of at least one pixel each, and the masks' tight boxes."""
    height, width, number = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    masks = rng.integers(0, 2, (number, height, width), dtype=np.uint8)
    masks[:, rng.integers(height), rng.integers(width)] = 1
    boxes = _mask_boxes(masks) if number else np.zeros((0, 4))
    image = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    target = {
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.arange(number),
        "masks": torch.from_numpy(masks),
        "image_id": 4,
    }
    return torch.from_numpy(image), target


@pytest.mark.parametrize("flip", [flip_horizontal, flip_vertical])
@given(sample=samples())
def test_flip_twice_is_nothing(flip, sample):
    image, target = sample
    again_image, again = flip(*flip(image, target))
    assert torch.equal(again_image, image)
    assert torch.equal(again["boxes"], target["boxes"])
    assert torch.equal(again["masks"], target["masks"])


@pytest.mark.parametrize(("flip", "axis"), [(flip_horizontal, 2), (flip_vertical, 1)])
@given(sample=samples())
def test_flipped_boxes_are_those_of_flipped_masks(flip, axis, sample):
    image, target = sample
    before = target["boxes"].clone()
    flipped_image, flipped = flip(image, target)
    assert torch.equal(flipped_image, torch.from_numpy(np.flip(image.numpy(), axis).copy()))
    if len(before):
        assert np.array_equal(flipped["boxes"].numpy(), _mask_boxes(flipped["masks"].numpy()))
    assert flipped["labels"] is target["labels"]
    assert flipped["image_id"] == 4
    assert torch.equal(target["boxes"], before)  # the argument is untouched


def test_flip_by_hand():
    target = {"boxes": torch.tensor([[1.0, 2.0, 4.5, 6.0]])}
    _, flipped = flip_horizontal(torch.zeros(3, 8, 10), target)
    assert flipped["boxes"].tolist() == [[5.5, 2.0, 9.0, 6.0]]
    assert "masks" not in flipped
    _, flipped = flip_vertical(torch.zeros(3, 8, 10), target)
    assert flipped["boxes"].tolist() == [[1.0, 2.0, 4.5, 6.0]]


def test_both_flips_are_decided_apart():
    image = torch.arange(4).reshape(1, 2, 2)
    target = {"boxes": torch.zeros(0, 4)}
    seen = {
        tuple(random_flip(image, target, 0.5, 0.5, seed=0, step=step, position=0)[0].flatten().tolist())
        for step in range(40)
    }
    assert seen == {(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0)}


def test_decision_depends_on_seed_step_and_position_only():
    image, target = torch.arange(6).reshape(1, 1, 6), {"boxes": torch.zeros(0, 4)}

    def decisions(probability, seed):
        return [
            not torch.equal(
                random_flip(image, target, probability, seed=seed, step=step, position=position)[0], image
            )
            for step in range(50)
            for position in range(8)
        ]

    first = decisions(0.5, 1)
    assert first == decisions(0.5, 1)
    assert first != decisions(0.5, 2)
    assert 150 < sum(first) < 250
    assert not any(decisions(0.0, 1))
    assert all(decisions(1.0, 1))
    columns = np.array(first).reshape(50, 8)
    assert len({tuple(column) for column in columns.T}) == 8
    assert len({tuple(row) for row in columns}) > 40


def test_negative_seed():
    with pytest.raises(ValueError, match="seed: expected an integer from 0, got -3"):
        random_generator(-3, 0, 0)
