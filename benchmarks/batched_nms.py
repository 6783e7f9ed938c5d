"""NMS of the boxes of 8 images in 80 classes, in padded batches and by an index of the image.

As in nms.py the answer is the CPU's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Case, Row, Setting, Target
from maskrcnn_ops import reference


def _padded_nms(images: int, count: int, most: int, setting: Setting) -> Case:
    """Beside torchvision's batched_nms in a loop over images, cut and padded."""
    count, threshold = setting.count(count), inputs.BATCHED_NMS_IOU
    tensors = [inputs.clustered_boxes(images * count, setting.sizes), inputs.scores(images * count)]
    boxes, scores, classes = (
        each.unflatten(0, (images, count)).to(setting.device)
        for each in (*tensors, inputs.classes(images * count))
    )

    def ours() -> Sequence[Tensor]:
        return ops.padded_nms(boxes, scores, threshold, most, classes=classes)

    def expected() -> Sequence[Tensor]:
        cpu = boxes.cpu(), scores.cpu()
        return reference.padded_nms(*cpu, iou_threshold=threshold, max_output=most, classes=classes.cpu())

    def peer() -> Sequence[Tensor]:
        import torchvision

        kept = [
            torchvision.ops.batched_nms(boxes[n], scores[n], classes[n], threshold)[:most]
            for n in range(images)
        ]
        counts = torch.tensor([len(each) for each in kept])
        return torch.stack(
            [torch.nn.functional.pad(each, (0, most - len(each)), value=-1) for each in kept]
        ), counts

    # The kept boxes of an image alone: how many it drops before its last one hangs on the order.
    each = zip(boxes, ours()[0], classes, strict=True)
    kept = [(b[chosen[chosen >= 0]], c[chosen[chosen >= 0]]) for b, chosen, c in each]
    least = operations.TEST * sum(operations.overlaps(b, b, c, c) - len(b) for b, c in kept) / 2
    reads = [boxes, scores, classes]
    return Case(ours, peer if setting.peer else None, expected, reads, operations=least)


def _batch_of_images(images: int, count: int, setting: Setting) -> Case:
    """batched_nms with an index of the image; beside torchvision's in a loop over images, as its detectors call it."""
    count, threshold = setting.count(count), inputs.BATCHED_NMS_IOU
    total = images * count
    tensors = [inputs.clustered_boxes(total, setting.sizes), inputs.scores(total), inputs.classes(total)]
    boxes, scores, classes = (each.to(setting.device) for each in tensors)
    image_idxs = torch.arange(images, device=setting.device).repeat_interleave(count)

    def ours() -> Tensor:
        return ops.batched_nms(boxes, scores, classes, threshold, image_idxs=image_idxs)

    def loop(nms: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
        parts = zip(*(each.split(count) for each in given), strict=True)
        return [nms(*part, threshold) + n * count for n, part in enumerate(parts)]

    def expected() -> Tensor:
        kept = torch.cat(loop(_peer_batched_nms if setting.peer else reference.batched_nms, *tensors))
        return kept[tensors[1][kept].argsort(descending=True)]

    least = operations.suppression(boxes, ours(), image_idxs * inputs.CLASSES + classes)
    peer = partial(loop, _peer_batched_nms, boxes, scores, classes) if setting.peer else None
    return Case(ours, peer, expected, [boxes, scores, classes, image_idxs], operations=least)


def _peer_batched_nms(*arguments: Any) -> Tensor:
    from torchvision.ops import batched_nms

    kept: Tensor = batched_nms(*arguments)
    return kept


ROWS = [
    Row(
        name="padded_nms/8 x 4000/80 classes",
        prepare=partial(_padded_nms, 8, 4000, 100),
        tolerance=0.0,
        targets={"cuda": Target(10.0)},
        what="clustered boxes, the best 100 of each image; torchvision in a loop",
    ),
    Row(
        name="batched_nms/8 x 4000/80 classes",
        prepare=partial(_batch_of_images, 8, 4000),
        tolerance=0.0,
        targets={"cuda": Target(10.0)},
        what="clustered boxes, all that are kept, images by image_idxs; torchvision in a loop, not merged by score",
        devices=("cuda",),
    ),
]
