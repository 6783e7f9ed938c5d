"""The detectors beside torchvision's: the same state dict gives the same detections, losses and gradients."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import pytest
import torch
from detectors import (
    CLASSES,
    SMALL,
    assert_same_findings,
    calibrate,
    detect,
    frozen_peer,
    images,
    targets,
    tiny_keypoint_peer,
    tiny_peer,
)
from torch import Tensor, nn

import maskrcnn
from maskrcnn.models.norm import norm_factory
from maskrcnn.models.resnet import BODIES, ResNet
from maskrcnn.models.weights import without_classifier

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip("torchvision").models.detection


@pytest.fixture(scope="module")
def resnet50_state(peer: Any) -> OrderedDict[str, Tensor]:
    torch.manual_seed(7)
    return calibrate(
        peer.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, **SMALL)
    )


@pytest.fixture(scope="module")
def tiny_state(peer: Any) -> OrderedDict[str, Tensor]:
    torch.manual_seed(7)
    return calibrate(tiny_peer())


def older_keys(state_dict: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """A state dict under the names from before torchvision wrapped convolutions with their activation."""

    def older(key: str) -> str:
        key = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        return re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)

    return OrderedDict((older(key), value) for key, value in state_dict.items())


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn"])
def test_resnet50_detections(peer: Any, resnet50_state: OrderedDict[str, Tensor], name: str) -> None:
    """Both generations of names load strictly; with frozen norm of epsilon 0 the detections are the same."""
    theirs = frozen_peer(peer, name)
    state_dict = OrderedDict((key, resnet50_state[key]) for key in batch_norm_keys(theirs))
    theirs.load_state_dict(state_dict, strict=True)
    plain = maskrcnn.build_model(name, num_classes=CLASSES, **SMALL)
    assert list(plain.state_dict()) == list(state_dict)
    plain.load_state_dict(state_dict, strict=True)

    older = older_keys(state_dict)
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.weight"} <= set(older)
    assert ("roi_heads.mask_head.mask_fcn1.weight" in older) == name.startswith("mask")
    ours = maskrcnn.build_model(name, weights=older, num_classes=CLASSES, **SMALL)
    assert_same_findings(ours, theirs)


def batch_norm_keys(frozen: nn.Module) -> list[str]:
    """The state dict's keys if the frozen norms were batch norms, which also count their batches."""
    keys: list[str] = []
    for key in frozen.state_dict():
        keys += [key, key.replace("running_var", "num_batches_tracked")] if "running_var" in key else [key]
    return keys


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2"])
def test_second_recipe_detections(peer: Any, name: str) -> None:
    torch.manual_seed(7)
    theirs = getattr(peer, name)(weights=None, weights_backbone=None, num_classes=CLASSES, **SMALL)
    state_dict = calibrate(theirs)
    ours = maskrcnn.build_model(name, num_classes=CLASSES, **SMALL)
    assert list(ours.state_dict()) == list(state_dict)
    ours.load_state_dict(state_dict, strict=True)
    assert_same_findings(ours, theirs)
    assert build_parameters(ours) == build_parameters(theirs)


def build_parameters(model: nn.Module) -> list[tuple[str, list[int], bool]]:
    return [(name, list(p.shape), p.requires_grad) for name, p in model.named_parameters()]


@pytest.mark.parametrize("body", [name for name in BODIES if name not in ("resnet18", "resnet50")])
def test_bodies_have_the_names_of_classifiers(body: str) -> None:
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        ours = ResNet(body, norm_factory("batch"))
        theirs = without_classifier(getattr(models, body)(weights=None).state_dict())
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.items()
    }


def test_grouped_body_gives_the_same_map() -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    theirs = models.resnext50_32x4d(weights=None).eval()
    ours = ResNet("resnext50_32x4d", norm_factory("batch")).eval()
    ours.load_state_dict(without_classifier(theirs.state_dict()), strict=True)
    x = torch.randn(1, 3, 64, 64)
    expected = nn.Sequential(*list(theirs.children())[:-2])(x)
    torch.testing.assert_close(ours(x)["3"], expected, rtol=1e-4, atol=1e-4)


def test_tiny_detections(peer: Any, tiny_state: OrderedDict[str, Tensor]) -> None:
    ours = maskrcnn.maskrcnn_tiny(num_classes=CLASSES, mask_convention="integer")
    theirs = tiny_peer()
    for model in (ours, theirs):
        model.load_state_dict(tiny_state, strict=True)
    assert_same_findings(ours, theirs)


def test_tiny_initialisation(peer: Any) -> None:
    """Fresh weights of both come from the same distributions: same spread of every large parameter. Only the logits of
    masks start otherwise."""
    theirs = dict(tiny_peer().named_parameters())
    for name, parameter in maskrcnn.maskrcnn_tiny(num_classes=CLASSES).named_parameters():
        if "mask_fcn_logits" in name:
            continue
        assert parameter.requires_grad == theirs[name].requires_grad
        if parameter.numel() >= 2000:
            torch.testing.assert_close(parameter.std(), theirs[name].std(), rtol=0.1, atol=0, msg=name)
            assert abs(parameter.mean()) < 0.1 * parameter.std(), name
        elif parameter.std() == 0 or parameter.numel() == 1:
            torch.testing.assert_close(parameter, theirs[name], msg=name)


def assert_same_training(ours: nn.Module, theirs: nn.Module) -> None:
    """With one seed and the same proposals both sample the same anchors and regions; losses, gradients agree.

    In float64: units whose sign flips with float32's rounding would change gradients by more than 1e-4.
    """
    proposals: list[list[Tensor]] = []
    ours.rpn.register_forward_hook(lambda _module, _inputs, output: proposals.append(output[0]))
    theirs.rpn.register_forward_hook(
        lambda _module, _inputs, output: ([boxes.double() for boxes in proposals[0]], output[1])
    )
    results = []
    for model in (ours, theirs):
        torch.manual_seed(11)
        losses = model.double().train()([image.double() for image in images()], targets())
        sum(losses.values()).backward()
        results.append({name: value.detach() for name, value in losses.items()})
    assert min(results[1].values()) > 0
    torch.testing.assert_close(*results, rtol=1e-5, atol=0, check_dtype=False)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    scale = torch.stack([g.norm() for g in gradients.values() if g is not None]).max()
    for name, parameter in ours.named_parameters():
        expected = gradients[name]
        assert (parameter.grad is None) == (expected is None), name
        if expected is not None:
            # A bias before a batch norm has no gradient but rounding: the floor keeps it from being compared.
            floor = 1e-6 * scale
            if name.endswith("kps_score_lowres.bias"):  # so has one that shifts all cells of a softmax
                floor = gradients[name.replace("bias", "weight")].norm()
            error = (parameter.grad - expected).norm() / expected.norm().clamp(min=floor)
            assert error < 1e-4, f"{name}: relative error of the gradient {error:.1e}"


@pytest.mark.parametrize("min_size", [192, (128, 160, 192)])
def test_tiny_training(peer: Any, tiny_state: OrderedDict[str, Tensor], min_size: Any) -> None:
    ours, theirs = (
        maskrcnn.maskrcnn_tiny(num_classes=CLASSES, min_size=min_size, mask_convention="integer"),
        tiny_peer(min_size=min_size),
    )
    for model in (ours, theirs):
        model.load_state_dict(tiny_state, strict=True)
    assert_same_training(ours, theirs)


def test_resnet50_training(peer: Any, resnet50_state: OrderedDict[str, Tensor]) -> None:
    """Frozen norm and frozen first layers, as in fine-tuning from published weights."""
    theirs = frozen_peer(peer, "maskrcnn_resnet50_fpn")
    theirs.load_state_dict(resnet50_state, strict=True)
    ours = maskrcnn.maskrcnn_resnet50_fpn(weights=resnet50_state, num_classes=CLASSES, **SMALL)
    for model in (ours, theirs):
        model.transform.min_size = (96,)
    assert_same_training(ours, theirs)


@pytest.fixture(scope="module")
def keypoint_state(peer: Any) -> OrderedDict[str, Tensor]:
    torch.manual_seed(7)
    return calibrate(
        peer.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, **SMALL)
    )


def test_keypoint_defaults(peer: Any) -> None:
    """The same parameters, trained or not, and the same sizes of images in training."""
    with torch.device("meta"):
        ours = maskrcnn.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        theirs = peer.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    assert build_parameters(ours) == build_parameters(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.transform.min_size == tuple(theirs.transform.min_size)
    assert ours.transform.max_size == theirs.transform.max_size


def test_keypoint_resnet50_detections(peer: Any, keypoint_state: OrderedDict[str, Tensor]) -> None:
    theirs = frozen_peer(peer, "keypointrcnn_resnet50_fpn")
    theirs.load_state_dict(keypoint_state, strict=True)
    ours = maskrcnn.keypointrcnn_resnet50_fpn(
        weights=older_keys(keypoint_state), num_classes=CLASSES, **SMALL
    )
    assert_same_findings(ours, theirs)


def test_keypoint_resnet50_training(peer: Any, keypoint_state: OrderedDict[str, Tensor]) -> None:
    theirs = frozen_peer(peer, "keypointrcnn_resnet50_fpn")
    theirs.load_state_dict(keypoint_state, strict=True)
    ours = maskrcnn.keypointrcnn_resnet50_fpn(weights=keypoint_state, num_classes=CLASSES, **SMALL)
    for model in (ours, theirs):
        model.transform.min_size = (96,)
    assert_same_training(ours, theirs)


def test_tiny_with_masks_and_keypoints(peer: Any) -> None:
    """Both branches in one detector, as torchvision's RoIHeads allow it: detections, losses, gradients."""
    torch.manual_seed(7)
    theirs = tiny_keypoint_peer()
    state = calibrate(theirs)
    ours = maskrcnn.keypointmaskrcnn_tiny(num_classes=CLASSES, mask_convention="integer")
    ours.load_state_dict(state, strict=True)
    assert {"masks", "keypoints", "keypoints_scores"} <= set(detect(ours)[0])
    assert_same_findings(ours, theirs)
    for model in (ours, theirs):
        model.transform.min_size = (192,)
    assert_same_training(ours, theirs)
