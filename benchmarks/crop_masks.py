"""Mask targets of 128 RoIs from 20 objects in an image of 800 x 1216, and of 8 such images one after the other."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Case, Row, Setting, Target
from maskrcnn_ops import reference

Crop = Callable[[], Tensor]


def _image(kind: str, index: int, setting: Setting) -> tuple[Crop, Crop, Crop, Tensor]:
    """Ours, the peer's and the reference's targets of one image, and its RoIs."""
    polygons, boxes, matches = inputs.objects(setting.sizes, index)
    boxes, matches = boxes.to(setting.device), matches.to(setting.device)
    size = setting.sizes.image
    bitmaps = reference.polygon_bitmaps(polygons, size)
    masks = bitmaps.to(setting.device) if kind == "bitmaps" else reference.encode_bitmaps(bitmaps)
    bitmaps = bitmaps.to(boxes.device)

    def ours() -> Tensor:
        if kind == "polygons":
            return ops.rasterize_polygons(polygons, boxes, 28, size, matches)
        return ops.crop_masks(masks, boxes, 28, matches)

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

    return ours, peer, lambda: reference.crop_masks(bitmaps, boxes, 28, matches), boxes


def _prepare(kind: str, images: int, setting: Setting) -> Case:
    each = [_image(kind, index, setting) for index in range(setting.batch(images).images)]
    ours, peer, expected = (partial(_all, crops) for crops in list(zip(*each, strict=True))[:3])
    boxes = [image[3] for image in each]
    # Each pixel under a RoI enters one sum of products.
    count = 2 * sum(map(operations.cells, boxes))
    if not setting.peer:
        return Case(ours, None, expected, boxes, operations=count)
    return Case(ours, peer, peer, boxes, operations=count)


def _all(crops: tuple[Crop, ...]) -> list[Tensor]:
    return [crop() for crop in crops]


# Coordinates of up to 1216 pixels carry an error of 6e-5 pixels, and at a mask's edge values rise by one a pixel.
_TOLERANCE = 1e-4
_WHAT = "targets of 128 RoIs from {}, 28 x 28; pycocotools' decode and torchvision's roi_align"
ROWS = [
    *(
        Row(
            name=f"crop_masks/{kind}",
            prepare=partial(_prepare, kind, 1),
            tolerance=_TOLERANCE,
            targets={"cpu": Target(15.0)} if kind == "polygons" else {},
            what=_WHAT.format(kind),
        )
        for kind in ("polygons", "runs", "bitmaps")
    ),
    *(
        Row(
            name=f"crop_masks/{kind}/8 images",
            prepare=partial(_prepare, kind, 8),
            tolerance=_TOLERANCE,
            targets={"cuda": Target(10.0, memory_at_most=1 / 20)},
            what=f"an image at a time, {_WHAT.format(kind)}",
            devices=("cuda",),
            repeats=5,
        )
        for kind in ("polygons", "runs", "bitmaps")
    ),
]
