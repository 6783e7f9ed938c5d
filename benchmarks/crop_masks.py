"""Mask targets of 128 RoIs from 20 objects in an image of 800 x 1216."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Case, Row, Setting
from maskrcnn_ops import reference

_OBJECTS, _CORNERS = 20, 40


def _scene(setting: Setting) -> tuple[list[list[list[float]]], Tensor, Tensor]:
    """Polygons around the middles of boxes, RoIs near those boxes, the object of each RoI."""
    generator = torch.Generator().manual_seed(11)
    shrink = min(setting.sizes.shrink, 10)
    objects = inputs.boxes(max(2, _OBJECTS // shrink), setting.sizes, seed=12)
    angles = torch.linspace(0, 2 * torch.pi, _CORNERS + 1)[:-1]
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    polygons = []
    for box in objects:
        radius = 0.8 + 0.2 * torch.rand(_CORNERS, 1, generator=generator)
        corners = (box[:2] + box[2:]) / 2 + circle * radius * (box[2:] - box[:2]) / 2
        polygons.append([corners.flatten().tolist()])
    matches = torch.arange(128 // shrink) % len(objects)
    boxes = objects[matches] + torch.randn(len(matches), 4, generator=generator) * 3
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    return polygons, boxes.to(setting.device), matches.to(setting.device)


def _prepare(kind: str, setting: Setting) -> Case:
    polygons, boxes, matches = _scene(setting)
    size = setting.sizes.image
    bitmaps = reference.polygon_bitmaps(polygons, size)
    masks = bitmaps.to(setting.device) if kind == "bitmaps" else reference.encode_bitmaps(bitmaps)
    bitmaps = bitmaps.to(boxes.device)

    def ours() -> Tensor:
        if kind == "polygons":
            return ops.rasterize_polygons(polygons, boxes, 28, size, matches)
        return ops.crop_masks(masks, boxes, 28, matches)

    def from_reference() -> Tensor:
        return reference.crop_masks(bitmaps, boxes, 28, matches)

    def decoded() -> Tensor:
        from pycocotools import mask as coco_mask

        runs = masks
        if kind == "polygons":
            runs = [coco_mask.merge(coco_mask.frPyObjects(rings, *size)) for rings in polygons]
        return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(runs).transpose(2, 0, 1))).to(
            boxes.device
        )

    def peer() -> Tensor:
        from torchvision.ops import roi_align

        whole = bitmaps if kind == "bitmaps" else decoded()
        result: Tensor = roi_align(
            whole[:, None].to(boxes), torch.cat([matches[:, None].to(boxes), boxes], 1), (28, 28)
        )
        return result[:, 0]

    expected = peer if setting.peer else from_reference
    # Each pixel under a RoI enters one sum of products.
    count = 2 * operations.cells(boxes)
    return Case(ours, peer if setting.peer else None, expected, [boxes], operations=count)


ROWS = [
    Row(
        name=f"crop_masks/{kind}",
        prepare=partial(_prepare, kind),
        tolerance=1e-5,
        at_least=15.0 if kind == "polygons" else None,
        what=f"targets of 128 RoIs from {kind}, 28 x 28; pycocotools' decode and torchvision's roi_align",
    )
    for kind in ("polygons", "runs", "bitmaps")
]
