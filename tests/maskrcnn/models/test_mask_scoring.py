"""Mask Scoring R-CNN: the head that judges masks, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from relatives_cases import build
from torch import Tensor, nn

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.data import ShapesDataset
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models.heads import MaskIoUHead
from maskrcnn.models.masks import MaskBranch, mask_areas, mask_iou_targets


def test_iou_targets_by_hand() -> None:
    """Boxes of 8 x 8 pixels in 4 x 4 cells, so a cell is 4 pixels."""
    masks = torch.zeros(4, 4, 4)
    masks[:3, :, :2] = 0.5  # the left half: 8 cells; the last mask is empty
    crops = torch.zeros(4, 4, 4)
    crops[0, :, :2] = 1  # the same half
    crops[1, :2] = 0.7  # the upper half: 4 cells of both, 12 of either
    crops[2, :, :2] = 1  # the same half of an object of which as much again lies outside
    crops[3, :2] = 1
    areas = torch.tensor([32.0, 32, 64, 32])
    boxes = torch.tensor([[3.0, 5, 11, 13]]).expand(4, 4)
    wanted = mask_iou_targets(masks, crops, areas, boxes)
    torch.testing.assert_close(wanted, torch.tensor([1.0, 4 / 12, 8 / 16, 0]))
    coarse = mask_iou_targets(masks[:1], crops[:1], torch.tensor([20.0]), boxes[:1])
    assert coarse.item() == 1  # cells that cover more than the object
    assert mask_iou_targets(masks[3:], torch.zeros(1, 4, 4), torch.zeros(1), boxes[:1]).item() == 0
    none = torch.zeros(0, 4, 4)
    assert mask_iou_targets(none, none, torch.zeros(0), torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("encoded", [False, True])
def test_iou_targets_take_the_whole_object(encoded: bool) -> None:
    """A box over the left half of a square: a mask that fills it has half of the object, whatever the image's size."""
    bitmap = torch.zeros(2, 40, 40, dtype=torch.uint8)
    bitmap[1, 10:26, 10:26] = 1
    masks: Any = bitmap
    if encoded:
        runs = [coco_mask.encode(mask.numpy().copy(order="F")) for mask in bitmap]
        masks = EncodedMasks.of(runs, (40, 40)).resize((80, 120))
        assert masks.areas().tolist() == [0, 16 * 16 * 6]
    box = torch.tensor([[10.0, 10, 18, 26]]) * (torch.tensor([3.0, 2, 3, 2]) if encoded else 1)
    branch = MaskBranch("continuous")
    targets = [{"masks": masks}]
    wanted = branch.iou_targets(torch.ones(1, 28, 28), targets, [box], [torch.tensor([1])])
    torch.testing.assert_close(wanted, torch.tensor([0.5]))
    assert mask_areas(masks).shape == (2,)


def test_iou_targets_are_the_ious_of_pasted_masks() -> None:
    """Shapes of some 20 pixels, boxes that are 8 % off, masks that are wrong here and there."""
    generator = torch.Generator().manual_seed(0)
    dataset = ShapesDataset(15, 128, seed=3)
    branch = MaskBranch("continuous")
    wanted, pasted = [], []
    for index in range(len(dataset)):
        _, target = dataset[index]
        boxes, number = target["boxes"], len(target["boxes"])
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        boxes = boxes + 0.08 * sides * torch.randn(number, 4, generator=generator)
        boxes = ops.clip_boxes_to_image(boxes, (128, 128))
        matches = torch.arange(number)
        perfect = target["masks"].crop(boxes, 28, matches, aligned=True)
        noise = torch.randn(number, 28, 28, generator=generator)
        masks = (perfect + 1.5 * F.avg_pool2d(noise, 7, 1, 3)).clamp(0, 1)
        wanted.append(branch.iou_targets(masks, [target], [boxes], [matches]))
        full = ops.paste_masks(masks[:, None], boxes, (128, 128), threshold=0.5, convention="continuous")
        truth = target["masks"].decode()
        pasted.append((full & truth).sum((1, 2)) / (full | truth).sum((1, 2)))
    both = torch.stack([torch.cat(wanted), torch.cat(pasted)])
    assert both.shape[1] > 50
    assert (both[0] - both[1]).abs().mean() < 0.03
    assert torch.corrcoef(both)[0, 1] > 0.85


def test_mask_iou_head_is_the_papers() -> None:
    """Features and mask side by side; four convolutions, the last of stride 2; 1024, 1024, K."""
    with torch.device("meta"):
        head = maskrcnn.build_model("msrcnn_resnet50_fpn", num_classes=81).roi_heads.mask_iou_head
        assert head(torch.zeros(3, 256, 14, 14), torch.zeros(3, 28, 28)).shape == (3, 81)
    convs = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.stride[0]) for c in convs] == [(257, 1), (256, 1), (256, 1), (256, 2)]
    linear = [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, nn.Linear)]
    assert linear == [(256 * 7 * 7, 1024), (1024, 1024), (1024, 81)]


def test_the_mask_is_pooled_by_its_maximum() -> None:
    head = MaskIoUHead(1, 2, 2, layers=(1,), representation_size=4)
    seen: list[Tensor] = []
    head.convs.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    mask = torch.tensor([[0.1, 0.2, 0, 0], [0.3, 0.4, 0, 0.9], [0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    head(torch.full((1, 1, 2, 2), 7.0), mask[None])
    assert seen[0].tolist() == [[[[7, 7], [7, 7]], torch.tensor([[0.4, 0.9], [0, 0.5]]).tolist()]]


def test_mask_scores_are_scores_times_the_own_classs_iou(images: list[Tensor]) -> None:
    model = build("msrcnn_tiny", box_score_thresh=0.0, box_detections_per_img=300).eval()
    last = model.roi_heads.mask_iou_head.iou
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([9.0, 0.25, 0.5, 7.0]))  # limited to 1
        detections = model(images)
    seen = set()
    for found in detections:
        factor = torch.tensor([0, 0.25, 0.5, 1])[found["labels"]]
        torch.testing.assert_close(found["mask_scores"], found["scores"] * factor)
        seen |= set(found["labels"].tolist())
    assert seen == {1, 2, 3}


def test_the_judge_does_not_change_the_masks(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model = build("msrcnn_tiny").train()
    loss = model(images, targets)["loss_mask_iou"]
    loss.backward()
    assert all(p.grad is None for p in model.roi_heads.mask_predictor.parameters())
    assert any(p.grad.count_nonzero() > 0 for p in model.backbone.parameters())
