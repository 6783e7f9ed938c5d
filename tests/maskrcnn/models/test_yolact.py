"""YOLACT: its parts by hand, its losses beside a plain evaluation, its results in every format."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.checkpoint import load_model
from maskrcnn.cli import main
from maskrcnn.cli.weights import build_with_weights
from maskrcnn.data import ShapesDataset
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models import AnchorGenerator, losses, resnet_fpn_backbone
from maskrcnn.models.prototypes import assemble, assembled_mask_loss, region_masks, semantic_loss, whole_masks
from maskrcnn.models.yolact_losses import hardest_negatives
from maskrcnn.results import encode_masks, inference, to_results

LOSSES = ["loss_classifier", "loss_box_reg", "loss_mask", "loss_semantic"]
CLASSES = 4
LN2 = math.log(2)


def model(**options: Any) -> maskrcnn.YOLACT:
    torch.manual_seed(0)
    small: dict[str, Any] = {"min_size": 64, "max_size": 96, "box_detections_per_img": 20}
    return maskrcnn.yolact_tiny(**({"num_classes": CLASSES} | small | options))


def train_step(detector: maskrcnn.YOLACT, images: list[Tensor], targets: list[Any]) -> dict[str, Tensor]:
    """One seeded forward and backward; every parameter must get a finite gradient."""
    torch.manual_seed(5)
    found = detector.train()(images, targets)
    assert isinstance(found, dict)
    assert list(found) == LOSSES
    torch.stack(list(found.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient: plain DDP would wait for it"
        assert torch.isfinite(parameter.grad).all(), name
    return found


@torch.no_grad()
def detect(detector: maskrcnn.YOLACT, images: list[Tensor]) -> list[dict[str, Any]]:
    found = detector.eval()(images)
    assert isinstance(found, list)
    return found


# ---- parts by hand -----------------------------------------------------------------------------------------


def test_assembling_by_hand() -> None:
    """A prototype of columns and one of rows; an object that takes both, and one that subtracts the second."""
    prototypes = torch.tensor([[[1.0, 2], [1, 2]], [[3, 3], [5, 5]]])
    coefficients = torch.tensor([[1.0, 0.5], [0.5, -1]])
    expected = torch.tensor([[[2.5, 3.5], [3.5, 4.5]], [[-2.5, -2], [-4.5, -4]]])
    assert torch.equal(assemble(prototypes, coefficients), expected)
    assert assemble(prototypes, torch.zeros(0, 2)).shape == (0, 2, 2)


def test_mask_loss_counts_the_cells_of_the_box_over_its_area() -> None:
    """Undecided logits cost ln 2 a cell. Box (1, 1, 3, 3) has 4 cells and area 4, whatever lies outside it."""
    logits, targets = torch.full((1, 4, 4), 1e3), torch.zeros(1, 4, 4)
    logits[:, 1:3, 1:3] = 0
    box = torch.tensor([[1.0, 1, 3, 3]])
    torch.testing.assert_close(assembled_mask_loss(logits, targets, box), torch.tensor(LN2))
    # Its left edge on the centres of column 0, its right one on those of column 2: columns 0 and 1 count.
    box = torch.tensor([[0.5, 1, 2.5, 3]])
    logits[:, 1:3, :2] = 0
    torch.testing.assert_close(assembled_mask_loss(logits, targets, box), torch.tensor(LN2))
    # Two objects are summed; one cell of the second is sure by ln 3, and right: ln 4/3 in the place of ln 2.
    logits, targets = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    targets[1, 0, 0], logits[1, 0, 0] = 1, math.log(3)
    boxes = torch.tensor([[0.0, 0, 4, 2], [0, 0, 2, 1]])
    expected = torch.tensor(LN2 + (math.log(4 / 3) + LN2) / 2)
    torch.testing.assert_close(assembled_mask_loss(logits, targets, boxes), expected)
    # A box smaller than a cell: the cell counts once, not by a factor.
    small = torch.tensor([[1.4, 1.4, 1.6, 1.6]])
    torch.testing.assert_close(assembled_mask_loss(logits[:1], targets[:1], small), torch.tensor(LN2))


def test_semantic_loss_by_hand() -> None:
    """Two objects of class 2 cover the left cell together; class 1 has none. Each cell costs ln 2 but one."""
    masks = torch.tensor([[[0.75, 0.0]], [[0.5, 0.0]]])
    logits = torch.zeros(2, 1, 2)
    logits[1, 0, 0] = math.log(3)
    loss = semantic_loss(logits, masks, torch.tensor([2, 2]))
    torch.testing.assert_close(loss, torch.tensor(3 * LN2 + math.log(4 / 3)))
    nothing = semantic_loss(torch.zeros(2, 1, 2), masks[:0], torch.zeros(0, dtype=torch.int64))
    torch.testing.assert_close(nothing, torch.tensor(4 * LN2))


def test_hardest_negatives_by_hand() -> None:
    """Of five anchors the second is positive, the fourth left out; the first is taken for class 1, the last least."""
    logits = torch.tensor([[0.0, 5, 0], [0, 9, 9], [2, 0, 1], [0, 9, 9], [4, 0, 0]])
    matches = torch.tensor([-1, 0, -1, -2, -1])
    assert hardest_negatives(logits, matches, 2).tolist() == [0, 2]
    assert hardest_negatives(logits, matches, 9).tolist() == [0, 2, 4]
    assert hardest_negatives(logits, torch.full((5,), 3), 9).tolist() == []


def test_whole_masks_are_shares_of_cells() -> None:
    """On cells of 2 x 2 pixels, of a batch that is two pixels wider than the image; encoded masks likewise."""
    mask = torch.zeros(1, 4, 6, dtype=torch.uint8)
    mask[0, :3, 1:4] = 1
    expected = torch.tensor([[[0.5, 1, 0, 0], [0.25, 0.5, 0, 0]]])
    boxes = torch.tensor([[1.0, 0, 4, 3]])
    torch.testing.assert_close(whole_masks(mask, boxes, (4, 8), (2, 4)), expected)
    encoded = EncodedMasks.of(encode_masks(mask), (4, 6))
    torch.testing.assert_close(whole_masks(encoded, boxes, (4, 8), (2, 4)), expected)
    # Mirrored, the object begins at column 2.
    flipped = torch.tensor([[[0, 1, 0.5, 0], [0, 0.5, 0.25, 0]]])
    torch.testing.assert_close(whole_masks(encoded.flip(-1), boxes, (4, 8), (2, 4)), flipped)
    assert whole_masks(mask[:0], boxes[:0], (4, 8), (2, 4)).shape == (0, 2, 4)


def test_region_masks_by_hand() -> None:
    """An object on the right half of its map: a box around the middle has it on its right, one on the left none."""
    logits = torch.full((2, 8, 8), -100.0)
    logits[:, :, 4:] = 100
    boxes = torch.tensor([[2.0, 0, 6, 8], [0, 0, 2, 2]])
    found = region_masks(logits, boxes, 4)
    assert found.shape == (2, 1, 4, 4)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 0, 1, 1]).expand(4, 4))
    assert found[1].count_nonzero() == 0
    assert region_masks(logits[:0], boxes[:0], 4).shape == (0, 1, 4, 4)


# ---- losses ------------------------------------------------------------------------------------------------


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
    before = copy.deepcopy((images, targets))
    found = train_step(model(), images, targets)
    assert min(found.values()) > 0
    for old, new in zip(before[1], targets, strict=True):
        assert all(torch.equal(old[key], new[key]) for key in old), "the caller's targets were changed"


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


# ---- results -----------------------------------------------------------------------------------------------


def test_results(images: list[Tensor]) -> None:
    for image, result in zip(images, detect(model(), images), strict=True):
        height, width = image.shape[-2:]
        count = len(result["scores"])
        assert 0 < count <= 20
        assert result["boxes"].dtype == result["scores"].dtype == result["masks"].dtype == torch.float32
        assert result["labels"].dtype == torch.int64
        assert result["masks"].shape == (count, 1, height, width)
        assert (result["scores"].diff() <= 0).all()
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert 1 <= result["labels"].min() <= result["labels"].max() <= CLASSES - 1


def test_detections_are_those_of_fast_nms(images: list[Tensor]) -> None:
    """All (anchor, class) pairs decoded with stored anchors, then Fast NMS, give the same boxes and scores."""
    detector = model(box_pre_nms_top_n=10**9, box_score_thresh=0.26).eval()
    with torch.no_grad():
        batch, _ = detector.transform(images[:1])
        maps = list(detector.backbone(batch.tensors).values())
        logits, deltas, _ = detector.head(maps)
        cells = detector.anchor_generator.cell_anchors
        start, boxes = 0, []
        for level, feature in enumerate(maps):
            stride, size = 4 * 2**level, (feature.shape[2], feature.shape[3])
            number = 3 * size[0] * size[1]
            codes = deltas[:, start : start + number] / torch.tensor([10.0, 10, 5, 5])
            boxes.append(ops.decode_grid(codes, cells[level] + stride / 2, size, stride)[0])
            start += number
    boxes = ops.clip_boxes_to_image(torch.cat(boxes), batch.image_sizes[0])
    scores = logits[0].softmax(dim=1)[:, 1:]
    pairs = boxes.repeat_interleave(3, dim=0)
    labels = torch.tensor([1, 2, 3]).repeat(len(boxes))
    keep = ops.fast_nms(
        pairs, scores.flatten(), 0.5, idxs=labels, max_output=20, score_threshold=detector.score_thresh
    )
    result = detect(detector, images[:1])[0]
    torch.testing.assert_close(result["scores"], scores.flatten()[keep])
    assert torch.equal(result["labels"], labels[keep])
    ratio = torch.tensor([70 / 89, 50 / 64] * 2)
    torch.testing.assert_close(result["boxes"], pairs[keep] * ratio, rtol=1e-4, atol=1e-3)


def test_one_image_at_a_time() -> None:
    """A batch of equal sizes gives what each of its images gives alone."""
    images = list(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    detector = model()
    for alone, together in zip(
        [detect(detector, [i])[0] for i in images], detect(detector, images), strict=True
    ):
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)


def test_mask_formats(images: list[Tensor]) -> None:
    detector = model()
    full = detect(detector, images)
    assert any((result["masks"] >= 0.5).any() for result in full)
    detector.mask_format = "roi"
    regions = detect(detector, images)
    for image, whole, part in zip(images, full, regions, strict=True):
        assert part["masks"].shape == (len(part["boxes"]), 1, 56, 56)
        assert 0 <= part["masks"].min() <= part["masks"].max() <= 1
        pasted = ops.paste_masks(part["masks"], part["boxes"], image.shape[-2:], threshold=None)
        assert torch.equal(pasted[:, None], whole["masks"])
    detector.mask_format = "bool"
    for whole, flags in zip(full, detect(detector, images), strict=True):
        assert torch.equal(flags["masks"], whole["masks"][:, 0] > 0.5)
    detector.mask_format = "rle"
    for whole, runs in zip(full, detect(detector, images), strict=True):
        assert torch.equal(ops.rle_decode(runs["masks"]), whole["masks"][:, 0] > 0.5)
    with pytest.raises(ValueError, match=r"mask_format: expected one of .*got 'polygons'"):
        detector.mask_format = "polygons"


def test_results_of_the_running_copy(images: list[Tensor]) -> None:
    """What evaluation and prediction use: the masks it encodes are the model's own."""
    detector = model(mask_format="bool")
    whole = detect(detector, images)[0]
    with inference(detector) as fast:
        found = fast(images)[0]
    torch.testing.assert_close(found["boxes"], whole["boxes"], rtol=1e-3, atol=1e-2)
    results = to_results(found, 1, (50, 70), [1, 2, 3], detector.mask_convention)
    decoded = ops.rle_decode([result["segmentation"] for result in results])
    assert (decoded != whole["masks"]).float().mean() < 1e-3


def test_no_detections(images: list[Tensor]) -> None:
    for mask_format, tail in (("full", (1, 50, 70)), ("bool", (50, 70)), ("roi", (1, 56, 56))):
        result = detect(model(box_score_thresh=1.0, mask_format=mask_format), images)[0]
        assert result["boxes"].shape == (0, 4)
        assert result["masks"].shape == (0, *tail)
    assert detect(model(box_score_thresh=1.0, mask_format="rle"), images)[0]["masks"] == []


def test_evaluation_is_deterministic(images: list[Tensor]) -> None:
    detector = model(min_size=(48, 64))
    state = torch.get_rng_state()
    first, again = detect(detector, images), detect(detector, images)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state()), "evaluation drew random numbers"


# ---- the whole ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_learns_two_pictures() -> None:
    """Boxes, classes and masks of two pictures by heart.

    Without prototypes or without coefficients the mask loss stays about 4, and most objects fill half of their
    boxes: only both together reach these figures.
    """
    dataset = ShapesDataset(2, 96, seed=3, max_objects=3)
    images, targets = map(list, zip(*(dataset[i] for i in range(2)), strict=True))
    detector = model(num_classes=5, min_size=96, mask_format="bool").train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        found = detector(images, targets)
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        history.append({name: loss.item() for name, loss in found.items()})
    first, last = history[0], history[-1]
    assert last["loss_mask"] < 1.5
    assert sum(last.values()) < 0.3 * sum(first.values())
    for result, target in zip(detect(detector, images), targets, strict=True):
        truth = target["masks"].decode()
        for box, label, mask in zip(target["boxes"], target["labels"], truth, strict=True):
            near = ops.box_iou(box[None], result["boxes"])[0] * (result["labels"] == label)
            best = result["masks"][near.argmax()]
            assert (best & mask).sum() / (best | mask).sum() > 0.8


def test_from_training_to_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands know the model by its name alone; a checkpoint rebuilds it, its bare weights load, too."""
    ShapesDataset(3, 64, seed=0).export(tmp_path)
    data = ["--images", tmp_path / "images", "--annotations", tmp_path / "instances.json", "--quiet"]
    run, out = tmp_path / "run", tmp_path / "out"

    def call(*arguments: object) -> None:
        status = main([str(argument) for argument in arguments])
        assert status == 0, capsys.readouterr().err

    recipe = ["--min-size", 64, "--max-size", 64, "--steps", 2, "--batch-size", 2, "--warmup-steps", 0]
    sizes = ["--anchor-sizes", 8, 16, 32, 64, 128, "--option", "num_prototypes=8", "--lr", 1e-4]
    sizes += ["--option", "box_score_thresh=0.1"]
    call("train", "--model", "yolact_tiny", *data, "--output", run, *recipe, *sizes)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert list(lines[0]["losses"]) == LOSSES
    call("info", run)
    assert "yolact_tiny" in capsys.readouterr().out
    call("eval", run, *data, "--output", out)
    assert {"bbox/AP", "segm/AP"} < set(json.loads((out / "figures.json").read_text())["figures"])
    call("predict", run, tmp_path / "images", "--output", out, "--quiet", "--score-threshold", "0")
    found = json.loads((out / "predictions.json").read_text())["annotations"]
    assert found
    assert all(annotation["segmentation"]["size"] == [64, 64] for annotation in found)

    detector, metadata = load_model(run / "step_00000002")
    assert isinstance(detector, maskrcnn.YOLACT)
    assert metadata.description.kwargs["num_prototypes"] == 8
    other, _ = build_with_weights("yolact_tiny", {"num_classes": 3, "num_prototypes": 8}, str(run))
    capsys.readouterr()
    assert torch.equal(other.proto_net.prototypes.weight, detector.proto_net.prototypes.weight)
    whole = model(num_classes=5)
    torch.save(whole.state_dict(), tmp_path / "bare.pth")
    call("predict", tmp_path / "bare.pth", tmp_path / "images", "--output", out, "--model", "yolact_tiny")
    listed = json.loads((out / "predictions.json").read_text())["categories"]
    assert [category["name"] for category in listed] == ["class 1", "class 2", "class 3", "class 4"]


def test_papers_preset() -> None:
    """P3 to P7 of a square of 550 pixels (padded to 576), prototypes on P3 with twice its resolution."""
    with torch.device("meta"):
        detector = maskrcnn.build_model("yolact_resnet50_fpn")
        features = detector.backbone(torch.zeros(1, 3, 576, 576))
        prototypes = detector.proto_net(features["1"])
    assert [tuple(level.shape[1:]) for level in features.values()] == [
        (256, side, side) for side in (72, 36, 18, 9, 5)
    ]
    assert prototypes.shape == (1, 32, 144, 144)
    assert detector.num_classes == 91
    assert detector.transform.new_size((480, 640)) == (550, 550)
    _, _, strides = detector._anchors(list(features.values()), (576, 576))
    assert strides == [(side, side) for side in (8, 16, 32, 64, 128)]
    assert detector.anchor_generator.sizes == ((24,), (48,), (96,), (192,), (384,))
    wide = maskrcnn.YOLACT(resnet_fpn_backbone("resnet18", 32), 2, 400, 600)
    assert wide.transform.new_size((480, 640)) == (400, 533)


def test_papers_preset_trains_and_detects(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    detector = maskrcnn.yolact_resnet50_fpn(num_classes=CLASSES, min_size=64, norm="group", mask_side=28)
    train_step(detector, images, targets)
    detector.mask_format = "roi"
    for result in detect(detector, images):
        assert result["masks"].shape[1:] == (1, 28, 28)


def test_bad_input(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    detector = model().train()
    with pytest.raises(ValueError, match=r"targets: expected one dictionary per image in training, got None"):
        detector(images)
    targets[0]["labels"][1] = 4
    with pytest.raises(ValueError, match=r"\['labels'\]\[1\]: expected 1 to 3 \(0 is background\), got 4"):
        detector(images, targets)
    del targets[0]["masks"]
    with pytest.raises(ValueError, match=r"targets\[0\]: expected a key 'masks'"):
        detector(images, targets)
    with pytest.raises(ValueError, match=r"backbone: expected an attribute out_channels"):
        maskrcnn.YOLACT(torch.nn.Identity(), 2)
    with pytest.raises(ValueError, match=r"masks_per_image: expected at least 1, got 0"):
        model(masks_per_image=0)
    with pytest.raises(ValueError, match=r"loss_weights: expected 4, got 2"):
        model(loss_weights=(1, 1))
    uneven = AnchorGenerator(((8,), (16, 24)), (1.0,))
    with pytest.raises(ValueError, match=r"rpn_anchor_generator: expected one number of anchors .*\[1, 2\]"):
        model(rpn_anchor_generator=uneven)
    with pytest.raises(ValueError, match=r"rpn_anchor_generator: .*feature maps \(5\), got sizes for 2"):
        model(rpn_anchor_generator=AnchorGenerator((16, 32))).eval()(images)
