"""The parts of YOLACT by hand."""

from __future__ import annotations

import math

import torch

from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models.prototypes import assemble, assembled_mask_loss, region_masks, semantic_loss, whole_masks
from maskrcnn.models.yolact_losses import hardest_negatives
from maskrcnn.results import encode_masks

LN2 = math.log(2)


def test_assembling_by_hand() -> None:
    """A prototype of columns and one of rows; an object that takes both, and one that subtracts the second."""
    prototypes = torch.tensor([[[1.0, 2], [1, 2]], [[3, 3], [5, 5]]])
    coefficients = torch.tensor([[1.0, 0.5], [0.5, -1]])
    expected = torch.tensor([[[2.5, 3.5], [3.5, 4.5]], [[-2.5, -2], [-4.5, -4]]])
    assert torch.equal(assemble(prototypes, coefficients), expected)
    assert assemble(prototypes, torch.zeros(0, 2)).shape == (0, 2, 2)


def test_mask_loss_counts_the_cells_of_the_box_over_its_area() -> None:
    """Undecided logits cost ln 2 a cell. Box (1, 1, 3, 3) has 4 cells and area 4, whatever lies outside it."""
    logits, targets = torch.full((1, 4, 4), 1e3), torch.zeros(1, 4, 4)
    logits[:, 1:3, 1:3] = 0
    box = torch.tensor([[1.0, 1, 3, 3]])
    torch.testing.assert_close(assembled_mask_loss(logits, targets, box), torch.tensor(LN2))
    # Its left edge on the centres of column 0, its right one on those of column 2: columns 0 and 1 count.
    box = torch.tensor([[0.5, 1, 2.5, 3]])
    logits[:, 1:3, :2] = 0
    torch.testing.assert_close(assembled_mask_loss(logits, targets, box), torch.tensor(LN2))
    # Two objects are summed; one cell of the second is sure by ln 3, and right: ln 4/3 in the place of ln 2.
    logits, targets = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    targets[1, 0, 0], logits[1, 0, 0] = 1, math.log(3)
    boxes = torch.tensor([[0.0, 0, 4, 2], [0, 0, 2, 1]])
    expected = torch.tensor(LN2 + (math.log(4 / 3) + LN2) / 2)
    torch.testing.assert_close(assembled_mask_loss(logits, targets, boxes), expected)
    # A box smaller than a cell: the cell counts once, not by a factor.
    small = torch.tensor([[1.4, 1.4, 1.6, 1.6]])
    torch.testing.assert_close(assembled_mask_loss(logits[:1], targets[:1], small), torch.tensor(LN2))


def test_semantic_loss_by_hand() -> None:
    """Two objects of class 2 cover the left cell together; class 1 has none. Each cell costs ln 2 but one."""
    masks = torch.tensor([[[0.75, 0.0]], [[0.5, 0.0]]])
    logits = torch.zeros(2, 1, 2)
    logits[1, 0, 0] = math.log(3)
    loss = semantic_loss(logits, masks, torch.tensor([2, 2]))
    torch.testing.assert_close(loss, torch.tensor(3 * LN2 + math.log(4 / 3)))
    nothing = semantic_loss(torch.zeros(2, 1, 2), masks[:0], torch.zeros(0, dtype=torch.int64))
    torch.testing.assert_close(nothing, torch.tensor(4 * LN2))


def test_hardest_negatives_by_hand() -> None:
    """Of five anchors the second is positive, the fourth left out; the first is taken for class 1, the last least."""
    logits = torch.tensor([[0.0, 5, 0], [0, 9, 9], [2, 0, 1], [0, 9, 9], [4, 0, 0]])
    matches = torch.tensor([-1, 0, -1, -2, -1])
    assert hardest_negatives(logits, matches, 2).tolist() == [0, 2]
    assert hardest_negatives(logits, matches, 9).tolist() == [0, 2, 4]
    assert hardest_negatives(logits, torch.full((5,), 3), 9).tolist() == []


def test_whole_masks_are_shares_of_cells() -> None:
    """On cells of 2 x 2 pixels, of a batch that is two pixels wider than the image; encoded masks likewise."""
    mask = torch.zeros(1, 4, 6, dtype=torch.uint8)
    mask[0, :3, 1:4] = 1
    expected = torch.tensor([[[0.5, 1, 0, 0], [0.25, 0.5, 0, 0]]])
    boxes = torch.tensor([[1.0, 0, 4, 3]])
    torch.testing.assert_close(whole_masks(mask, boxes, (4, 8), (2, 4)), expected)
    encoded = EncodedMasks.of(encode_masks(mask), (4, 6))
    torch.testing.assert_close(whole_masks(encoded, boxes, (4, 8), (2, 4)), expected)
    # Mirrored, the object begins at column 2.
    flipped = torch.tensor([[[0, 1, 0.5, 0], [0, 0.5, 0.25, 0]]])
    torch.testing.assert_close(whole_masks(encoded.flip(-1), boxes, (4, 8), (2, 4)), flipped)
    assert whole_masks(mask[:0], boxes[:0], (4, 8), (2, 4)).shape == (0, 2, 4)


def test_region_masks_by_hand() -> None:
    """An object on the right half of its map: a box around the middle has it on its right, one on the left none."""
    logits = torch.full((2, 8, 8), -100.0)
    logits[:, :, 4:] = 100
    boxes = torch.tensor([[2.0, 0, 6, 8], [0, 0, 2, 2]])
    found = region_masks(logits, boxes, 4)
    assert found.shape == (2, 1, 4, 4)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 0, 1, 1]).expand(4, 4))
    assert found[1].count_nonzero() == 0
    assert region_masks(logits[:0], boxes[:0], 4).shape == (0, 1, 4, 4)
