"""Pasting beside torchvision: probabilities, decisions and gradients of the integer convention."""

import pytest
import torch

import maskrcnn_ops as ops

torchvision = pytest.importorskip("torchvision")
roi_heads = torchvision.models.detection.roi_heads

pytestmark = [pytest.mark.peer, pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)]

SIZE = (120, 190)


def inputs(dtype, side=28, count=200):
    """Boxes across every border that still meet the image; beyond it the peer raises."""
    generator = torch.Generator().manual_seed(side)
    extent = torch.tensor([SIZE[1], SIZE[0]], dtype=dtype)
    corners = torch.rand(count, 2, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    corners[: count // 2, 1] = corners[: count // 2, 0] + corners[: count // 2, 1] / 8  # small ones, too
    boxes = (corners.sort(dim=1).values * extent).reshape(count, 4)
    boxes[::5] = boxes[::5].round()
    meets = (boxes[:, 2:] > 2).all(1) & (boxes[:, :2] < extent - 2).all(1)
    masks = torch.rand(count, 1, side, side, generator=generator, dtype=dtype)
    return masks[meets], boxes[meets]


@pytest.mark.parametrize("side", [1, 14, 28])
def test_probabilities_and_decisions(dtype, side):
    masks, boxes = inputs(dtype, side)
    assert len(boxes) > 100
    expected = roi_heads.paste_masks_in_image(masks, boxes, SIZE)[:, 0]
    actual = ops.paste_masks(masks, boxes, SIZE, None, "integer")
    # The same formula; the peer's interpolation may contract products and sums.
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-14}[dtype]
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
    assert actual.count_nonzero() > 10_000
    decided = (expected - 0.5).abs() > tolerance
    assert decided.double().mean() > 0.9999
    pasted = ops.paste_masks(masks, boxes, SIZE, 0.5, "integer")
    assert torch.equal(pasted[decided], (expected > 0.5)[decided])


def test_gradients(dtype):
    masks, boxes = inputs(dtype, 14, 40)
    masks.requires_grad_()
    expected = roi_heads.paste_masks_in_image(masks, boxes, SIZE)[:, 0]
    actual = ops.paste_masks(masks, boxes, SIZE, None, "integer")
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(
        torch.autograd.grad(actual, masks, weight)[0],
        torch.autograd.grad(expected, masks, weight)[0],
        rtol=tolerance,
        atol=10 * tolerance,
    )
