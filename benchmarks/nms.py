"""NMS of scattered and of clustered boxes, and of boxes in 80 classes.

The answer that ours must give is torchvision's on the CPU, also where CUDA is timed: its CUDA kernel rounds
differently and, for many boxes in classes, shifts them apart by coordinates.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs
from benchmarks.harness import Case, Row, Setting
from maskrcnn_ops import reference

Boxes = Callable[[int, inputs.Sizes], Tensor]


def _nms(count: int, make_boxes: Boxes, setting: Setting) -> Case:
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
    if not setting.peer:
        return Case(ours, None, partial(getattr(reference, name), *tensors, threshold), on_device)
    import torchvision

    peer = getattr(torchvision.ops, name)
    return Case(ours, partial(peer, *on_device, threshold), partial(peer, *tensors, threshold), on_device)


def _row(count: int, name: str, make_boxes: Boxes) -> Row:
    return Row(
        name=f"nms/{count}/{name}",
        prepare=partial(_nms, count, make_boxes),
        tolerance=0.0,
        at_least=5.0 if count == 4000 else None,
        what=f"{count} {name} boxes, IoU threshold {inputs.NMS_IOU}",
    )


ROWS = [
    *(_row(count, "scattered", inputs.boxes) for count in (1000, 4000, 20000)),
    *(_row(count, "clustered", inputs.clustered_boxes) for count in (4000, 20000)),
    Row(
        name="batched_nms/20000/80 classes",
        prepare=partial(_batched_nms, 20000),
        tolerance=0.0,
        what=f"20000 clustered boxes, IoU threshold {inputs.BATCHED_NMS_IOU}",
    ),
]
