"""The RPN's proposal stage: from the maps of five levels to the 1000 best boxes of an image."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.harness import Case, Row, Setting
from maskrcnn_ops import reference

TOP, MIN_SIZE = 1000, 1e-3


def _stage(functions: Any, maps: tuple[Any, ...], size: tuple[int, int]) -> Tensor:
    """With our operators, or with the reference's."""
    boxes, scores, levels, counts = functions.decode_anchors(*maps, [size], TOP, min_size=MIN_SIZE)
    most = min(TOP, boxes.shape[1])
    index, _ = functions.padded_nms(boxes, scores.sigmoid(), 0.7, most, classes=levels, counts=counts)
    kept = index[0][index[0] >= 0]
    return boxes[0, kept]


def _peer(logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], size: tuple[int, int]) -> Any:
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

    count = {"training": TOP, "testing": TOP}
    none: Any = None
    network = RegionProposalNetwork(none, none, 0.7, 0.3, 256, 0.5, count, count, 0.7).eval()
    coder, joined = BoxCoder((1.0, 1.0, 1.0, 1.0)), torch.cat(anchors)

    def call() -> Tensor:
        flat_logits, flat_deltas = concat_box_prediction_layers(list(logits), list(deltas))
        decoded = coder.decode(flat_deltas, [joined]).view(1, -1, 4)
        return network.filter_proposals(decoded, flat_logits, [size], [len(each) for each in anchors])[0][0]

    return call


def _proposals(setting: Setting, layout: str) -> Case:
    levels = inputs.pyramid(setting.sizes, setting.device)
    everything = inputs.scores(sum(len(level.anchors) for level in levels)).to(setting.device) * 12 - 9
    logits, deltas, first = [], [], 0
    for level in levels:
        shape = (1, *level.grid, 3)
        scores = everything[first : first + len(level.anchors)].view(shape).permute(0, 3, 1, 2)
        codes = level.deltas.view(1, *level.grid, 12).permute(0, 3, 1, 2)
        first += len(level.anchors)
        logits.append(scores.contiguous(memory_format=inputs.LAYOUTS[layout]))
        deltas.append(codes.contiguous(memory_format=inputs.LAYOUTS[layout]))
    maps = (logits, deltas, [level.cell_anchors for level in levels], [level.stride for level in levels])
    size = setting.sizes.image
    peer = _peer(logits, deltas, [level.anchors for level in levels], size) if setting.peer else None
    decoded = sum(min(TOP, len(level.anchors)) for level in levels)
    return Case(
        partial(_stage, ops, maps, size),
        peer,
        peer or partial(_stage, reference, maps, size),
        [*logits, *deltas],
        operations=len(everything) + operations.DECODED * decoded,  # every logit is compared
    )


ROWS = [
    Row(
        name=f"decode_anchors/proposals of 800 x 1216/{layout}",
        prepare=partial(_proposals, layout=layout),
        tolerance=1e-5,
        at_least=4.0,
        what="240,000 anchors on five levels, 1000 candidates a level, decoding, clipping, NMS, 1000 boxes: "
        "decode_anchors and padded_nms; torchvision's RPN after its head, its anchors made before",
    )
    for layout in inputs.LAYOUTS
]
