"""``import maskrcnn_ops as ops`` in the place of ``torchvision.ops``, inside torchvision's own Mask R-CNN."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from detectors import assert_same_detections, calibrate, detect, frozen_peer, images, targets

import maskrcnn_ops
from benchmarks.peers import our_operators

pytestmark = pytest.mark.peer
NAME = "maskrcnn_resnet50_fpn"


class Recorder:
    """maskrcnn_ops, remembering which of its names were looked up."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.used.add(name)
        return getattr(maskrcnn_ops, name)


def test_same_detections_and_losses() -> None:
    """In float64: where float32 rounds, a proposal whose IoU lies at the threshold may go, and another is sampled."""
    peer = pytest.importorskip("torchvision").models.detection
    theirs = frozen_peer(peer, NAME)
    torch.manual_seed(7)
    state_dict = calibrate(theirs)
    ops = Recorder()
    results = []
    for operators in (nullcontext(), our_operators(ops)):
        with operators:
            model = frozen_peer(peer, NAME).double()
            model.load_state_dict(state_dict, strict=True)
            detections = detect(model)
            torch.manual_seed(11)
            losses = model.train()([image.double() for image in images()], targets())
        results.append((detections, {name: loss.item() for name, loss in losses.items()}))
    (expected, expected_losses), (detections, losses) = results
    assert_same_detections(detections, expected)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    expected_names = {
        "MultiScaleRoIAlign",
        "batched_nms",
        "box_iou",
        "clip_boxes_to_image",
        "remove_small_boxes",
    }
    assert ops.used == expected_names | {"roi_align"}
