"""The detectors beside torchvision's: the same state dict gives the same detections, losses and gradients."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maskrcnn

pytestmark = pytest.mark.peer

CLASSES = 12
MIN_DETECTIONS, MIN_CLASSES = 50, 5
BOX_TOLERANCE = 1e-3  # pixels
SCORE_TOLERANCE = 1e-5
MASK_TOLERANCE = 1e-4  # of a probability; the masks' pixels move with the boxes
EXPLAINED = 1e-5  # a score gap or an IoU distance this small may flip a decision
MISMATCH_SHARE = 0.005
NMS_THRESHOLD, SCORE_THRESHOLD = 0.5, 0.05
SMALL = {
    "min_size": 128,
    "max_size": 192,
    "rpn_post_nms_top_n_test": 200,
    "box_detections_per_img": 60,
    "box_batch_size_per_image": 64,
}


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
    return calibrate(tiny_peer(peer))


def images() -> list[Tensor]:
    """Two images of different sizes: noise of two scales, so that regions differ from each other."""
    generator = torch.Generator().manual_seed(3)
    result = []
    for height, width in ((200, 256), (240, 170)):
        coarse = torch.rand(1, 3, height // 20, width // 20, generator=generator)
        coarse = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
        result.append(0.8 * coarse + 0.2 * torch.rand(3, height, width, generator=generator))
    return result


def targets() -> list[dict[str, Tensor]]:
    """Twelve boxes with elliptic masks in the first image, none in the second."""
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(12, 2, generator=generator) * torch.tensor([180.0, 130.0])
    side = torch.rand(12, 2, generator=generator) * 60 + 10
    boxes = torch.cat([corner, corner + side], dim=1)
    y, x = torch.arange(200)[:, None] + 0.5, torch.arange(256) + 0.5
    (cx, cy), (rx, ry) = ((boxes[:, :2] + boxes[:, 2:]) / 2).T[..., None, None], (side / 2).T[..., None, None]
    masks = (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1).to(torch.uint8)
    labels = torch.randint(1, CLASSES, (12,), generator=generator)
    empty = {"boxes": boxes[:0], "labels": labels[:0], "masks": torch.zeros(0, 240, 170, dtype=torch.uint8)}
    return [{"boxes": boxes, "labels": labels, "masks": masks}, empty]


@torch.no_grad()
def calibrate(model: nn.Module) -> OrderedDict[str, Tensor]:
    """Make a random model talkative and return its state dict.

    The normalisation takes the images' statistics, the outputs of the last layers are centred and spread,
    then the class scores are scaled until each image keeps enough detections of enough classes.
    """
    batch = model.transform(images())[0]
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        norm.momentum = 1.0
        # Small residuals, as after training: fifty full random layers multiply rounding errors by hundreds.
        norm.weight.uniform_(0.1, 0.2) if name.endswith("bn3") else norm.weight.uniform_(0.5, 1.0)
        norm.bias.uniform_(-0.2, 0.2)
    features = model.train().backbone(batch.tensors)
    model.eval()
    head, heads = model.rpn.head, model.roi_heads
    hidden = [head.conv(level) for level in features.values()]
    spread(head.bbox_pred, hidden, 0.3)
    spread(head.cls_logits, hidden, 2.0)
    proposals = model.rpn(batch, features)[0]
    hidden = [heads.box_head(heads.box_roi_pool(features, proposals, batch.image_sizes))]
    spread(heads.box_predictor.bbox_pred, hidden, 0.5)
    spread(heads.box_predictor.cls_score, hidden, 0.4)
    for _ in range(6):
        if all(talkative(result) for result in model(images())):
            return model.state_dict()
        heads.box_predictor.cls_score.weight.mul_(1.5)
        heads.box_predictor.cls_score.bias.mul_(1.5)
    raise AssertionError("no scale of the class scores gives enough detections")


def spread(layer: nn.Module, inputs: list[Tensor], deviation: float) -> None:
    """Give a layer's outputs zero mean and this deviation, channel by channel, over these inputs."""
    values = torch.cat([layer(x).movedim(1, -1).flatten(0, -2) for x in inputs])
    scale = deviation / values.std(0)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias.copy_((layer.bias - values.mean(0)) * scale)


def talkative(result: dict[str, Tensor]) -> bool:
    return len(result["labels"]) >= MIN_DETECTIONS and len(result["labels"].unique()) >= MIN_CLASSES


def iou(box: Tensor, others: Tensor) -> Tensor:
    shared = (
        (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0).prod(1)
    )
    area = lambda b: (b[..., 2:] - b[..., :2]).prod(-1)  # noqa: E731
    return shared / (area(box) + area(others) - shared)


def explanation(i: int, own: dict[str, Tensor], other: dict[str, Tensor]) -> str:
    """Why detection ``i`` of ``own`` may be missing in ``other``: the decision it nearly tied, or nothing."""
    score = float(own["scores"][i])
    cutoff = float(min(own["scores"].min(), other["scores"].min()))
    rivals = torch.cat(
        [iou(own["boxes"][i], r["boxes"][r["labels"] == own["labels"][i]]) for r in (own, other)]
    )
    gaps = {
        "score threshold": abs(score - SCORE_THRESHOLD),
        "score of the last kept": abs(score - cutoff),
        "IoU threshold": float((rivals - NMS_THRESHOLD).abs().min()),
    }
    name = min(gaps, key=lambda key: gaps[key])
    return f"{name} {gaps[name]:.1e} away" if gaps[name] < EXPLAINED else ""


def assert_same_detections(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> None:
    """Match detections as sets: same label, box and score within tolerance; list and explain the rest."""
    for image, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert talkative(a)
        assert talkative(b)
        near = (a["boxes"][:, None] - b["boxes"]).abs().amax(-1) <= BOX_TOLERANCE
        near &= (a["scores"][:, None] - b["scores"]).abs() <= SCORE_TOLERANCE
        near &= a["labels"][:, None] == b["labels"]
        pairs, taken = [], torch.zeros(len(b["labels"]), dtype=torch.bool)
        for i, row in enumerate(near):
            free = torch.where(row & ~taken)[0]
            if len(free):
                pairs.append((i, int(free[0])))
                taken[free[0]] = True
        mine = [i for i in range(len(a["labels"])) if i not in dict(pairs)]
        other = [int(j) for j in torch.where(~taken)[0]]
        mismatches = [(image, "ours", i, explanation(i, a, b)) for i in mine]
        mismatches += [(image, "torchvision's", j, explanation(j, b, a)) for j in other]
        assert all(why for *_, why in mismatches), mismatches
        assert len(mismatches) <= MISMATCH_SHARE * (len(a["labels"]) + len(b["labels"])), mismatches
        if "masks" in b:
            index = torch.tensor(pairs)
            torch.testing.assert_close(
                a["masks"][index[:, 0]], b["masks"][index[:, 1]], rtol=0, atol=MASK_TOLERANCE
            )


def older_keys(state_dict: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """A state dict under the names from before torchvision wrapped convolutions with their activation."""

    def older(key: str) -> str:
        key = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        return re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)

    return OrderedDict((older(key), value) for key, value in state_dict.items())


@torch.no_grad()
def detect(model: nn.Module) -> list[dict[str, Tensor]]:
    return model.eval()(images())


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
    assert_same_detections(detect(ours), detect(theirs))


def batch_norm_keys(frozen: nn.Module) -> list[str]:
    """The state dict's keys if the frozen norms were batch norms, which also count their batches."""
    keys: list[str] = []
    for key in frozen.state_dict():
        keys += [key, key.replace("running_var", "num_batches_tracked")] if "running_var" in key else [key]
    return keys


def frozen_peer(peer: Any, name: str) -> nn.Module:
    """torchvision's detector as it is made for its published weights, without fetching them."""
    from torchvision.models import resnet50
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops import FrozenBatchNorm2d

    backbone = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 3)
    detector = peer.MaskRCNN if name.startswith("mask") else peer.FasterRCNN
    model = detector(backbone, num_classes=CLASSES, **SMALL)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    return model


def tiny_peer(peer: Any, **options: Any) -> nn.Module:
    """The architecture of maskrcnn_tiny, from torchvision's parts."""
    from torchvision.models import resnet18
    from torchvision.models.detection import anchor_utils, backbone_utils, faster_rcnn, mask_rcnn
    from torchvision.ops import MultiScaleRoIAlign

    names = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = backbone_utils.BackboneWithFPN(resnet18(weights=None), names, [64, 128, 256, 512], 64)
    settings: dict[str, Any] = {
        "min_size": 256,
        "max_size": 400,
        "rpn_anchor_generator": anchor_utils.AnchorGenerator(
            ((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5
        ),
        "rpn_pre_nms_top_n_train": 1000,
        "rpn_post_nms_top_n_train": 500,
        "rpn_pre_nms_top_n_test": 1000,
        "rpn_post_nms_top_n_test": 500,
        "box_roi_pool": MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        "box_head": faster_rcnn.TwoMLPHead(64 * 49, 256),
        "box_predictor": faster_rcnn.FastRCNNPredictor(256, CLASSES),
        "box_batch_size_per_image": 128,
        "box_detections_per_img": 300,
        "mask_head": mask_rcnn.MaskRCNNHeads(64, (64, 64), 1),
        "mask_predictor": mask_rcnn.MaskRCNNPredictor(64, 64, CLASSES),
    }
    return peer.MaskRCNN(backbone, **(settings | options))


def test_tiny_detections(peer: Any, tiny_state: OrderedDict[str, Tensor]) -> None:
    ours, theirs = maskrcnn.maskrcnn_tiny(CLASSES), tiny_peer(peer)
    for model in (ours, theirs):
        model.load_state_dict(tiny_state, strict=True)
    assert_same_detections(detect(ours), detect(theirs))


def test_tiny_initialisation(peer: Any) -> None:
    """Fresh weights of both come from the same distributions: same spread of every large parameter."""
    theirs = dict(tiny_peer(peer).named_parameters())
    for name, parameter in maskrcnn.maskrcnn_tiny(CLASSES).named_parameters():
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
            error = (parameter.grad - expected).norm() / expected.norm().clamp(min=1e-6 * scale)
            assert error < 1e-4, f"{name}: relative error of the gradient {error:.1e}"


@pytest.mark.parametrize("min_size", [192, (128, 160, 192)])
def test_tiny_training(peer: Any, tiny_state: OrderedDict[str, Tensor], min_size: Any) -> None:
    ours, theirs = maskrcnn.maskrcnn_tiny(CLASSES, min_size=min_size), tiny_peer(peer, min_size=min_size)
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
