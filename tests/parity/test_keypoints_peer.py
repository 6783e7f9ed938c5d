"""Keypoints beside torchvision: the same peaks and the same targets."""

import pytest
import torch
from cases import random_boxes

import maskrcnn_ops as ops

keypoint_rcnn = pytest.importorskip("torchvision").models.detection.roi_heads

pytestmark = pytest.mark.peer


def boxes_of(count, size, dtype=torch.float64):
    boxes = random_boxes(count, size, size, torch.Generator().manual_seed(0), dtype)
    boxes[:, 2:] += 0.3
    return boxes


@pytest.mark.parametrize("size", [1.0, 40.0, 150.0])
def test_heatmaps_to_keypoints(size):
    heatmaps = torch.randn(12, 5, 56, 56, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    boxes = boxes_of(12, size)
    expected, expected_scores = keypoint_rcnn.heatmaps_to_keypoints(heatmaps, boxes)
    keypoints, scores = ops.heatmaps_to_keypoints(heatmaps, boxes)
    # torchvision stores its results in float32.
    torch.testing.assert_close(scores.float(), expected_scores.float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(keypoints.float(), expected.float(), rtol=1e-6, atol=1e-5)


def test_keypoints_to_heatmap_targets():
    generator = torch.Generator().manual_seed(2)
    boxes = boxes_of(40, 100.0, torch.float32)
    xy = torch.rand(40, 17, 2, generator=generator) * 1.2 - 0.1
    xy = boxes[:, None, :2] + xy * (boxes[:, None, 2:] - boxes[:, None, :2])
    xy[:, 0] = boxes[:, 2:]
    keypoints = torch.cat([xy, torch.randint(3, (40, 17, 1), generator=generator).float()], dim=2)
    expected, expected_valid = keypoint_rcnn.keypoints_to_heatmap(keypoints, boxes, 56)
    targets, valid = ops.keypoints_to_heatmap_targets(keypoints, boxes, 56)
    assert torch.equal(valid, expected_valid.bool())
    different = targets != expected
    # (x - x1) * (M / width) on both sides; a keypoint on a cell's border may round to the other cell.
    assert different.sum() <= 1
