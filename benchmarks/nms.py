"""NMS of scattered and of clustered boxes, and of boxes in 80 classes; Fast NMS.

The answer that ours must give is torchvision's on the CPU, also where CUDA is timed: its CUDA kernel rounds
differently and, for many boxes in classes, shifts them apart by coordinates.
"""

from collections.abc import Callable
from functools import partial

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
        name="fast_nms/4000/clustered",
        prepare=partial(_fast_nms, 4000),
        tolerance=0.0,
        against="matrix form on torchvision's IoUs",
        what="one class",
    ),
]
