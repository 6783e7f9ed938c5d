"""``torch.compile`` of the backbone: an option of training, evaluation and prediction that changes no results."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_toys import DESCRIPTION

import maskrcnn
from maskrcnn.config import TrainingConfig
from maskrcnn.data import ShapesDataset
from maskrcnn.models.anchors import AnchorGenerator
from maskrcnn.results import inference
from maskrcnn.training import train


class Backbone(nn.Sequential):
    """Stride 8, quickly compiled."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 9, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()
        )


def detector() -> maskrcnn.MaskRCNN:
    torch.manual_seed(5)
    anchors = AnchorGenerator(((8, 16, 32),), ((0.5, 1.0, 2.0),))
    sizes = {"min_size": 64, "max_size": 96, "box_detections_per_img": 10, "box_score_thresh": 0.0}
    return maskrcnn.MaskRCNN(Backbone(), 5, rpn_anchor_generator=anchors, **sizes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_detections_are_the_same() -> None:
    model = detector().eval()
    image = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(1))
    with inference(model) as plain, inference(model, compile=True) as compiled:
        expected, found = plain([image])[0], compiled([image])[0]
        assert len(found["boxes"]) == 10
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
        assert compiled.backbone._compiled_call_impl is not None
    assert model.backbone._compiled_call_impl is None


@pytest.mark.slow
def test_training_is_the_same(tmp_path: Path) -> None:
    config = TrainingConfig(steps=2, batch_size=2, lr=0.01, flip=0.0)

    def trained(compile: bool) -> dict[str, Tensor]:
        model, dataset = detector(), ShapesDataset(4, 64, max_objects=3)
        train(
            model,
            dataset,
            dataclasses.replace(config, compile=compile),
            tmp_path / str(compile),
            description=DESCRIPTION,
            progress=False,
        )
        assert (model.backbone._compiled_call_impl is not None) == compile
        with inference(model) as copied:
            assert copied.backbone._compiled_call_impl is None
        return model.state_dict()

    plain, compiled = trained(False), trained(True)
    assert list(plain) == list(compiled)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-5, msg=name)
