"""Masks of 28 x 28 to COCO run lengths of whole images."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs
from benchmarks.harness import Case, Row, Setting, Target
from maskrcnn_ops import reference


def _bytes(encodings: list[dict[str, bytes]]) -> Tensor:
    return torch.frombuffer(bytearray(b" ".join(each["counts"] for each in encodings)), dtype=torch.uint8)


LARGE = inputs.Sizes(image=(3000, 4000), masks=30)


def _prepare(sizes: inputs.Sizes, setting: Setting) -> Case:
    sizes = inputs.QUICK if setting.quick else sizes
    masks, boxes = (tensor.to(setting.device) for tensor in inputs.masks(sizes))
    size = sizes.image

    def ours() -> Tensor:
        return _bytes(ops.masks_to_rle(masks, boxes, size, 0.5, "integer"))

    def from_bitmaps() -> Tensor:
        return _bytes(reference.encode_bitmaps(ops.paste_masks(masks, boxes, size, 0.5, "integer")))

    def peer() -> Tensor:
        from pycocotools import mask as coco_mask
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        bitmaps = paste_masks_in_image(masks, boxes, size)[:, 0] > 0.5
        columns = np.asfortranarray(bitmaps.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
        return _bytes(coco_mask.encode(columns))

    note = "held to the bytes of our own bitmaps: a pixel may differ from torchvision's in the last bit"
    # Each row of a mask is blended at each column of its box.
    count = 4 * masks.shape[2] * (boxes[:, 2] - boxes[:, 0]).sum().item()
    return Case(ours, peer if setting.peer else None, from_bitmaps, [masks, boxes], note, count)


ROWS = [
    Row(
        name="masks_to_rle",
        prepare=partial(_prepare, inputs.FULL),
        tolerance=0.0,
        targets={"cpu": Target(40.0), "cuda": Target(10.0)},
        repeats=5,
        what="100 masks of 28 x 28 at 800 x 1216; torchvision's paste_masks_in_image(...) > 0.5, pycocotools' encode",
    ),
    Row(
        name="masks_to_rle/3000 x 4000",
        prepare=partial(_prepare, LARGE),
        tolerance=0.0,
        repeats=5,
        what="the same for 30 masks at 3000 x 4000; the other's memory grows with their number, 300 take ten times it",
    ),
]
