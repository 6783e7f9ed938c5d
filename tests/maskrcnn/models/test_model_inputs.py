"""What the detectors refuse, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maskrcnn
from maskrcnn.models import AnchorGenerator, FastRCNNPredictor, resnet_fpn_backbone

Build = Callable[..., maskrcnn.MaskRCNN]
INF = float("inf")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("boxes", torch.zeros(2, 5), r"targets\[0\]\['boxes'\]: expected shape \[L, 4\], got \[2, 5\]"),
        ("boxes", torch.zeros(2, 4, dtype=torch.int64), r"expected floats, got torch.int64"),
        ("boxes", [[0, 0, 1, 1]], r"targets\[0\]\['boxes'\]: expected a tensor, got list"),
        (
            "boxes",
            torch.tensor([[5.0, 5, 9, 9], [8, 2, 8, 4]]),
            r"\['boxes'\]\[1\]: .*got \[8.0, 2.0, 8.0, 4.0\]",
        ),
        ("boxes", torch.tensor([[5.0, 5, 9, INF], [1, 2, 8, 4]]), r"\['boxes'\]\[0\]: expected finite"),
        ("labels", torch.tensor([1, 4]), r"\['labels'\]\[1\]: expected 1 to 3 \(0 is background\), got 4"),
        ("labels", torch.tensor([0, 1]), r"\['labels'\]\[0\]: expected 1 to 3 .*got 0"),
        ("labels", torch.tensor([1, 2, 3]), r"\['labels'\]: expected shape \[2\], got \[3\]"),
        ("labels", torch.tensor([1.0, 2.0]), r"expected int64, got torch.float32"),
        ("masks", torch.zeros(2, 50, 60), r"\['masks'\]: expected shape \[2, 50, 70\], got \[2, 50, 60\]"),
        ("masks", None, r"targets\[0\]: expected a key 'masks', got \['boxes', 'labels'\]"),
    ],
)
def test_bad_targets(
    tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]], key: str, value: Any, message: str
) -> None:
    if value is None:
        del targets[0][key]
    else:
        targets[0][key] = value
    with pytest.raises((ValueError, TypeError), match=message):
        tiny().train()(images, targets)


def test_bad_box_in_a_later_image(
    tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> None:
    targets[1]["boxes"][0, 2] = -1
    with pytest.raises(ValueError, match=r"targets\[1\]\['boxes'\]\[0\]"):
        tiny().train()(images, targets)


def test_missing_targets(tiny: Build, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    with pytest.raises(ValueError, match=r"targets: expected one dictionary per image in training, got None"):
        tiny().train()(images)
    with pytest.raises(ValueError, match=r"targets: expected one per image \(2\), got 1"):
        tiny().train()(images, targets[:1])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], r"images: expected at least one image"),
        (torch.rand(3, 8, 8), r"images: expected a list of \[3, H, W\] tensors, got a tensor \[3, 8, 8\]"),
        ([torch.rand(3, 8, 8), torch.rand(1, 8, 8)], r"images\[1\]: expected .*\[3, H, W\], got \[1, 8, 8\]"),
        ([torch.rand(3, 0, 8)], r"images\[0\]: .*got \[3, 0, 8\]"),
        ([torch.zeros(3, 8, 8, dtype=torch.int32)], r"images\[0\]: expected floats .* got torch.int32"),
        (["photo.jpg"], r"images\[0\]: expected a tensor \[3, H, W\], got str"),
    ],
)
def test_bad_images(tiny: Build, images: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        tiny().eval()(images)


def test_bad_options() -> None:
    backbone = resnet_fpn_backbone("resnet18", 32)
    with pytest.raises(ValueError, match=r"backbone: expected an attribute out_channels"):
        maskrcnn.FasterRCNN(nn.Identity(), 2)
    with pytest.raises(ValueError, match=r"either num_classes or box_predictor, got neither"):
        maskrcnn.FasterRCNN(backbone)
    with pytest.raises(ValueError, match=r"either num_classes or box_predictor, got both"):
        maskrcnn.FasterRCNN(backbone, 2, box_predictor=FastRCNNPredictor(1024, 2))
    with pytest.raises(ValueError, match=r"either num_classes or mask_predictor, got neither"):
        maskrcnn.MaskRCNN(backbone, box_predictor=FastRCNNPredictor(1024, 2))
    with pytest.raises(ValueError, match=r"norm: expected one of batch, frozen, group, sync, got 'layer'"):
        maskrcnn.maskrcnn_tiny(num_classes=2, norm="layer")
    with pytest.raises(ValueError, match=r"ResNet: expected body in \['resnet101', .*\], got 'resnet19'"):
        resnet_fpn_backbone("resnet19")
    with pytest.raises(ValueError, match=r"aspect_ratios: .*each of the 2 levels of sizes, got 1"):
        AnchorGenerator(((8,), (16,)), ((1.0,),))


def test_anchor_levels_must_fit_the_backbone(tiny: Build, images: list[Tensor]) -> None:
    model = tiny(rpn_anchor_generator=AnchorGenerator((16, 32)))
    with pytest.raises(ValueError, match=r"rpn_anchor_generator: .*feature maps \(5\), got sizes for 2"):
        model.eval()(images)
