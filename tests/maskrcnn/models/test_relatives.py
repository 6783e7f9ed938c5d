"""Fast R-CNN, Mask Scoring R-CNN and Cascade R-CNN as detectors: training, detections, checkpoints, combinations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from relatives_cases import LOSSES, SMALL, SMALL_RPN, build, given
from torch import Tensor

import maskrcnn
import maskrcnn_ops as ops
from maskrcnn.checkpoint import Metadata, ModelDescription, load_model, save_weights
from maskrcnn.models import losses


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_reaches_every_parameter(
    name: str,
    images: list[Tensor],
    targets: list[dict[str, Tensor]],
    empty: Callable[[Tensor], dict[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With objects, and in a batch without any: the processes of one training must agree on what has a gradient, and
    on how often they exchange a count."""
    model = build(name).train()
    exchanged: list[int] = []
    normalizer = losses.normalizer
    monkeypatch.setattr(losses, "normalizer", lambda *a: exchanged.append(1) or normalizer(*a))
    calls = []
    for batch in (targets, [empty(image) for image in images]):
        model.zero_grad()
        exchanged.clear()
        found = model(images, batch, **given(model, images))
        assert isinstance(found, dict)
        assert set(found) == {f"loss_{each}" for each in LOSSES[name]}
        calls.append(len(exchanged))
        sum(found.values()).backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
        for each in ("classifier", "classifier_3", "mask", "mask_iou"):
            if batch is targets and f"loss_{each}" in found:
                assert found[f"loss_{each}"] > 0
    assert calls[0] == calls[1] > 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["all", "none"])
def test_detections(name: str, threshold: float, images: list[Tensor]) -> None:
    model = build(name, box_score_thresh=threshold).eval()
    with torch.no_grad():
        detections = model(images, **given(model, images))
    assert isinstance(detections, list)
    for image, found in zip(images, detections, strict=True):
        number = 0 if threshold == 1 else 20
        assert found["boxes"].shape == (number, 4)
        assert found["labels"].shape == found["scores"].shape == (number,)
        if "masks" in found:
            assert found["masks"].shape == (number, 1, *image.shape[-2:])
        if "mask_scores" in found:
            assert found["mask_scores"].shape == (number,)


@pytest.mark.parametrize("name", LOSSES)
def test_float64(name: str, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model = build(name).double()
    images = [image.double() for image in images]
    found = model.train()(images, targets, **given(model, images))
    assert isinstance(found, dict)
    sum(found.values()).backward()
    with torch.no_grad():
        assert len(model.eval()(images, **given(model, images))) == 2


@pytest.mark.parametrize("name", LOSSES)
def test_checkpoint_round_trip(name: str, tmp_path: Path, images: list[Tensor]) -> None:
    """Options that went through JSON build the same model, whose weights fit."""
    options: dict[str, Any] = {"num_classes": 4, "box_score_thresh": 0.0} | SMALL
    if "cascade" in name:
        options |= {"later_iou_thresh": [0.55], "later_reg_weights": [[20, 20, 10, 10]]}
        options["later_loss_weights"] = [0.5]
    if "ms" in name:
        options |= {"mask_iou_layers": [8, 16], "mask_iou_channels": 32}
    torch.manual_seed(0)
    model = maskrcnn.build_model(name, **options).eval()
    metadata = Metadata(ModelDescription(name, json.loads(json.dumps(options))), (), step=0)
    save_weights(tmp_path / "model.safetensors", model.state_dict(), metadata)
    again, _ = load_model(tmp_path / "model.safetensors")
    again.eval()
    with torch.no_grad():
        first, second = (each(images[:1], **given(model, images[:1]))[0] for each in (model, again))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def overfit(
    model: maskrcnn.FasterRCNN, images: list[Tensor], targets: list[dict[str, Tensor]], steps: int
) -> list[dict[str, Tensor]]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 if step < 0.75 * steps else 2e-4
        found = model(images, targets, **given(model, images))
        assert isinstance(found, dict)
        optimizer.zero_grad()
        sum(found.values()).backward()
        optimizer.step()
    with torch.no_grad():
        detections = model.eval()(images, **given(model, images))
    assert isinstance(detections, list)
    return detections


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_two_images_are_learnt(name: str) -> None:
    """Bright discs and dark squares: after some steps every object is found, with its class, box and mask."""
    images, targets = synthetic()
    model = build(name, norm="group", box_score_thresh=0.5)
    for found, target in zip(overfit(model, images, targets, 80), targets, strict=True):
        iou = ops.box_iou(target["boxes"], found["boxes"])
        assert iou.shape[1] >= len(target["boxes"])
        best = iou.max(dim=1)
        assert best.values.min() > 0.75
        assert torch.equal(found["labels"][best.indices], target["labels"])
        if "masks" in found:
            masks, truth = found["masks"][best.indices, 0] >= 0.5, target["masks"].bool()
            overlap = (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))
            assert overlap.min() > 0.75
        if "mask_scores" in found:  # the head's guess at that overlap
            guess = (found["mask_scores"] / found["scores"])[best.indices]
            torch.testing.assert_close(guess, overlap, rtol=0, atol=0.15)


def synthetic() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    y, x = torch.meshgrid(torch.arange(64.0) + 0.5, torch.arange(64.0) + 0.5, indexing="ij")
    disc = ((x - 20) ** 2 + (y - 20) ** 2 < 14**2).to(torch.uint8)
    square = ((x - 44).abs().maximum((y - 42).abs()) < 15).to(torch.uint8)
    images, targets = [], []
    for masks, labels in (([disc, square], [1, 2]), ([square.flip(1)], [2])):
        image = torch.full((3, 64, 64), 0.5)
        for mask, label in zip(masks, labels, strict=True):
            image[:, mask.bool()] = 1.0 if label == 1 else 0.0
        stacked = torch.stack(masks)
        images.append(image)
        targets.append(
            {"boxes": ops.masks_to_boxes(stacked), "labels": torch.tensor(labels), "masks": stacked}
        )
        targets[-1]["boxes"][:, 2:] += 1  # pixel edges
    return images, targets


def test_parts_combine_on_one_map(images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """A cascade whose masks are judged, on C4, where all heads share the pooled features."""
    from dataclasses import replace

    from maskrcnn.models.builders import maskrcnn_tiny_c4
    from maskrcnn.models.recipes import MaskIoURecipe

    class CascadeMaskScoringRCNN(maskrcnn.MaskScoringRCNN, maskrcnn.CascadeRCNN):
        pass

    preset = replace(
        maskrcnn_tiny_c4,
        detector=CascadeMaskScoringRCNN,
        branches=(*maskrcnn_tiny_c4.branches, MaskIoURecipe((8, 8), 16)),
    )
    options = {"num_classes": 4, "class_agnostic_boxes": True, "box_score_thresh": 0.0}
    model = preset(**options, **SMALL, **SMALL_RPN).train()
    found = model(images, targets)
    assert set(found) == {f"loss_{each}" for each in LOSSES["cascademaskrcnn_tiny"] | {"mask_iou"}}
    sum(found.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        assert "mask_scores" in model.eval()(images)[0]
