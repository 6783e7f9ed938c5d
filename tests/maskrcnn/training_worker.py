"""One process of a training run, for the tests that start, kill and join processes.

``python training_worker.py OUTPUT OPTIONS_JSON``: trains a small Mask R-CNN on shapes, resuming OUTPUT.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict

import torch
from torch import Tensor, nn

import maskrcnn_ops as ops
from maskrcnn.checkpoint import ModelDescription
from maskrcnn.config import TrainingConfig
from maskrcnn.data import ShapesDataset
from maskrcnn.models import (
    AnchorGenerator,
    FastRCNNPredictor,
    MaskRCNN,
    MaskRCNNHeads,
    MaskRCNNPredictor,
    TwoMLPHead,
)
from maskrcnn.training import train

DESCRIPTION = ModelDescription("maskrcnn_tiny")  # required, though nothing here rebuilds the model
SIZE, CHANNELS, CLASSES = 64, 16, 5


class SmallBackbone(nn.Module):
    """One map of stride 4. Ballast makes checkpoints large, so that a kill can hit their writing."""

    out_channels = CHANNELS

    def __init__(self, ballast: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 5, stride=2, padding=2)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(4, CHANNELS)
        self.register_buffer("ballast", torch.zeros(ballast))

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return OrderedDict({"0": self.norm(self.second(self.first(batch).relu())).relu()})


def small_detector(samples: int, ballast: int = 0) -> MaskRCNN:
    """A complete Mask R-CNN of 36,000 parameters that samples ``samples`` anchors and regions an image."""
    return MaskRCNN(
        SmallBackbone(ballast),
        min_size=SIZE,
        max_size=SIZE,
        rpn_anchor_generator=AnchorGenerator((16,), (1.0,)),
        rpn_post_nms_top_n_train=40,
        rpn_batch_size_per_image=samples,
        box_roi_pool=ops.MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(CHANNELS * 49, 32),
        box_predictor=FastRCNNPredictor(32, CLASSES),
        box_batch_size_per_image=samples,
        mask_roi_pool=ops.MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(CHANNELS, (CHANNELS,)),
        mask_predictor=MaskRCNNPredictor(CHANNELS, CHANNELS, CLASSES),
    )


def main(output: str, config: TrainingConfig, samples: int, ballast: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = small_detector(samples, ballast)
    dataset = ShapesDataset(7, size=SIZE, seed=1)
    train(model, dataset, config, output, description=DESCRIPTION, device="cpu", progress=False)


if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    main(sys.argv[1], TrainingConfig.from_dict(options["config"]), options["samples"], options["ballast"])
