"""NMS of scattered and of clustered boxes, of boxes in 80 classes and in padded batches; Fast NMS.

The answer that ours must give is torchvision's on the CPU, also where CUDA is timed: its CUDA kernel rounds
differently and, for many boxes in classes, shifts them apart by coordinates.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import DEVICES, Case, Row, Setting, Target
from maskrcnn_ops import reference

Boxes = Callable[[int, inputs.Sizes], Tensor]


def prepare(count: int, make_boxes: Boxes, setting: Setting) -> Case:
    count = setting.count(count)
    return _case("nms", [make_boxes(count, setting.sizes), inputs.scores(count)], inputs.NMS_IOU, setting)


def _batched_nms(count: int, setting: Setting) -> Case:
    count = setting.count(count)
    tensors = [inputs.clustered_boxes(count, setting.sizes), inputs.scores(count), inputs.classes(count)]
    return _case("batched_nms", tensors, inputs.BATCHED_NMS_IOU, setting)


def _case(name: str, tensors: list[Tensor], threshold: float, setting: Setting) -> Case:
    """The function of this name takes the same arguments in our package, torchvision and the reference."""
    on_device = [tensor.to(setting.device) for tensor in tensors]
    ours = partial(getattr(ops, name), *on_device, threshold)
    count = operations.suppression(on_device[0], ours(), *on_device[2:])
    if not setting.peer:
        expected = partial(getattr(reference, name), *tensors, threshold)
        return Case(ours, None, expected, on_device, operations=count)
    import torchvision

    peer = getattr(torchvision.ops, name)
    expected = partial(peer, *tensors, threshold)
    return Case(ours, partial(peer, *on_device, threshold), expected, on_device, operations=count)


def _growth(count: int, times: int, setting: Setting) -> Case:
    """`count` * `times` boxes against `times` calls with `count` boxes: 1 if the time grows as the boxes do."""
    count, threshold = setting.count(count), inputs.BATCHED_NMS_IOU
    few, many = (
        [each.to(setting.device) for each in (inputs.spread_boxes(size), inputs.scores(size))]
        for size in (count, count * times)
    )

    def ours() -> Tensor:
        return ops.nms(many[0], many[1], threshold)

    def calls() -> Tensor:
        return torch.cat([ops.nms(few[0], few[1], threshold) for _ in range(times)])

    # The reference takes minutes; the tests hold large inputs to torchvision.
    least = times * operations.suppression(few[0], ops.nms(few[0], few[1], threshold))  # of one density
    return Case(ours, calls if setting.peer else None, ours, many, operations=least)


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


def _fast_nms(count: int, setting: Setting) -> Case:
    """Beside the matrix form of the paper, on torchvision's IoUs."""
    count, threshold = setting.count(count), inputs.BATCHED_NMS_IOU
    tensors = [inputs.clustered_boxes(count, setting.sizes), inputs.scores(count)]
    boxes, scores = (each.to(setting.device) for each in tensors)

    def ours() -> Tensor:
        return ops.fast_nms(boxes, scores, threshold)

    def peer() -> Tensor:
        import torchvision

        order = scores.argsort(descending=True, stable=True)
        iou = torchvision.ops.box_iou(boxes[order], boxes[order]).triu_(1)
        return order[iou.amax(0) <= threshold]

    expected = partial(reference.fast_nms, tensors[0], tensors[1], threshold)
    least = operations.suppression(boxes, ours())
    return Case(ours, peer if setting.peer else None, expected, [boxes, scores], operations=least)


_TARGETS = {
    1000: {"cpu": Target(5.0)},
    4000: {"cpu": Target(8.0)},
    20000: {"cpu": Target(12.0)},
    50000: {"cuda": Target(5.0)},
}


def _row(count: int, name: str, make_boxes: Boxes) -> Row:
    return Row(
        name=f"nms/{count}/{name}",
        prepare=partial(prepare, count, make_boxes),
        tolerance=0.0,
        targets=_TARGETS[count],
        what=f"{count} {name} boxes, IoU threshold {inputs.NMS_IOU}",
        devices=("cuda",) if count == 50000 else DEVICES,
    )


ROWS = [
    *(_row(count, "scattered", inputs.boxes) for count in _TARGETS),
    *(_row(count, "clustered", inputs.clustered_boxes) for count in _TARGETS),
    Row(
        name="batched_nms/20000/80 classes",
        prepare=partial(_batched_nms, 20000),
        tolerance=0.0,
        targets={"cpu": Target(10.0)},
        what=f"20000 clustered boxes, IoU threshold {inputs.BATCHED_NMS_IOU}",
    ),
    Row(
        name="nms/200000/spread",
        prepare=partial(_growth, 20000, 10),
        tolerance=0.0,
        targets={"cpu": Target(10 / 15)},
        against="our nms of 20000 boxes, ten times",
        what="sides of 16 to 64 pixels, uniform, one density at both sizes: growth",
    ),
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
    Row(
        name="fast_nms/4000/clustered",
        prepare=partial(_fast_nms, 4000),
        tolerance=0.0,
        against="matrix form on torchvision's IoUs",
        what="one class",
    ),
]
