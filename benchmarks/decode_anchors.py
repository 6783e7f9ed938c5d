"""The RPN's proposal stage: from the maps of five levels to the 1000 best boxes of each image."""

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

import maskrcnn_ops as ops
from benchmarks import inputs, operations
from benchmarks.clock import Call, Result
from benchmarks.harness import Case, Row, Setting, Target
from maskrcnn_ops import reference

TOP, MIN_SIZE = 1000, 1e-3


def _stage(functions: Any, maps: tuple[Any, ...], sizes: inputs.Sizes) -> list[Tensor]:
    """With our operators, or with the reference's."""
    images = [sizes.image] * sizes.images
    boxes, scores, levels, counts = functions.decode_anchors(*maps, images, TOP, min_size=MIN_SIZE)
    most = min(TOP, boxes.shape[1])
    index, _ = functions.padded_nms(boxes, scores.sigmoid(), 0.7, most, classes=levels, counts=counts)
    return [own[chosen[chosen >= 0]] for own, chosen in zip(boxes, index, strict=True)]


def _peer(given: list[list[Tensor]], sizes: inputs.Sizes) -> Call:
    """Of logits, deltas and anchors by level."""
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

    count = {"training": TOP, "testing": TOP}
    logits, deltas, anchors = given
    none: Any = None
    network = RegionProposalNetwork(none, none, 0.7, 0.3, 256, 0.5, count, count, 0.7).eval()
    coder, joined = BoxCoder((1.0, 1.0, 1.0, 1.0)), torch.cat(anchors)

    def call() -> Result:
        flat_logits, flat_deltas = concat_box_prediction_layers(list(logits), list(deltas))
        decoded = coder.decode(flat_deltas, [joined] * sizes.images).view(sizes.images, -1, 4)
        images, counts = [sizes.image] * sizes.images, [len(each) for each in anchors]
        proposals: list[Tensor] = network.filter_proposals(decoded, flat_logits, images, counts)[0]
        return proposals

    return call


def _proposals(setting: Setting, layout: str, batch: int) -> Case:
    sizes = setting.batch(batch)
    images = sizes.images
    levels = inputs.pyramid(sizes, setting.device)
    count = sum(len(level.anchors) for level in levels)
    everything = inputs.scores(images * count).view(images, count).to(setting.device) * 12 - 9
    by_level = everything.split([len(level.anchors) for level in levels], dim=1)
    logits: list[Tensor] = []
    deltas: list[Tensor] = []
    for level, scores in zip(levels, by_level, strict=True):
        maps = scores.reshape(images, *level.grid, 3), level.deltas.reshape(images, *level.grid, 12)
        for target, each in zip((logits, deltas), maps, strict=True):
            target.append(each.permute(0, 3, 1, 2).contiguous(memory_format=inputs.LAYOUTS[layout]))
    anchors = [level.anchors for level in levels]
    given = (logits, deltas, [level.cell_anchors for level in levels], [level.stride for level in levels])
    decoded = images * sum(min(TOP, len(each)) for each in anchors)
    case = Case(
        partial(_stage, ops, given, sizes),
        None,
        partial(_stage, reference, given, sizes),
        [*logits, *deltas],
        operations=images * count + operations.DECODED * decoded,  # every logit is compared
    )
    if not setting.peer:
        return case
    # On CUDA torchvision shifts levels apart by coordinates, whose rounding then decides; on the CPU it does not.
    on_cpu = [[each.cpu() for each in part] for part in (logits, deltas, anchors)]
    return dataclasses.replace(
        case, peer=_peer([logits, deltas, anchors], sizes), expected=_peer(on_cpu, sizes)
    )


_WHAT = (
    "240,000 anchors on five levels, 1000 candidates a level, decoding, clipping, NMS, 1000 boxes: "
    "decode_anchors and padded_nms; torchvision's RPN after its head, its anchors made before"
)
ROWS = [
    *(
        Row(
            name=f"decode_anchors/proposals of 800 x 1216/{layout}",
            prepare=partial(_proposals, layout=layout, batch=1),
            tolerance=1e-5,
            targets={"cpu": Target(4.0)},
            what=_WHAT,
        )
        for layout in inputs.LAYOUTS
    ),
    *(
        Row(
            name=f"decode_anchors/proposals of 800 x 1216/{layout}/8 images",
            prepare=partial(_proposals, layout=layout, batch=8),
            tolerance=1e-5,
            targets={"cuda": Target(5.0)},
            what=f"8 images, of each {_WHAT}",
            devices=("cuda",),
        )
        for layout in inputs.LAYOUTS
    ),
]
