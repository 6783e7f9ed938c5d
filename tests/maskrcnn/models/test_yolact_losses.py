"""The losses of YOLACT beside a plain evaluation, and what training needs of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from steps import detect, train_step
from torch import Tensor
from yolact_cases import CLASSES, LOSSES, model

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models import losses
from maskrcnn.results import encode_masks


def plain_losses(detector: maskrcnn.YOLACT, images: list[Tensor], targets: list[Any]) -> dict[str, Tensor]:
    """The four losses from the definition: all anchors stored, all IoUs, bitmaps averaged to cells."""
    batch, resized = detector.transform(images, targets)
    maps = list(detector.backbone(batch.tensors).values())
    logits, deltas, coefficients = detector.head(maps)
    prototypes, semantic = detector.proto_net(maps[0]), detector.semantic(maps[0])
    anchors = []
    for level, (side, feature) in enumerate(zip((12, 24, 48, 96, 192), maps, strict=True)):
        stride = 4 * 2**level
        for y in range(feature.shape[2]):
            for x in range(feature.shape[3]):
                for ratio in (0.5, 1, 2):
                    w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                    half = torch.tensor([-w / 2, -h / 2, w / 2, h / 2]).round()
                    anchors.append(half + torch.tensor([x + 0.5, y + 0.5] * 2) * stride)
    places = torch.stack(anchors)
    sums = dict.fromkeys(LOSSES, torch.zeros(()))
    positives = cells = 0
    for i, target in enumerate(resized):
        iou = ops.box_iou(target["boxes"], places)
        best, truth = iou.max(dim=0)
        ties = (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)
        positive = (best >= 0.5) | ties
        negative = (best < 0.4) & ~ties
        wanted = torch.where(positive, target["labels"][truth], 0)
        entropy = F.cross_entropy(logits[i], wanted, reduction="none")
        count = int(positive.sum())
        hard = entropy[negative].sort(descending=True).values[: 3 * count]
        sums["loss_classifier"] = sums["loss_classifier"] + entropy[positive].sum() + hard.sum()
        code = ops.encode_boxes(target["boxes"][truth], places, (10, 10, 5, 5))
        distance = F.smooth_l1_loss(deltas[i], code, reduction="none").sum(dim=1)
        sums["loss_box_reg"] = sums["loss_box_reg"] + distance[positive].sum()
        height, width = batch.tensors.shape[-2:]
        bitmaps = torch.zeros(len(target["boxes"]), height, width)
        bitmaps[:, : target["masks"].shape[1], : target["masks"].shape[2]] = target["masks"].float()
        halves, quarters = F.avg_pool2d(bitmaps, 2), F.avg_pool2d(bitmaps, 4)
        for anchor in torch.where(positive)[0]:
            object_ = int(truth[anchor])
            probability = (coefficients[i, anchor, :, None, None] * prototypes[i]).sum(dim=0).sigmoid()
            x1, y1, x2, y2 = (target["boxes"][object_] / 2).tolist()
            total = torch.zeros(())
            for y in range(height // 2):
                for x in range(width // 2):
                    if x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2:
                        cell = probability[y, x], halves[object_, y, x]
                        total = total + F.binary_cross_entropy(*cell)
            sums["loss_mask"] = sums["loss_mask"] + total / ((x2 - x1) * (y2 - y1))
        rows, columns = (math.ceil(side / 4) for side in batch.image_sizes[i])
        for label in range(1, CLASSES):
            covered = quarters[target["labels"] == label].sum(dim=0).clamp(max=1)[:rows, :columns]
            found = semantic[i, label - 1, :rows, :columns].sigmoid()
            entropy = F.binary_cross_entropy(found, covered, reduction="sum")
            sums["loss_semantic"] = sums["loss_semantic"] + entropy
        positives, cells = positives + count, cells + rows * columns
    counts = dict.fromkeys(LOSSES, positives) | {"loss_semantic": cells}
    weights = (1, 1.5, 6.125, 1)
    return {name: w * sums[name] / counts[name] for name, w in zip(LOSSES, weights, strict=True)}


def test_losses_beside_a_plain_evaluation() -> None:
    """Images of different sizes, so that one is padded; sizes of the model, so that bitmaps are not resized."""
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(3, 32, 44, generator=generator), torch.rand(3, 40, 32, generator=generator)]
    targets = []
    for image, boxes, labels in zip(
        images,
        ([[3.0, 5, 17, 23], [15, 8, 40, 30]], [[6.0, 2, 27, 37]]),
        ([1, 3], [2]),
        strict=True,
    ):
        masks = torch.zeros(len(boxes), *image.shape[1:], dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[int(y1) : int(y2) - 3, int(x1) + 2 : int(x2)] = 1
        targets.append({"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "masks": masks})
    detector = model(min_size=32, max_size=44, norm="group").train()
    with torch.no_grad():
        found, expected = detector(images, targets), plain_losses(detector, images, targets)
    for name in LOSSES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_training_losses(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    found = train_step(model(), images, targets)
    assert list(found) == LOSSES
    assert min(found.values()) > 0


def test_encoded_masks_train_like_bitmaps(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """At the annotated size; otherwise the run lengths are finer than a resized bitmap."""
    images, targets = images[:1], targets[:1]
    detector = model(min_size=50, max_size=70)
    bitmaps = train_step(copy.deepcopy(detector), images, targets)
    encoded = EncodedMasks.of(encode_masks(targets[0]["masks"]), (50, 70))
    runs = train_step(detector, images, [{**targets[0], "masks": encoded}])
    for name in LOSSES:
        torch.testing.assert_close(bitmaps[name], runs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", ["one empty", "all empty"])
def test_images_without_objects(
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    empty: Callable[[Tensor], dict[str, Tensor]],
    which: str,
) -> None:
    """They train the classifier on their hardest negatives, and the semantic loss on background."""
    chosen: list[Any] = [targets[0] if which == "one empty" else empty(images[0]), empty(images[1])]
    chosen[1]["masks"] = EncodedMasks.of([], (80, 60))
    found = train_step(model(), images, chosen)
    assert found["loss_classifier"] > 0
    assert found["loss_semantic"] > 0
    if which == "all empty":
        assert found["loss_mask"] == found["loss_box_reg"] == 0


def test_two_processes_equal_the_joint_batch(
    images: list[Tensor], targets: list[dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image alone, divided by the mean of both counts: the average is the loss of both together."""
    images = [images[0], images[0].flip(-1)]
    targets[1] = {**targets[0], **{k: v[:1] for k, v in targets[0].items()}}
    detector = model(norm="group").train()
    counts: list[list[float]] = []
    monkeypatch.setattr(losses, "normalizer", lambda count, _: counts[-1].append(count) or 1.0)
    sums = []
    for i in range(2):
        counts.append([])
        sums.append(detector(images[i : i + 1], targets[i : i + 1]))
    mean = [(a + b) / 2 for a, b in zip(*counts, strict=True)]
    monkeypatch.undo()
    joint = detector(images, targets)
    for name, count in zip(LOSSES, (mean[0], mean[0], mean[0], mean[1]), strict=True):
        average = (sums[0][name] + sums[1][name]) / count / 2
        torch.testing.assert_close(joint[name], average, rtol=1e-4, atol=1e-5)


def test_a_choice_of_masks_stands_for_all(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """Of one object, and with coefficients that are equal at all anchors, every positive has the same loss."""
    images, targets = images[1:], targets[1:]
    found = []
    for limit in (1, 100):
        detector = model(masks_per_image=limit)
        torch.nn.init.zeros_(detector.head.mask_coefficients.weight)
        torch.nn.init.constant_(detector.head.mask_coefficients.bias, 0.3)
        found.append(detector.train()(images, targets)["loss_mask"])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_loss_weights(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    plain = train_step(model(loss_weights=(1, 1, 1, 1)), images, targets)
    for (name, loss), weight in zip(
        train_step(model(), images, targets).items(), (1, 1.5, 6.125, 1), strict=True
    ):
        torch.testing.assert_close(loss, weight * plain[name])


def test_head_norm(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """One in the head, four among the prototypes' convolutions; the others of the model stay as they are."""
    detector = model()
    train_step(detector, images, targets)
    for part, count in ((detector.head, 1), (detector.proto_net, 4), (detector.backbone, 0)):
        assert sum(isinstance(module, torch.nn.GroupNorm) for module in part.modules()) == count
    plain = model(head_norm=None)
    assert not any(isinstance(module, torch.nn.GroupNorm) for module in plain.modules())


def test_seed_fixes_training(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    detector = model(min_size=(48, 64, 80), masks_per_image=2)
    first, again = (train_step(copy.deepcopy(detector), images, targets) for _ in range(2))
    assert first == again


def test_float64(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    single = model(norm="group", box_score_thresh=0.3)
    double = copy.deepcopy(single).double()
    wide = [image.double() for image in images]
    expected, found = train_step(single, images, targets), train_step(double, wide, targets)
    for name in LOSSES:
        torch.testing.assert_close(found[name].float(), expected[name], rtol=1e-3, atol=1e-4)
    for result in detect(double, wide):
        assert result["boxes"].dtype == result["scores"].dtype == result["masks"].dtype == torch.float32


def test_autocast(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = train_step(model(), images, targets)
        results = detect(model(), images)
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    for result in results:
        assert {result[key].dtype for key in ("boxes", "scores", "masks")} == {torch.float32}
