"""Reading weights, both generations of their names, and the normalisation they decide."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.models import FrozenBatchNorm2d, ResNet
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.weights import read_weights, upgrade_keys

Build = Callable[..., maskrcnn.MaskRCNN]
# One pooled cell per region keeps the box head, most of the weights, small.
SMALL = {"num_classes": 3, "box_roi_pool": ops.MultiScaleRoIAlign(["0"], 1, 2)}


@pytest.fixture(scope="module")
def state_dict() -> Mapping[str, torch.Tensor]:
    return maskrcnn.fasterrcnn_resnet18_fpn(**SMALL).state_dict()


def body_weights(depth: int) -> dict[str, torch.Tensor]:
    """What a classification ResNet saves: the body, counts of batches, and the classifier."""
    state_dict = ResNet(f"resnet{depth}", norm_factory("batch")).state_dict()
    return {**state_dict, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


def test_older_names_are_renamed() -> None:
    older = {
        "backbone.body.conv1.weight": 0,
        "backbone.fpn.inner_blocks.2.weight": 1,
        "backbone.fpn.layer_blocks.3.bias": 2,
        "rpn.head.conv.weight": 3,
        "rpn.head.cls_logits.weight": 4,
        "roi_heads.mask_head.mask_fcn1.weight": 5,
        "roi_heads.mask_head.mask_fcn4.bias": 6,
        "roi_heads.mask_predictor.mask_fcn_logits.weight": 7,
    }
    today = {
        "backbone.body.conv1.weight": 0,
        "backbone.fpn.inner_blocks.2.0.weight": 1,
        "backbone.fpn.layer_blocks.3.0.bias": 2,
        "rpn.head.conv.0.0.weight": 3,
        "rpn.head.cls_logits.weight": 4,
        "roi_heads.mask_head.0.0.weight": 5,
        "roi_heads.mask_head.3.0.bias": 6,
        "roi_heads.mask_predictor.mask_fcn_logits.weight": 7,
    }
    assert upgrade_keys(older) == today
    assert upgrade_keys(today) == today


def test_strict_loading_names_what_is_wrong(tiny: Build) -> None:
    model = tiny()
    state_dict = model.state_dict()
    del state_dict["rpn.head.conv.0.0.weight"]
    state_dict["rpn.head.stranger"] = torch.zeros(1)
    with pytest.raises(
        RuntimeError, match=r"(?s)Missing.*rpn\.head\.conv\.0\.0\.weight.*Unexpected.*stranger"
    ):
        model.load_state_dict(state_dict)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", "wrapped.pth"])
def test_weights_from_a_file(tmp_path: Path, suffix: str, state_dict: Mapping[str, torch.Tensor]) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(dict(state_dict), path)
    else:
        torch.save({"model": state_dict} if "wrapped" in suffix else state_dict, path)
    loaded = maskrcnn.fasterrcnn_resnet18_fpn(weights=path, **SMALL).state_dict()
    assert set(state_dict) - set(loaded) == {key for key in state_dict if "num_batches_tracked" in key}
    assert all(torch.equal(value, state_dict[key]) for key, value in loaded.items())


def test_norm_follows_the_weights(state_dict: Mapping[str, torch.Tensor]) -> None:
    def norms(model: nn.Module) -> set[tuple[type, float]]:
        kinds = (nn.BatchNorm2d, FrozenBatchNorm2d, nn.GroupNorm)
        return {(type(m), m.eps) for m in model.modules() if isinstance(m, kinds)}

    with torch.device("meta"):
        assert norms(maskrcnn.fasterrcnn_resnet18_fpn()) == {(nn.BatchNorm2d, 1e-5)}
        assert norms(maskrcnn.fasterrcnn_resnet18_fpn(norm="group")) == {(nn.GroupNorm, 1e-5)}
    assert norms(maskrcnn.fasterrcnn_resnet18_fpn(state_dict, **SMALL)) == {(FrozenBatchNorm2d, 0.0)}
    own = maskrcnn.fasterrcnn_resnet18_fpn(state_dict, norm_eps=1e-5, **SMALL)
    assert norms(own) == {(FrozenBatchNorm2d, 1e-5)}
    assert norms(maskrcnn.fasterrcnn_resnet18_fpn(state_dict, norm="batch", **SMALL)) == {
        (nn.BatchNorm2d, 1e-5)
    }
    pretrained = maskrcnn.fasterrcnn_resnet18_fpn(weights_backbone=body_weights(18), **SMALL)
    assert norms(pretrained) == {(FrozenBatchNorm2d, 1e-5)}


@pytest.mark.parametrize(
    ("layers", "trained"),
    [
        (0, set()),
        (None, {"layer2", "layer3", "layer4"}),
        (4, {"layer1", "layer2", "layer3", "layer4"}),
        (5, {"conv1", "layer1", "layer2", "layer3", "layer4"}),
    ],
)
def test_trainable_layers(layers: int | None, trained: set[str]) -> None:
    weights = body_weights(18)
    model = maskrcnn.fasterrcnn_resnet18_fpn(
        weights_backbone=weights, trainable_backbone_layers=layers, **SMALL
    )
    body = model.backbone.body
    assert {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad} == trained
    assert all(p.requires_grad for p in model.rpn.parameters())
    assert torch.equal(body.layer2[0].conv1.weight, weights["layer2.0.conv1.weight"])


def test_trainable_layers_without_weights() -> None:
    with torch.device("meta"), pytest.warns(UserWarning, match="trainable_backbone_layers=2 has no effect"):
        model = maskrcnn.fasterrcnn_resnet18_fpn(trainable_backbone_layers=2, **SMALL)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"trainable_backbone_layers: expected 0 to 5, got 6"):
        maskrcnn.fasterrcnn_resnet18_fpn(
            weights_backbone=body_weights(18), trainable_backbone_layers=6, **SMALL
        )


@pytest.mark.parametrize("argument", ["weights", "weights_backbone"])
def test_nothing_is_downloaded(argument: str) -> None:
    message = rf"{argument}: expected a state dict, the path .*got 'published'"
    with pytest.raises(FileNotFoundError, match=message):
        maskrcnn.fasterrcnn_resnet18_fpn(**{argument: "published"}, **SMALL)


def test_wrong_files(tmp_path: Path, state_dict: Mapping[str, torch.Tensor]) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(
        ValueError, match=r"weights: expected a state dict \(names to tensors\) in .*list\.pth"
    ):
        read_weights(tmp_path / "list.pth")
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "module.pth")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        read_weights(tmp_path / "module.pth")
    state_dict = maskrcnn.fasterrcnn_resnet18_fpn(**SMALL).state_dict()
    with pytest.raises(
        ValueError, match=r"num_classes: expected 3, the number of classes in weights, got 91"
    ):
        maskrcnn.fasterrcnn_resnet18_fpn(weights=state_dict)


def test_frozen_norm() -> None:
    torch.manual_seed(0)
    batch, frozen = nn.BatchNorm2d(6).eval(), FrozenBatchNorm2d(6)
    for value in batch.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 2)
    state_dict = OrderedDict(batch.state_dict())
    assert "num_batches_tracked" in state_dict
    frozen.load_state_dict(state_dict, strict=True)
    assert "num_batches_tracked" in state_dict, "the caller's state dict was changed"
    x = torch.randn(2, 6, 5, 4, requires_grad=True)
    torch.testing.assert_close(frozen.train()(x), batch(x))
    assert list(frozen.parameters()) == []
    frozen.eps = 0.0
    expected = (x - frozen.running_mean[:, None, None]) / frozen.running_var.sqrt()[:, None, None]
    expected = expected * frozen.weight[:, None, None] + frozen.bias[:, None, None]
    torch.testing.assert_close(frozen(x), expected)
    frozen(x).sum().backward()
    slope = (frozen.weight / frozen.running_var.sqrt())[:, None, None].expand_as(x)
    torch.testing.assert_close(x.grad, slope)
