"""rle_decode, rle_area, rle_to_boxes and rle_iou against the bitmaps that the strings stand for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn_ops import reference


def random_bitmaps(count, size, density, seed):
    """Windows of noise; some masks empty, some full."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for mask in masks:
        (top, bottom), (left, right) = (
            torch.randint(side + 1, (2,), generator=generator).sort().values for side in size
        )
        window = mask[top:bottom, left:right]
        window |= torch.rand(window.shape, generator=generator) < density
    return masks


def as_kind(encodings, kind):
    """The same masks with counts as bytes, as text, or as a list of lengths."""
    if kind == "bytes":
        return encodings
    if kind == "text":
        return [{**each, "counts": each["counts"].decode()} for each in encodings]
    return [{**each, "counts": run_lengths(ops.rle_decode([each])[0])} for each in encodings]


def run_lengths(mask):
    """Down the columns, zeros first."""
    lengths, value = [0], False
    for pixel in mask.T.flatten().tolist():
        if pixel != value:
            lengths.append(0)
            value = pixel
        lengths[-1] += 1
    return lengths


@given(
    seed=st.integers(0, 2**31),
    counts=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    density=st.sampled_from([0.03, 0.5, 1.0]),
    kind=st.sampled_from(["bytes", "text", "lengths"]),
)
def test_random_bitmaps_match_reference(seed, counts, size, density, kind):
    masks, others = (random_bitmaps(n, size, density, seed + i) for i, n in enumerate(counts))
    encodings, other_encodings = (as_kind(reference.encode_bitmaps(each), kind) for each in (masks, others))
    if len(masks):
        assert torch.equal(ops.rle_decode(encodings), masks)
    areas = masks.flatten(1).sum(1)
    assert torch.equal(ops.rle_area(encodings), areas)
    boxes = reference.masks_to_boxes(masks)
    boxes[areas > 0, 2:] += 1  # from the last pixel to its edge
    assert torch.equal(ops.rle_to_boxes(encodings), boxes)
    crowd = torch.rand(counts[1], generator=torch.Generator().manual_seed(seed)) < 0.5
    for flags in (None, crowd.tolist()):
        inter = (masks[:, None] & others).flatten(2).sum(2).double()
        union = areas[:, None] + others.flatten(1).sum(1) - inter
        union = union if flags is None else torch.where(crowd, areas[:, None].double(), union)
        expected = torch.where(inter > 0, inter / union, 0.0)
        torch.testing.assert_close(
            ops.rle_iou(encodings, other_encodings, flags), expected, rtol=1e-15, atol=0
        )


@given(
    st.lists(
        st.one_of(st.binary(max_size=12), st.lists(st.integers(-3, 9), max_size=6)), min_size=1, max_size=3
    )
)
def test_no_string_crashes(counts):
    """Random characters and lengths are decoded, or refused by every function alike."""
    encodings = [{"size": [3, 4], "counts": each} for each in counts]
    others = ops.rle_decode, ops.rle_to_boxes, lambda each: ops.rle_iou(each, each)
    try:
        areas = ops.rle_area(encodings)
    except ValueError:
        for function in others:
            with pytest.raises(ValueError, match="to be run lengths that add up to 12 pixels"):
                function(encodings)
    else:
        assert torch.equal(ops.rle_decode(encodings).flatten(1).sum(1), areas)
        assert all(len(function(encodings)) == len(counts) for function in others)


def test_sizes_must_agree():
    with pytest.raises(
        ValueError, match=r"rle_iou: expected encodings of one size, got \(3, 4\) and \(4, 3\)"
    ):
        ops.rle_iou([{"size": [3, 4], "counts": [12]}], [{"size": [4, 3], "counts": [12]}])
    with pytest.raises(ValueError, match="rle_iou: expected one crowd flag for each of 1 masks, got 2"):
        ops.rle_iou([], [{"size": [4, 3], "counts": [12]}], [True, False])
