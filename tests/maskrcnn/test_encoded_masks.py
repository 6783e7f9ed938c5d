"""Encoded masks of mirrored and resized images against bitmaps that were mirrored and resized."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models.transform import resize_target
from maskrcnn_ops import reference


def blobs(count, size, seed):
    coarse = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[:, 0] > 0


def encoded(masks):
    return EncodedMasks.of(reference.encode_bitmaps(masks), tuple(masks.shape[1:]))


def random_boxes(count, size, seed):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    corners = corners.sort(dim=1).values * 1.2 - 0.1
    return (corners * torch.tensor([size[1], size[0]])).flatten(1)


@given(
    size=st.tuples(st.integers(4, 60), st.integers(4, 60)),
    dims=st.lists(st.sampled_from([-2, -1]), max_size=3),
    aligned=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_crops_are_those_of_mirrored_bitmaps(size, dims, aligned, seed):
    bitmaps, boxes = blobs(3, size, seed), random_boxes(5, size, seed)
    masks, matches = encoded(bitmaps), torch.tensor([0, 2, 1, 1, 0])
    for dim in dims:
        bitmaps, masks = bitmaps.flip(dim), masks.flip(dim)
    assert torch.equal(masks.decode(), bitmaps)
    expected = ops.crop_masks(bitmaps, boxes, 7, matches, aligned=aligned)
    torch.testing.assert_close(masks.crop(boxes, 7, matches, aligned=aligned), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("aligned", [False, True], ids=["indices", "aligned"])
def test_crops_of_a_resized_image_read_the_annotation(aligned):
    bitmaps, boxes = blobs(3, (40, 60), 1), random_boxes(3, (40, 60), 2)
    target = {"boxes": boxes, "masks": encoded(bitmaps).flip(-1)}
    resized = resize_target(target, (40, 60), (20, 90))
    assert resized["masks"].shape == (3, 20, 90)
    assert resized["boxes"].tolist() == (boxes.float() * torch.tensor([1.5, 0.5, 1.5, 0.5])).tolist()
    matches = torch.arange(3)
    expected = ops.crop_masks(bitmaps.flip(-1), boxes, 14, aligned=aligned)
    actual = resized["masks"].crop(resized["boxes"].double(), 14, matches, aligned=aligned)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_by_hand():
    """One pixel in the top right corner of 2 x 3, mirrored into the top left, then seen at twice the size."""
    masks = EncodedMasks.of([{"size": [2, 3], "counts": [4, 1, 1]}], (2, 3)).flip(-1).resize((4, 6))
    box = torch.tensor([[0.0, 0.0, 6.0, 4.0]])
    crop = masks.crop(box, 6, torch.tensor([0]), aligned=True)
    assert crop.shape == (1, 6, 6)
    assert crop[0, 0, 0] == 1
    assert not crop[0, 4:].any()
    assert not crop[0, :, 3:].any()


def test_no_objects_and_errors():
    masks = EncodedMasks.of([], (5, 6)).flip(-2)
    assert len(masks) == 0
    assert masks.shape == (0, 5, 6)
    assert masks.decode().shape == (0, 5, 6)
    with pytest.raises(ValueError, match=r"dim: expected -2 \(rows\) or -1 \(columns\), got 1"):
        masks.flip(1)
