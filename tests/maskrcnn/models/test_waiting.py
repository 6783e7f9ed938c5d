"""What a GPU would have to be waited for: no stage of a detector does, up to the one reading of the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import maskrcnn
from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models import rpn, sampler

MODELS = ("maskrcnn_tiny", "msrcnn_tiny", "cascademaskrcnn_tiny", "keypointmaskrcnn_tiny")
SMALL = {"min_size": 96, "max_size": 160, "rpn_post_nms_top_n_train": 40, "rpn_post_nms_top_n_test": 30}


class NoWaiting(TorchDispatchMode):
    """Stands in for a GPU: fails at operations whose result's size, or whose return value, is data."""

    forbidden = (
        "nonzero",
        "_local_scalar_dense",
        "masked_select",
        "unique",
        "_unique2",
        "repeat_interleave.Tensor",
        "is_nonzero",
        "equal",
        "bincount",
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__
        assert name not in self.forbidden, name
        assert name.removesuffix(".default") not in self.forbidden, name
        if name.startswith(("index.", "index_put")):
            indices = [each for each in args[1] if each is not None]
            assert all(each.dtype not in (torch.bool, torch.uint8) for each in indices), f"{name} by a mask"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """On a GPU torch itself stops what waits for it."""
    if device == "cpu":
        with NoWaiting():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rpn, sampler):
        monkeypatch.setattr(module, "waits_for", lambda _: True)


def build(name: str, device: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return maskrcnn.build_model(name, num_classes=2, **SMALL, **options).to(device)


def picture(device: str, count: int = 5) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Two pictures, the second without objects."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 20], dim=1)
    masks = torch.zeros(count, 96, 128, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    keypoints = torch.cat([boxes[:, None, :2] + 3, torch.full((count, 1, 1), 2.0)], dim=2).repeat(1, 17, 1)
    target = {"boxes": boxes, "labels": torch.ones(count, dtype=torch.int64), "masks": masks}
    target["keypoints"] = keypoints
    targets = [target, {name: each[:0] for name, each in target.items()}]
    images = [torch.rand(3, 96, 128, generator=generator).to(device) for _ in targets]
    return images, [{name: each.to(device) for name, each in t.items()} for t in targets]


def encoded(targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the masks' run lengths, which lie on the host."""
    return [
        target | {"masks": EncodedMasks.of(encode(target["masks"].cpu()), target["masks"].shape[1:])}
        for target in targets
    ]


def encode(masks: Tensor) -> list[dict[str, Any]]:
    return coco_mask.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy()))


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("masks", [encoded, list])
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_waits_for_nothing(name: str, masks: Any, device: str) -> None:
    model = build(name, device).train()
    images, targets = picture(device)
    batch, targets = model.transform(images, masks(targets))
    model.predict(batch, model.backbone(batch.tensors), targets)  # what is made once is made
    with no_waiting(device):
        features = model.backbone(batch.tensors)
        _, losses = model.predict(batch, features, targets)
        torch.stack(list(losses.values())).sum().backward()
    for loss in losses.values():
        assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", MODELS)
def test_slots_left_over_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all may be sampled, both ways sample all: the same losses and gradients."""
    everything = {"rpn_batch_size_per_image": 10_000, "box_batch_size_per_image": 10_000}
    fractions = {"rpn_positive_fraction": 1.0, "box_positive_fraction": 1.0}
    found = []
    for waits in (False, True):
        for module in (rpn, sampler):
            monkeypatch.setattr(module, "waits_for", lambda _, waits=waits: waits)
        model = build(name, "cpu", norm="frozen", **everything, **fractions).train()
        losses = model(*picture("cpu"))
        torch.stack(list(losses.values())).sum().backward()
        gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
        found.append((losses, gradients))
    for counted, fixed in zip(*found, strict=True):
        assert counted.keys() == fixed.keys()
        scale = max(value.norm() for value in counted.values())
        for key, value in counted.items():
            assert (value - fixed[key]).norm() < 1e-5 * scale, key


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_detecting_waits_for_the_results_only(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name, device).eval()
    images, _ = picture(device)
    expected = model(images)
    read = []

    def reading(tensor: Tensor) -> list[int]:
        with torch.utils._python_dispatch._disable_current_modes():
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            read.append(tensor.shape)
            values = tolist(tensor)
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("error")
        return values

    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", reading)
    with no_waiting(device):
        found = model(images)
    assert read == [torch.Size([2])]  # the numbers of detections of both images
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
