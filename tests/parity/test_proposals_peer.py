"""Matching and the RPN's proposals beside torchvision: the same matches to the bit, the same boxes in order."""

import pytest
import torch

import maskrcnn_ops as ops

torchvision = pytest.importorskip("torchvision")
pytestmark = pytest.mark.peer

STRIDES = (4, 8, 16, 32)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def boxes_in_a_picture(count, seed, integers=False):
    g = generator(seed)
    corners = torch.rand(count, 2, generator=g) * torch.tensor([260.0, 200.0])
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=g) * 100 + 1], dim=1)
    return boxes.round() if integers else boxes


def cells_of(levels):
    ratios = torch.tensor([0.5, 1.0, 2.0]).sqrt()
    half = torch.stack([1 / ratios, ratios], dim=1) / 2
    return [(torch.cat([-half, half], dim=1) * 8 * STRIDES[i]).round() for i in range(levels)]


def anchors_of(cells, grids):
    """As torchvision makes them."""
    generate = torchvision.models.detection.anchor_utils.AnchorGenerator()
    generate.cell_anchors = cells
    strides = [[torch.tensor(s), torch.tensor(s)] for s in STRIDES[: len(cells)]]
    return torch.cat(generate.grid_anchors(grids, strides))


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("rule", [(0.7, 0.3, True), (0.5, 0.5, False), (0.3, 0.3, True)], ids=str)
def test_match_boxes(rule, integers):
    matcher = torchvision.models.detection._utils.Matcher(*rule)
    for seed, (truths, count) in enumerate([(1, 1), (5, 300), (60, 5000)]):
        gt, boxes = (boxes_in_a_picture(n, seed + 10 * n, integers) for n in (truths, count))
        iou = torchvision.ops.box_iou(gt, boxes)
        matches, ious = ops.match_boxes(gt, boxes, *rule)
        assert torch.equal(matches, matcher(iou))
        assert torch.equal(ious, iou.amax(0))


@pytest.mark.parametrize("integers", [False, True])
def test_match_anchors(integers):
    cells, grids = cells_of(4), [(50, 65), (25, 33), (13, 17), (7, 9)]
    matcher = torchvision.models.detection._utils.Matcher(0.7, 0.3, True)
    for seed in range(3):
        gt = boxes_in_a_picture(20, seed, integers)
        expected = matcher(torchvision.ops.box_iou(gt, anchors_of(cells, grids)))
        assert torch.equal(ops.match_anchors(gt, cells, grids, STRIDES, 0.7, 0.3, True)[0], expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_proposal_stage(layout):
    """Scores are all different: torch.topk promises no order among equal ones."""
    from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

    cells, grids = cells_of(4), [(50, 65), (25, 33), (13, 17), (7, 9)]
    g, sizes = generator(3), [(200, 260), (190, 231)]
    count = sum(3 * h * w for h, w in grids)
    ranks = torch.stack([torch.randperm(count, generator=g) for _ in sizes]).float() / count * 12 - 9
    logits = [
        part.view(len(sizes), 3, *grid).contiguous(memory_format=layout)
        for part, grid in zip(ranks.split([3 * h * w for h, w in grids], dim=1), grids, strict=True)
    ]
    deltas = [
        (torch.randn(len(sizes), 12, *grid, generator=g) * 0.3).contiguous(memory_format=layout)
        for grid in grids
    ]
    network = RegionProposalNetwork(
        None,
        None,
        0.7,
        0.3,
        256,
        0.5,
        {"training": 0, "testing": 300},
        {"training": 0, "testing": 200},
        0.7,
        0.05,
    ).eval()
    coder = torchvision.models.detection._utils.BoxCoder((1.0, 1.0, 1.0, 1.0))
    flat_logits, flat_deltas = concat_box_prediction_layers([each.clone() for each in logits], deltas)
    anchors = anchors_of(cells, grids)
    decoded = coder.decode(flat_deltas, [anchors] * len(sizes)).view(len(sizes), -1, 4)
    expected, expected_scores = network.filter_proposals(
        decoded, flat_logits, sizes, [3 * h * w for h, w in grids]
    )
    boxes, scores, levels, counts = ops.decode_anchors(
        logits, deltas, cells, STRIDES, sizes, 300, min_size=1e-3, score_threshold=0.05
    )
    index, kept = ops.padded_nms(boxes, scores.sigmoid(), 0.7, 200, classes=levels, counts=counts)
    for n in range(len(sizes)):
        chosen = index[n, : kept[n]]
        torch.testing.assert_close(scores[n, chosen].sigmoid(), expected_scores[n], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(boxes[n, chosen], expected[n], rtol=1e-5, atol=1e-3)
