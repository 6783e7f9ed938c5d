"""Necks, region layers, heads and losses other than the default ones: each is a choice of a preset's parts."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.models import losses
from maskrcnn.models.detections import of_class
from maskrcnn.models.masks import SoftmaxMaskBranch
from maskrcnn.models.roi_layers import ROI_LAYERS, LevelwiseRoILayer
from maskrcnn.models.trunks import whole_resnet

SMALL = {"min_size": 64, "max_size": 96, "rpn_post_nms_top_n_test": 30, "box_detections_per_img": 20}
NECKS = ["maskrcnn_tiny", "maskrcnn_tiny_c4", "maskrcnn_tiny_c5", "maskrcnn_tiny_dc5"]


def build(name: str = "maskrcnn_tiny", **options: Any) -> maskrcnn.MaskRCNN:
    torch.manual_seed(0)
    return maskrcnn.build_model(name, **({"num_classes": 4} | SMALL | options))


def check(model: maskrcnn.MaskRCNN, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """A step reaches every parameter; detections have masks."""
    found = model.train()(images, targets)
    assert isinstance(found, dict)
    assert len(found) == 5
    sum(found.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        detections = model.eval()(images)
    assert isinstance(detections, list)
    for image, detection in zip(images, detections, strict=True):
        assert len(detection["boxes"]) > 0
        assert detection["masks"].shape == (len(detection["boxes"]), 1, *image.shape[-2:])


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize("layer", ROI_LAYERS)
def test_necks_and_region_layers(
    name: str, layer: str, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> None:
    check(build(name, roi_layer=layer, box_score_thresh=0.0), images, targets)


@pytest.mark.parametrize(
    "options",
    [
        {"box_head": "4conv1fc"},
        {"box_head": "4conv1fc", "head_norm": "group"},
        {"mask_head": "mlp2"},
        {"mask_head": "mlp3", "mask_loss": "softmax"},
        {"mask_loss": "softmax"},
        {"class_agnostic_masks": True},
        {"class_agnostic_masks": True, "mask_head": "mlp2"},
        {"class_agnostic_boxes": True},
        {"extra_level": False, "anchor_sizes": [8, 16, 32, 64]},
        {"rpn_convolutions": 2},
    ],
    ids=str,
)
def test_options(options: dict[str, Any], images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    check(build(**options, box_score_thresh=0.0), images, targets)


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [("c4", [16], 1024), ("c5", [32], 2048), ("dc5", [16], 2048), ("fpn", [4, 8, 16, 32, 64], 256)],
)
def test_strides(name: str, strides: list[int], channels: int) -> None:
    with torch.device("meta"):
        model = maskrcnn.build_model(f"maskrcnn_resnet50_{name}")
        maps = model.backbone(torch.zeros(1, 3, 128, 192))
    assert [tuple(m.shape) for m in maps.values()] == [(1, channels, 128 // s, 192 // s) for s in strides]
    anchors = model.rpn.anchor_generator.num_anchors_per_location()
    assert anchors == ([3] * 5 if name == "fpn" else [15])


def test_wrong_names_are_listed() -> None:
    for option in ("roi_layer", "box_head", "mask_head", "mask_loss"):
        with pytest.raises(ValueError, match=rf"{option}: expected one of .*, got 'soft'"):
            build(**{option: "soft"})
    with pytest.raises(TypeError, match="mask_head"):
        maskrcnn.build_model("fasterrcnn_resnet18_fpn", mask_head="fcn")
    with pytest.raises(ValueError, match=r"anchor_sizes: expected 4, one per pyramid level, got 5"):
        build(extra_level=False)


def test_modules_take_the_place_of_recipes() -> None:
    head = nn.Identity()
    assert build(mask_head=head).roi_heads.mask_head is head


def test_c4_holds_one_resnet() -> None:
    """A classifier's weights fill the body and the shared head; layers are fixed in both."""
    classifier = build("maskrcnn_tiny_c5").backbone.body.state_dict()
    assert any(name.startswith("layer4.") for name in classifier)
    model = maskrcnn.build_model(
        "maskrcnn_tiny_c4", weights_backbone=classifier | {"fc.bias": torch.zeros(3)}, res5_width=512
    )
    loaded = whole_resnet(model).state_dict()
    assert {name for name in classifier if not name.endswith("num_batches_tracked")} == set(loaded)
    assert all(torch.equal(value, classifier[name]) for name, value in loaded.items())
    assert maskrcnn.maskrcnn_tiny_c4().roi_heads.shared_head.out_channels == 64
    trained = {name.split(".")[0] for name, p in model.backbone.body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3"}
    assert all(p.requires_grad for p in model.roi_heads.shared_head.parameters())
    names = [name for name in model.state_dict() if "layer4" in name]
    assert names
    assert all(name.startswith("roi_heads.shared_head.layer4.") for name in names)


def test_shared_features_are_those_of_the_positives(
    images: list[Tensor], targets: list[dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training the mask branch takes the positives' rows instead of pooling them again."""
    model = build("maskrcnn_tiny_c4", norm="frozen").train()
    heads = model.roi_heads
    seen: dict[str, Tensor] = {}
    heads.mask_head.register_forward_hook(lambda _, inputs, __: seen.update(masks=inputs[0]))
    monkeypatch.setattr(
        heads._masks.__class__,
        "loss",
        lambda _, logits, __, boxes, *___: seen.update(boxes=torch.cat(boxes)) or logits.sum(),
    )
    features: dict[str, Tensor] = {}
    model.backbone.register_forward_hook(lambda _, __, maps: features.update(maps))
    model(images, targets)
    first = sum(len(b) for b in [seen["boxes"]])
    assert first == len(seen["masks"]) > 3
    shapes = [(64, 89), (96, 64)]
    counts = _rows_per_image(seen["boxes"], features, shapes, heads, seen["masks"])
    assert sum(counts) == first


def _rows_per_image(
    boxes: Tensor, features: dict[str, Tensor], shapes: list[tuple[int, int]], heads: Any, rows: Tensor
) -> list[int]:
    """How the boxes fall into two images so that pooling them again gives the rows; an error if none does."""
    for first in range(len(boxes) + 1):
        again = heads.shared_head(heads.mask_roi_pool(features, [boxes[:first], boxes[first:]], shapes))
        if torch.allclose(again, rows, rtol=1e-4, atol=1e-5):
            return [first, len(boxes) - first]
    raise AssertionError("the mask branch saw other features than those of its boxes")


def test_levelwise_layer_equals_the_kernel_of_all_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = {str(k): torch.randn(2, 5, 64 >> k, 96 >> k, generator=generator) for k in range(4)}
    corner = torch.rand(2, 40, 2, generator=generator) * 200
    side = torch.rand(2, 40, 2, generator=generator) ** 4 * 500
    boxes = list(torch.cat([corner, corner + side], dim=2))
    sizes = [(256, 384), (250, 300)]
    loop = LevelwiseRoILayer(partial(ops.roi_align, sampling_ratio=2), ["0", "1", "2", "3"], 7)
    kernel = ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    torch.testing.assert_close(loop(maps, boxes, sizes), kernel(maps, boxes, sizes), rtol=1e-5, atol=1e-5)
    none = [torch.zeros(0, 4)] * 2
    assert loop(maps, none, sizes).shape == (0, 5, 7, 7)


def test_softmax_loss_by_hand() -> None:
    """Three classes, one pixel: the own class 2 has 3 of 5 parts, the background 1; a quarter is the object's."""
    predictor = nn.Identity()
    scores = torch.tensor([0.0, 0.0, math.log(3)]).reshape(1, 3, 1, 1)
    branch = SoftmaxMaskBranch("continuous")
    logits = branch.logits(predictor, scores, torch.tensor([2]))
    torch.testing.assert_close(logits.exp().flatten(), torch.tensor([0.2, 0.6]))
    expected = -(0.25 * math.log(0.6) + 0.75 * math.log(0.2))
    loss = losses.softmax_mask_loss(logits, torch.full((1, 1, 1), 0.25), 1.0)
    torch.testing.assert_close(loss, torch.tensor(expected))
    (found,) = branch.detections(logits, [torch.zeros(1, 4)])
    torch.testing.assert_close(found["masks"], torch.full((1, 1, 1, 1), 0.6))


def test_one_row_serves_all_classes() -> None:
    index, labels = torch.tensor([0, 1, 1]), torch.tensor([1, 2, 0])
    each = torch.arange(6).reshape(2, 3)
    assert of_class(each, index, labels).tolist() == [1, 5, 3]
    assert of_class(each[:, :1], index, labels).tolist() == [0, 3, 3]


def test_class_agnostic_detections_share_their_boxes_and_masks(images: list[Tensor]) -> None:
    """Before suppression between classes there is none: each region gives its one box to every class."""
    model = build(
        class_agnostic_boxes=True, class_agnostic_masks=True, box_score_thresh=0.0, box_nms_thresh=1.0
    ).eval()
    model.roi_heads.detections_per_img = 10_000
    model.mask_format = "roi"
    with torch.no_grad():
        detections = model(images)
    assert isinstance(detections, list)
    for found in detections:
        boxes = [found["boxes"][found["labels"] == label] for label in (1, 2, 3)]
        masks = [found["masks"][found["labels"] == label] for label in (1, 2, 3)]
        order = [torch.tensor(sorted(range(len(b)), key=lambda i, b=b: b[i].tolist())) for b in boxes]
        for k in (1, 2):
            assert torch.equal(boxes[0][order[0]], boxes[k][order[k]])
        unique = {tuple(box.tolist()): mask for box, mask in zip(boxes[0], masks[0], strict=True)}
        for box, mask in zip(boxes[1], masks[1], strict=True):
            torch.testing.assert_close(unique[tuple(box.tolist())], mask)


@pytest.mark.parametrize(("kind", "hidden"), [("mlp2", 2), ("mlp3", 3)])
def test_mlp_mask_heads_are_the_papers(kind: str, hidden: int) -> None:
    """1024 -> 1024 (-> 1024) -> K * 28 * 28."""
    with torch.device("meta"):
        heads = maskrcnn.build_model("maskrcnn_resnet50_fpn", num_classes=81, mask_head=kind).roi_heads
    layers = [
        m for m in (*heads.mask_head.modules(), *heads.mask_predictor.modules()) if isinstance(m, nn.Linear)
    ]
    assert [layer.out_features for layer in layers] == [1024] * hidden + [81 * 28 * 28]


def test_every_preset_is_exported() -> None:
    from maskrcnn.models.builders import BUILDERS

    assert set(BUILDERS) <= set(maskrcnn.__all__)


def test_presets_differ_by_values_alone() -> None:
    """No builder is a function of its own."""
    from maskrcnn.models import BUILDERS, Preset

    assert all(isinstance(builder, Preset) for builder in BUILDERS.values())
