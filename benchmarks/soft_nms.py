"""Soft-NMS, beside the reference in plain PyTorch: torchvision has none."""

from functools import partial

from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Case, Row, Setting
from maskrcnn_ops import reference


def _soft_nms(count: int, method: str, setting: Setting) -> Case:
    count = setting.count(count)
    tensors = [inputs.clustered_boxes(count, setting.sizes), inputs.scores(count)]
    boxes, scores = (each.to(setting.device) for each in tensors)

    def ours() -> tuple[Tensor, Tensor]:
        return ops.soft_nms(boxes, scores, method="linear" if method == "linear" else "gaussian")

    peer = partial(reference.soft_nms, boxes, scores, method=method)
    expected = partial(reference.soft_nms, tensors[0], tensors[1], method=method)
    least = operations.suppression(boxes, ours()[0])
    return Case(ours, peer if setting.peer else None, expected, [boxes, scores], operations=least)


ROWS = [
    Row(
        name=f"soft_nms/1000/{method}",
        prepare=partial(_soft_nms, 1000, method),
        tolerance=1e-5,
        against="our reference",
        what="1000 clustered boxes",
    )
    for method in ("linear", "gaussian")
]
