"""The boxes of masks against the reference on every device and dtype; hostile sizes and values; errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import maskrcnn_ops as ops
from maskrcnn_ops import reference

MASK_DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def make_masks(count, height, width, density, seed=0):
    """Each mask sets pixels of the given density inside a window of its own."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        y = torch.randint(0, height + 1, (2,), generator=generator).sort().values
        x = torch.randint(0, width + 1, (2,), generator=generator).sort().values
        window = mask[y[0] : y[1], x[0] : x[1]]
        window |= torch.rand(window.shape, generator=generator) < density
    return masks


@pytest.mark.parametrize("dtype", MASK_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 1, 1), (5, 3, 200), (3, 200, 3), (4, 65, 127), (1, 300, 130)])
def test_matches_reference(device, shape, dtype):
    for density in (0.002, 0.3, 1.0):
        masks = make_masks(*shape, density)
        masks = -masks.to(dtype) if dtype.is_signed else masks.to(dtype)
        boxes = ops.masks_to_boxes(masks.to(device))
        assert boxes.dtype == torch.float32
        assert torch.equal(boxes.cpu(), reference.masks_to_boxes(masks))


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(0, 4), st.integers(1, 80), st.integers(1, 150)),
    density=st.sampled_from([0.0, 0.001, 0.02, 0.5]),
    dtype=st.sampled_from([torch.bool, torch.int32, torch.float64]),
)
def test_random_masks_match_reference(device, seed, shape, density, dtype):
    masks = make_masks(*shape, density, seed).to(dtype)
    assert torch.equal(ops.masks_to_boxes(masks.to(device)).cpu(), reference.masks_to_boxes(masks))


@pytest.mark.parametrize("size", [(1, 1), (7, 15), (70, 130)])
def test_every_single_pixel(device, size):
    height, width = size
    step = max(1, height * width // 300)
    pixels = torch.arange(0, height * width, step)
    masks = torch.zeros(len(pixels), height * width, dtype=torch.uint8)
    masks[torch.arange(len(pixels)), pixels] = 1
    x, y = pixels % width, pixels // width
    expected = torch.stack([x, y, x, y], dim=1).float()
    assert torch.equal(ops.masks_to_boxes(masks.view(-1, height, width).to(device)).cpu(), expected)


def test_hand_worked(device):
    masks = torch.zeros(2, 6, 8, device=device)
    masks[0, 1, 5] = masks[0, 4, 2] = 0.5
    assert ops.masks_to_boxes(masks).tolist() == [[2, 1, 5, 4], [0, 0, 0, 0]]


def test_which_numbers_are_not_zero(device):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        masks = torch.zeros(1, 3, 9, dtype=dtype, device=device)
        masks[0, 0, 0] = -0.0
        masks[0, 1, 1], masks[0, 2, 6], masks[0, 1, 3] = float("nan"), torch.finfo(dtype).tiny, -float("inf")
        assert ops.masks_to_boxes(masks).tolist() == [[1, 1, 6, 2]]
    highest_bit = torch.zeros(1, 2, 3, dtype=torch.int64, device=device)
    highest_bit[0, 1, 2] = -(2**63)
    assert ops.masks_to_boxes(highest_bit).tolist() == [[2, 1, 2, 1]]


@pytest.mark.parametrize("shape", [(0, 5, 7), (3, 0, 7), (3, 5, 0), (0, 0, 0)])
def test_empty_inputs(device, shape):
    boxes = ops.masks_to_boxes(torch.zeros(shape, device=device))
    assert boxes.shape == (shape[0], 4)
    assert (boxes == 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 70000), (1, 70000, 1), (70000, 1, 1)])
def test_lopsided_sizes(device, shape):
    masks = torch.ones(shape, dtype=torch.bool, device=device)
    last = [0.0, 0.0, shape[2] - 1.0, shape[1] - 1.0]
    assert ops.masks_to_boxes(masks).unique(dim=0).tolist() == [last]


def test_strides_and_alignments_of_every_kind(device):
    masks = make_masks(4, 40, 50, 0.05).to(device)
    expected = ops.masks_to_boxes(masks)
    padded = torch.ones(4, 42, 100, dtype=torch.bool, device=device)
    padded[:, 1:-1, ::2] = masks
    for other in (padded[:, 1:-1, ::2], masks.transpose(1, 2).contiguous().transpose(1, 2)):
        assert torch.equal(ops.masks_to_boxes(other), expected)
    for offset in range(17):
        buffer = torch.ones(masks.numel() + offset, dtype=torch.bool, device=device)
        shifted = buffer[offset:].view_as(masks).copy_(masks)
        assert torch.equal(ops.masks_to_boxes(shifted), expected)


def test_more_than_two_to_the_31_pixels():
    """Offsets are 64-bit."""
    masks = torch.zeros(2**31 // 65536 + 1, 256, 256, dtype=torch.bool)
    masks[-1, 200, 100] = True
    boxes = ops.masks_to_boxes(masks)
    assert boxes[-1].tolist() == [100, 200, 100, 200]
    assert (boxes[:-1] == 0).all()


def test_independent_of_threads(device):
    masks = make_masks(3, 200, 300, 0.01).to(device)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 7):
        torch.set_num_threads(count)
        results.append(ops.masks_to_boxes(masks))
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_opcheck_and_compile(device):
    masks = make_masks(3, 9, 11, 0.2).to(device)
    torch.library.opcheck(torch.ops.maskrcnn_ops.masks_to_boxes.default, (masks,))
    compiled = torch.compile(ops.masks_to_boxes, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((3, 9, 11), (5, 4, 20), (2, 30, 7)):
        masks = make_masks(*shape, 0.2).to(device)
        assert torch.equal(compiled(masks), ops.masks_to_boxes(masks))


def test_errors_name_argument_expectation_and_value(device):
    with pytest.raises(RuntimeError) as error:
        ops.masks_to_boxes(torch.zeros(3, 4, device=device))
    message = "masks_to_boxes: expected masks of shape [L, H, W], got [3, 4]"
    assert str(error.value).splitlines()[0] == message
    with pytest.raises(RuntimeError, match="expected masks of a boolean, integer or floating-point dtype"):
        ops.masks_to_boxes(torch.zeros(3, 4, 5, dtype=torch.complex64, device=device))
