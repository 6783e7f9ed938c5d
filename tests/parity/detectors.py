"""What the tests of whole detectors share: torchvision's models, talkative weights, and the comparison."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers

CLASSES = 12
MIN_DETECTIONS, MIN_CLASSES = 50, 5
BOX_TOLERANCE = 1e-3  # pixels
SCORE_TOLERANCE = 1e-5
KEYPOINTS = 17
KEYPOINT_TOLERANCE = 1e-2  # pixels
PEAK_TOLERANCE = 1e-3  # of a logit
MASK_TOLERANCE = 1e-4  # of a probability; the masks' pixels move with the boxes
EXPLAINED = 1e-5  # a score gap or an IoU distance this small may flip a decision
MISMATCH_SHARE = 0.005
PROPOSAL_SHARE = 0.02  # of proposals: one decision of NMS that falls otherwise changes a few
NMS_THRESHOLD, SCORE_THRESHOLD = 0.5, 0.05
SMALL = {
    "min_size": 128,
    "max_size": 192,
    "rpn_post_nms_top_n_test": 200,
    "box_detections_per_img": 60,
    "box_batch_size_per_image": 64,
}


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
    """Twelve boxes with elliptic masks and keypoints in the first image, none in the second.

    Of the keypoints a third is not annotated, and some lie outside their boxes or on their edges.
    """
    generator = torch.Generator().manual_seed(4)
    corner = torch.rand(12, 2, generator=generator) * torch.tensor([180.0, 130.0])
    side = torch.rand(12, 2, generator=generator) * 60 + 10
    boxes = torch.cat([corner, corner + side], dim=1)
    y, x = torch.arange(200)[:, None] + 0.5, torch.arange(256) + 0.5
    (cx, cy), (rx, ry) = ((boxes[:, :2] + boxes[:, 2:]) / 2).T[..., None, None], (side / 2).T[..., None, None]
    masks = (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1).to(torch.uint8)
    labels = torch.randint(1, CLASSES, (12,), generator=generator)
    place = torch.rand(12, KEYPOINTS, 2, generator=generator) * 1.2 - 0.1
    place[:, 0] = torch.tensor([1.0, 0.0])
    seen = torch.randint(0, 3, (12, KEYPOINTS, 1), generator=generator)
    keypoints = torch.cat([corner[:, None] + place * side[:, None], seen], dim=2)
    empty = {"boxes": boxes[:0], "labels": labels[:0], "masks": torch.zeros(0, 240, 170, dtype=torch.uint8)}
    return [
        {"boxes": boxes, "labels": labels, "masks": masks, "keypoints": keypoints},
        {**empty, "keypoints": keypoints[:0]},
    ]


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
        index = torch.tensor(pairs)
        if "keypoints" in b:
            assert_same_keypoints(
                {name: values[index[:, 0]] for name, values in a.items()},
                {name: values[index[:, 1]] for name, values in b.items()},
            )
        if "masks" in b:
            torch.testing.assert_close(
                a["masks"][index[:, 0]], b["masks"][index[:, 1]], rtol=0, atol=MASK_TOLERANCE
            )


def assert_same_keypoints(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Of the same detections: peaks as high, and at the same place unless two of a map are equally high."""
    scores = (a["keypoints_scores"], b["keypoints_scores"])
    torch.testing.assert_close(*scores, rtol=0, atol=PEAK_TOLERANCE)
    far = (a["keypoints"] - b["keypoints"]).abs().amax(-1) > KEYPOINT_TOLERANCE
    assert far.float().mean() <= MISMATCH_SHARE, f"{int(far.sum())} of {far.numel()} keypoints"


@torch.no_grad()
def detect(model: nn.Module) -> list[dict[str, Tensor]]:
    """What the model finds in :func:`images`, in the precision of its parameters."""
    dtype = next(model.parameters()).dtype
    return model.eval()([image.to(dtype) for image in images()])


def assert_same_findings(ours: nn.Module, theirs: nn.Module) -> None:
    """Both find the same in :func:`images`, first in the region proposal networks, then in the heads.

    torchvision's heads are given our proposals once its own are seen to be the same: in float32, and by its trick of
    moving boxes apart, an IoU at the threshold decides a proposal differently on another processor.
    """
    proposals: list[list[Tensor]] = []

    def exchange(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        proposals.append(output[0])
        return (proposals[0], *output[1:])

    hooks = [model.rpn.register_forward_hook(exchange) for model in (ours, theirs)]
    found, expected = detect(ours), detect(theirs)
    for hook in hooks:
        hook.remove()
    for a, b in zip(*proposals, strict=True):
        far = (a[:, None] - b).abs().amax(-1) > BOX_TOLERANCE
        for lonely in (far.all(0), far.all(1)):
            assert lonely.float().mean() <= PROPOSAL_SHARE, f"{int(lonely.sum())} of {len(lonely)} proposals"
    assert [result.keys() for result in found] == [result.keys() for result in expected]
    assert_same_detections(found, expected)


def frozen_peer(peer: Any, name: str) -> nn.Module:
    """torchvision's detector as it is made for its published weights, without fetching them."""
    from torchvision.models import resnet50
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops import FrozenBatchNorm2d

    backbone = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 3)
    kinds = {"faster": peer.FasterRCNN, "mask": peer.MaskRCNN, "keypoint": peer.KeypointRCNN}
    model = kinds[name.partition("rcnn")[0]](backbone, num_classes=CLASSES, **SMALL)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    return model


def tiny_peer(**options: Any) -> nn.Module:
    """The architecture of maskrcnn_tiny, from torchvision's parts."""
    return peers.maskrcnn_tiny(CLASSES, **options)


def tiny_keypoint_peer(**options: Any) -> nn.Module:
    """The architecture of keypointmaskrcnn_tiny, from torchvision's parts."""
    return peers.keypointmaskrcnn_tiny(CLASSES, KEYPOINTS, **options)
