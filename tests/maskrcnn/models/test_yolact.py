"""YOLACT: its results in every format, its commands, its presets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from steps import detect, train_step
from torch import Tensor
from yolact_cases import CLASSES, LOSSES, model

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.checkpoint import load_model
from maskrcnn.cli import main
from maskrcnn.cli.weights import build_with_weights
from maskrcnn.data import ShapesDataset
from maskrcnn.models import AnchorGenerator, resnet_fpn_backbone
from maskrcnn.results import inference, to_results


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
