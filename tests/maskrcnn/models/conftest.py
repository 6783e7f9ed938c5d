"""A detector small enough for tests, its images and its targets."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import maskrcnn

CLASSES = 4


@pytest.fixture
def tiny() -> Callable[..., maskrcnn.MaskRCNN]:
    """maskrcnn_tiny on images of 64 pixels, with few proposals and reproducible weights."""

    def build(num_classes: int = CLASSES, **options: Any) -> maskrcnn.MaskRCNN:
        torch.manual_seed(0)
        small = {"min_size": 64, "max_size": 96, "rpn_post_nms_top_n_test": 30, "box_detections_per_img": 20}
        return maskrcnn.maskrcnn_tiny(num_classes=num_classes, **(small | options))

    return build


@pytest.fixture
def images() -> list[Tensor]:
    """Two images of different sizes."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 50, 70, generator=generator), torch.rand(3, 80, 60, generator=generator)]


@pytest.fixture
def targets(images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Two objects in the first image, one in the second; masks fill the boxes."""
    return [
        target(images[0], [[5.0, 5, 30, 40], [35, 10, 60, 45]], [1, 3]),
        target(images[1], [[10.0, 20, 50, 70]], [2]),
    ]


def target(image: Tensor, boxes: list[list[float]], labels: list[int]) -> dict[str, Tensor]:
    masks = torch.zeros(len(boxes), *image.shape[-2:], dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
    shaped = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": shaped, "labels": torch.tensor(labels, dtype=torch.int64), "masks": masks}


@pytest.fixture
def empty() -> Callable[[Tensor], dict[str, Tensor]]:
    """The target of an image without objects."""
    return lambda image: target(image, [], [])
