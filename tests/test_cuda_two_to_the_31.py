"""Tensors of more than 2^31 elements on a GPU: their far end gives what the same numbers give alone."""

from dataclasses import replace

import pytest
import torch
from operator_calls import CALLS, assert_same, results

ELEMENTS = 2**31
GIGABYTES = 60  # the most that a call here takes, about

# The inputs of which each row stands for itself, and the elements of a row in the largest tensor of the call.
ROWS = {
    "encode_boxes": ((0, 1), 4),
    "decode_boxes": ((0, 1), 12),
    "decode_grid": ((0,), 12),
    "decode_anchors": ((0, 1, 3), 864),
    "match_boxes": ((1,), 4),
    "box_iou": ((0,), 30),
    "masks_to_boxes": ((0,), 1200),
    "crop_masks": ((0, 1), 1200),
    "paste_masks": ((0, 1), 1200),
    "paste_masks/probabilities": ((0, 1), 1200),
    "heatmaps_to_keypoints": ((0, 1), 196),
}
POOLING = [name for name in CALLS if name.startswith(("roi_", "ps_roi_")) and name != "roi_align/lists"]


@pytest.fixture
def room(gpu):
    """Memory that no test before holds back, and none that holds back others'."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < GIGABYTES * 10**9:
        pytest.skip(f"less than {GIGABYTES} GB of free memory on the GPU")
    yield
    torch.cuda.empty_cache()


def after_zeros(front: int, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor after so many rows of zeros, in its own layout."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (front + len(tensor), *tensor.shape[1:])
    whole = torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout).zero_()
    whole[front:] = tensor
    return whole


def front_of(tensor: torch.Tensor, elements: int) -> int:
    """Rows for more than 2^31 elements, as many times as many as the tensor has."""
    return (ELEMENTS // (elements * len(tensor)) + 1) * len(tensor)


@pytest.mark.parametrize("name", ROWS)
def test_far_rows(room, name):
    padded, elements = ROWS[name]
    call = replace(CALLS[name], gradients=tuple(i for i in CALLS[name].gradients if i in padded))
    inputs = [each.to("cuda") for each in call.inputs(0)]
    expected = results(call, inputs)
    front = front_of(inputs[padded[0]], elements)
    for i in padded:
        inputs[i] = after_zeros(front, inputs[i])
    for actual, right in zip(results(call, inputs), expected, strict=True):
        assert len(actual) > len(right)
        assert_same([actual[-len(right) :]], [right])


@pytest.mark.parametrize("name", POOLING)
def test_far_images(room, name):
    call = CALLS[name]
    features, rois = (each.to("cuda") for each in call.inputs(0))
    expected = results(call, [features, rois])
    front = front_of(features, features[0].numel())
    far = rois + torch.tensor([front, 0, 0, 0, 0], device=rois.device)
    pooled, gradient, *others = results(call, [after_zeros(front, features), far])
    assert_same([pooled, gradient[-len(features) :], *others], expected)
    assert not gradient[:front].any()
