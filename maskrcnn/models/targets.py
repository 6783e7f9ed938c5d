"""Checks of what the caller passes to a detector, with errors that name the image and the value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrcnn.encoded_masks import EncodedMasks
from maskrcnn.models.images import Target


def check_images(images: Any, channels: int) -> None:
    """Raise unless ``images`` is a non-empty sequence of ``[channels, H, W]`` float or uint8 tensors."""
    if isinstance(images, Tensor) and images.dim() != 4:
        raise ValueError(
            f"images: expected a list of [{channels}, H, W] tensors, got a tensor {list(images.shape)}"
        )
    if len(images) == 0:
        raise ValueError("images: expected at least one image, got an empty list")
    for i, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise TypeError(f"images[{i}]: expected a tensor [{channels}, H, W], got {type(image).__name__}")
        if image.dim() != 3 or image.shape[0] != channels or 0 in image.shape:
            raise ValueError(f"images[{i}]: expected a tensor [{channels}, H, W], got {list(image.shape)}")
        if not (image.is_floating_point() or image.dtype == torch.uint8):
            raise TypeError(f"images[{i}]: expected floats in [0, 1] or uint8, got {image.dtype}")


def check_targets(
    targets: Any,
    images: Any,
    num_classes: int | None,
    keys: Sequence[str] = (),
    num_keypoints: int | None = None,
) -> None:
    """Raise unless ``targets`` holds one dictionary per image that training can use.

    Args:
        targets: see :data:`maskrcnn.models.images.Target`.
        images: the images, already checked.
        num_classes: K; labels must lie in 1..K-1. None leaves the upper end unchecked.
        keys: what is required beside boxes and labels: ``"masks"``, ``"keypoints"``.
        num_keypoints: that the model predicts; None leaves the number unchecked.
    """
    if targets is None:
        raise ValueError("targets: expected one dictionary per image in training, got None")
    if len(targets) != len(images):
        raise ValueError(f"targets: expected one per image ({len(images)}), got {len(targets)}")
    for i, (target, image) in enumerate(zip(targets, images, strict=True)):
        for name in ("boxes", "labels", *keys):
            if name not in target:
                raise ValueError(f"targets[{i}]: expected a key {name!r}, got {sorted(target)}")
            if isinstance(target[name], Tensor) or (
                name == "masks" and isinstance(target[name], EncodedMasks)
            ):
                continue
            expected = "a tensor or EncodedMasks" if name == "masks" else "a tensor"
            raise TypeError(f"targets[{i}][{name!r}]: expected {expected}, got {type(target[name]).__name__}")
        _check_shapes(target, i)
        if "masks" in keys:
            _check_shape(target, i, "masks", [len(target["boxes"]), *image.shape[-2:]])
        if "keypoints" in keys:
            _check_keypoints(target, i, num_keypoints)
    _check_values(targets, num_classes)


def check_proposals(proposals: Any, images: Any) -> None:
    """Raise unless ``proposals`` holds float boxes ``[P, 4]`` for every image, all finite with x1 < x2 and y1 < y2."""
    if proposals is None:
        raise ValueError(
            "proposals: expected boxes [P, 4] of each image (in training also under the targets' key 'proposals'), "
            "got None"
        )
    if len(proposals) != len(images):
        raise ValueError(f"proposals: expected one tensor per image ({len(images)}), got {len(proposals)}")
    for i, boxes in enumerate(proposals):
        if not isinstance(boxes, Tensor) or not boxes.is_floating_point():
            got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
            raise TypeError(f"proposals[{i}]: expected a tensor of floats, got {got}")
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise ValueError(f"proposals[{i}]: expected shape [P, 4], got {list(boxes.shape)}")
    joint = torch.cat([boxes.float() for boxes in proposals])
    bad = ~torch.isfinite(joint).all(dim=1) | (joint[:, 2:] <= joint[:, :2]).any(dim=1)
    if bool(bad.any()):
        row = int(torch.where(bad)[0][0])
        i = 0
        while row >= len(proposals[i]):
            row -= len(proposals[i])
            i += 1
        box = proposals[i][row].tolist()
        raise ValueError(f"proposals[{i}][{row}]: expected finite x1 < x2 and y1 < y2, got {box}")


def _check_shapes(target: Target, i: int) -> None:
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"targets[{i}]['boxes']: expected shape [L, 4], got {list(boxes.shape)}")
    if not boxes.is_floating_point():
        raise TypeError(f"targets[{i}]['boxes']: expected floats, got {boxes.dtype}")
    if labels.dtype != torch.int64:
        raise TypeError(f"targets[{i}]['labels']: expected int64, got {labels.dtype}")
    _check_shape(target, i, "labels", [len(boxes)])


def _check_shape(target: Target, i: int, name: str, expected: list[int]) -> None:
    got = list(target[name].shape)
    if got != expected:
        raise ValueError(f"targets[{i}][{name!r}]: expected shape {expected}, got {got}")


def _check_keypoints(target: Target, i: int, num_keypoints: int | None) -> None:
    keypoints = target["keypoints"]
    if not keypoints.is_floating_point():
        raise TypeError(f"targets[{i}]['keypoints']: expected floats, got {keypoints.dtype}")
    number = keypoints.shape[1] if num_keypoints is None and keypoints.dim() == 3 else num_keypoints
    _check_shape(target, i, "keypoints", [len(target["boxes"]), number or 0, 3])


def _check_values(targets: list[Target], num_classes: int | None) -> None:
    """Degenerate boxes and labels out of range; one look at the device unless something is wrong."""
    boxes = torch.cat([t["boxes"].float() for t in targets])
    labels = torch.cat([t["labels"] for t in targets])
    bad = ~torch.isfinite(boxes).all(dim=1) | (boxes[:, 2:] <= boxes[:, :2]).any(dim=1) | (labels < 1)
    if num_classes is not None:
        bad |= labels >= num_classes
    if not bool(bad.any()):
        return
    row = int(torch.where(bad)[0][0])
    i = 0
    while row >= len(targets[i]["boxes"]):
        row -= len(targets[i]["boxes"])
        i += 1
    box, label = targets[i]["boxes"][row].tolist(), int(targets[i]["labels"][row])
    if not (box[0] < box[2] < float("inf") and box[1] < box[3] < float("inf") and min(box) > -float("inf")):
        raise ValueError(f"targets[{i}]['boxes'][{row}]: expected finite x1 < x2 and y1 < y2, got {box}")
    end = "" if num_classes is None else f" to {num_classes - 1}"
    raise ValueError(f"targets[{i}]['labels'][{row}]: expected 1{end} (0 is background), got {label}")
